"""The rows of users and items that the terms of a batch read, and masks of those that exist."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrdib_pyg.nn.bottleneck import Codes, ModalityRows, Posterior
from mrdib_pyg.ops._fixed_shapes import has_fixed_shapes
from mrdib_pyg.ops._pid_loss import split_mask

#: Which rows, or which users and items, have a modality.
Mask = Tensor | tuple[Tensor | None, Tensor | None] | None

Triplet = tuple[Tensor, Tensor, Tensor]


class Sides(NamedTuple):
    r"""The user and item posteriors of one modality, and masks of the rows that have it.

    :obj:`user` is :obj:`None` where users have no code, and the same as :obj:`item` where both are
    rows of one id space.
    """

    user: Posterior | None
    item: Posterior
    mask_user: Tensor | None
    mask_item: Tensor | None
    is_shared: bool = False


def make_sides(
    name: str, codes: Codes | ModalityRows, user_embedding: Tensor | None, mask: Mask = None
) -> Sides:
    r"""Tells users from items in any form of a code; a plain tensor is a deterministic code."""
    mask_user, mask_item = split_mask(name, mask)
    user: Posterior | None
    is_shared = isinstance(codes, (Posterior, Tensor)) and user_embedding is None
    if is_shared:
        if mask_user is not None:
            raise ValueError(
                f"the mask of '{name}' must be one tensor, as users and items share one id space "
                f'(got a pair)'
            )
        user = item = _wrap(codes)
        mask_user = mask_item
    else:
        pair = (None, codes) if isinstance(codes, (Posterior, Tensor)) else codes
        user, item = None if pair[0] is None else _wrap(pair[0]), _wrap(pair[1])
        if user is None and user_embedding is None:
            raise ValueError(
                f"users have no code in '{name}': pass 'user_embedding', the model's own user "
                f'embedding, to score with'
            )
        if user is None and mask_user is not None:
            raise ValueError(
                f"the mask of '{name}' must cover the items alone, as users have no code there "
                f'(got a pair)'
            )
    for code, value in ((user, mask_user), (item, mask_item)):
        if value is None or code is None:
            continue
        if value.dtype != torch.bool:
            raise TypeError(f"the mask of '{name}' must be boolean (got {value.dtype})")
        if value.shape != code.mu.shape[:1]:
            raise ValueError(
                f"the mask of '{name}' must have one value for each of the {code.mu.size(0)} rows "
                f'of its code (got the shape {list(value.shape)})'
            )
    return Sides(user, item, mask_user, mask_item, is_shared)


def make_all_sides(
    codes: Mapping[str, Codes | ModalityRows],
    user_embedding: Tensor | None,
    present: Mapping[str, Mask] | None,
    triplet: Triplet,
) -> dict[str, Sides]:
    r"""Tells users from items in every modality, after checking that a batch fits them."""
    src, pos, neg = triplet
    if not src.shape == pos.shape == neg.shape:
        raise ValueError(
            f"'src_index', 'dst_pos_index' and 'dst_neg_index' must have the same shape (got "
            f'{list(src.shape)}, {list(pos.shape)} and {list(neg.shape)})'
        )
    masks = {} if present is None else present
    unknown = sorted(set(masks) - set(codes))
    if unknown:
        raise ValueError(f"'present' names {unknown}, but 'codes' has {sorted(codes)}")
    out = {
        name: make_sides(name, code, user_embedding, masks.get(name))
        for name, code in codes.items()
    }
    if len({side.is_shared for side in out.values()}) > 1:
        raise ValueError(
            "'codes' must have one form: either one tensor of rows for users and items, or pairs "
            "(got both); codes of items alone need 'user_embedding'"
        )
    for side in out.values():
        users = user_embedding if side.user is None else side.user.mu
        assert users is not None
        num_items = side.item.mu.size(0)
        _check_index('src_index', src, users.size(0))
        _check_index('dst_pos_index', pos, num_items)
        _check_index('dst_neg_index', neg, num_items)
    return out


def mean_over_batch(value: Callable[[Posterior], Tensor], side: Sides, triplet: Triplet) -> Tensor:
    r"""Returns the mean of a value per row over the 3B rows (user, positive, negative) of the
    batch, repeats counted. Rows that have no code, or that a mask leaves out, do not count.
    """
    src, pos, neg = triplet
    total = num_rows = side.item.mu.new_zeros(())
    for code, mask, index in (
        (side.user, side.mask_user, src),
        (side.item, side.mask_item, torch.cat([pos, neg])),
    ):
        if code is None:
            continue
        # Weigh each row by its count in the batch rather than gather copies. Half precision cannot
        # count beyond 256 or 2048.
        dtype = torch.promote_types(code.mu.dtype, torch.float32)
        count = code.mu.new_zeros(code.mu.size(0), dtype=dtype)
        count = count.index_add(0, index, torch.ones_like(index, dtype=dtype))
        count = count if mask is None else count * mask
        total = total + (value(code) * count).sum()
        num_rows = num_rows + count.sum()
    return total / num_rows.clamp(min=1)


def _wrap(code: Any) -> Posterior:
    return code if isinstance(code, Posterior) else Posterior(code, code)


def _check_index(name: str, index: Tensor, num_rows: int) -> None:
    # Not on an accelerator, which this would wait for.
    if torch.compiler.is_compiling() or index.device.type != 'cpu' or index.numel() == 0:
        return
    low, high = index.aminmax()
    if int(low) < 0 or int(high) >= num_rows:
        raise IndexError(
            f"'{name}' must lie in [0, {num_rows}) (got {int(low)} to {int(high)}): rows of 'codes'"
        )


def critic_rows(
    index: Tensor, num_rows: int, masks: Sequence[Tensor | None], limit: int | None
) -> Tensor:
    r"""Returns the rows that an estimator of the redundancy reads: the distinct rows of a batch
    that have both modalities, or a sample of :obj:`limit` of them.

    Where shapes must not depend on the batch, it always returns :obj:`limit` rows (at most as many
    as :obj:`index` has or there are). It fills up a smaller batch with other rows that have both
    modalities, and then with repeats.

    Args:
        index (torch.Tensor): The rows of a batch, with repeats.
        num_rows (int): The number of rows there are.
        masks (Sequence[torch.Tensor, optional]): Which rows have a modality, ``[num_rows]`` each.
        limit (int, optional): The size of a sample; :obj:`None` takes all.
    """
    if has_fixed_shapes():
        limit = index.numel() if limit is None else limit
        return _static_sample(index, num_rows, masks, min(limit, num_rows))
    # Marking takes a tenth of the time of `unique`.
    is_read = torch.zeros(num_rows, dtype=torch.bool, device=index.device)
    is_read[index] = True
    for mask in masks:
        if mask is not None:
            is_read &= mask
    index = is_read.nonzero().squeeze(1)
    if limit is not None and index.numel() > limit:
        # torch 2.13 cannot compile indexing by `randperm`.
        index = index[torch.rand(index.numel(), device=index.device).argsort()[:limit]]
    return index


def _static_sample(
    index: Tensor, num_rows: int, masks: Sequence[Tensor | None], size: int
) -> Tensor:
    # Random keys in three classes: rows of the batch, other rows, rows without a modality.
    key = torch.rand(num_rows, device=index.device) + 1
    in_batch = torch.zeros(num_rows, dtype=torch.bool, device=index.device)
    key = key - in_batch.index_fill(0, index, True).to(key.dtype)
    for mask in masks:
        if mask is not None:
            key = torch.where(mask, key, key + 2)
    key, rows = key.topk(size, largest=False)
    num_valid = (key < 2).sum().clamp(min=1)
    return rows[torch.arange(size, device=rows.device) % num_valid]
