"""Codes of users and items per modality: their forms, and the means a loss takes over them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mrdib_pyg.nn.bottleneck import EncodedPosterior, Posterior
from mrdib_pyg.ops.pid_problem import split_mask

#: One modality: one tensor of rows, or one for users (if they have any) and one for items.
Rows = Tensor | tuple[Tensor | None, Tensor]
Codes = Posterior | tuple[Posterior | None, Posterior]
#: Which rows, or which users and items, have a modality.
Mask = Tensor | tuple[Tensor | None, Tensor | None] | None
Triplet = tuple[Tensor, Tensor, Tensor]


def encode(bottleneck: Callable[[Tensor], Posterior] | None, rows: Rows) -> Codes:
    r"""Applies a bottleneck to one tensor or to a pair; ``None`` is the deterministic identity."""
    if isinstance(rows, Tensor):
        return Posterior(rows, rows) if bottleneck is None else bottleneck(rows)
    user, item = rows
    if bottleneck is None:
        return None if user is None else Posterior(user, user), Posterior(item, item)
    if user is None:
        return None, bottleneck(item)
    if user.dim() != 2 or item.dim() != 2 or user.size(1) != item.size(1):
        raise ValueError(
            f'users and items of a modality must be matrices of one width, that of its bottleneck '
            f'(got {list(user.shape)} and {list(item.shape)})'
        )
    # One call for both sides: they share the space, the parameters and the noise level.
    return _split(bottleneck(torch.cat([user, item])), user.size(0))


def _split(posterior: Posterior, num_users: int) -> tuple[Posterior, Posterior]:
    size = [num_users, posterior.z.size(0) - num_users]
    parts = [[None, None] if x is None else x.split(size) for x in posterior]
    user, item = (Posterior(*part) for part in zip(*parts))
    rate = getattr(posterior, 'rate', None)
    if rate is None:
        return user, item
    rate_user, rate_item = rate.split(size)
    return EncodedPosterior.wrap(user, rate_user), EncodedPosterior.wrap(item, rate_item)


class Sides(NamedTuple):
    r"""The user and item posteriors of one modality, with the masks of the rows that have it.

    ``user`` is ``None`` where users have no code, and the same as ``item`` where both are rows of
    one id space.
    """

    user: Posterior | None
    item: Posterior
    mask_user: Tensor | None
    mask_item: Tensor | None
    is_shared: bool = False


def make_sides(
    name: str, codes: Codes | Rows, user_embedding: Tensor | None, mask: Mask = None
) -> Sides:
    r"""Tells users from items in any of the forms of a code; a plain tensor is deterministic."""
    side = _make_sides(name, codes, user_embedding, *split_mask(name, mask))
    user_rows = None if side.user is None else side.user.mu
    for rows, value in ((user_rows, side.mask_user), (side.item.mu, side.mask_item)):
        if value is None or rows is None:
            continue
        if value.dtype != torch.bool:
            raise TypeError(f"the mask of '{name}' must be boolean (got {value.dtype})")
        if value.shape != rows.shape[:1]:
            raise ValueError(
                f"the mask of '{name}' must have one value for each of the {rows.size(0)} rows of "
                f'its code (got the shape {list(value.shape)})'
            )
    return side


def _make_sides(
    name: str,
    codes: Codes | Rows,
    user_embedding: Tensor | None,
    mask_user: Tensor | None,
    mask_item: Tensor | None,
) -> Sides:
    if isinstance(codes, (Posterior, Tensor)):
        code = _wrap(codes)
        if user_embedding is None:  # users and items in one id space
            if mask_user is not None:
                raise ValueError(
                    f"'{name}' has one tensor of rows, users and items in one id space: pass one "
                    f'mask of these rows, not a pair'
                )
            return Sides(code, code, mask_item, mask_item, is_shared=True)
        codes = (None, code)
    user, item = codes
    if user is None and user_embedding is None:
        raise ValueError(
            f"users have no code in '{name}': pass 'user_embedding', the model's own user "
            f'embedding, to score with'
        )
    if user is None:
        if mask_user is not None:
            raise ValueError(
                f"users have no code in '{name}', so there is none that a mask of users could "
                f'leave out; pass the mask of the items alone'
            )
        return Sides(None, _wrap(item), None, mask_item)
    return Sides(_wrap(user), _wrap(item), mask_user, mask_item)


def make_all_sides(
    codes: Mapping[str, Codes | Rows],
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
            'a modality has one tensor of rows, users and items in one id space, and another a '
            "pair of users and items; pass one form for all, or 'user_embedding' beside codes of "
            'items alone'
        )
    for side in out.values():
        users = user_embedding if side.user is None else side.user.mu
        assert users is not None
        for key, index, num_rows in (
            ('src_index', src, users.size(0)),
            ('dst_pos_index', pos, side.item.mu.size(0)),
            ('dst_neg_index', neg, side.item.mu.size(0)),
        ):
            _check_index(key, index, num_rows)
    return out


def mean_over_batch(value: Callable[[Posterior], Tensor], side: Sides, triplet: Triplet) -> Tensor:
    r"""Returns the mean of a value per row over the 3B rows (user, positive, negative) of the
    batch, repeats counted; rows without a code, or that a mask leaves out, do not count.
    """
    src, pos, neg = triplet
    total = num_rows = side.item.mu.new_zeros(())
    for code, mask, index in (
        (side.user, side.mask_user, src),
        (side.item, side.mask_item, torch.cat([pos, neg])),
    ):
        if code is None:
            continue
        # A row counts as often as the batch reads it: no row is copied for that.
        count = code.mu.new_zeros(code.mu.size(0), dtype=_counting(code.mu.dtype))
        count = count.index_add(0, index, torch.ones_like(index, dtype=count.dtype))
        count = count if mask is None else count * mask
        total = total + (value(code) * count).sum()
        num_rows = num_rows + count.sum()
    return total / num_rows.clamp(min=1)


def _wrap(code: Posterior | Tensor) -> Posterior:
    return code if isinstance(code, Posterior) else Posterior(code, code)


def _counting(dtype: torch.dtype) -> torch.dtype:
    # Half precision cannot count beyond 256 or 2048.
    return torch.promote_types(dtype, torch.float32)


def _check_index(name: str, index: Tensor, num_rows: int) -> None:
    # Reading the largest index of a tensor on an accelerator would wait for it.
    if torch.compiler.is_compiling() or index.device.type != 'cpu' or index.numel() == 0:
        return
    low, high = index.aminmax()
    if int(low) < 0 or int(high) >= num_rows:
        raise IndexError(
            f"'{name}' reaches from {int(low)} to {int(high)} but there are {num_rows} rows; pass "
            f"indices into the rows of 'codes', not ids of another space"
        )
