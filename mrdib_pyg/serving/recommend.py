from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mrdib_pyg.nn.models.ranker import Ranker
from mrdib_pyg.ops.topk import pad_items, topk_of_padded
from mrdib_pyg.serving.user_items import UserItems


class Recommendations(NamedTuple):
    r"""The best items of a block of users: ``user [B]``, and ``item [B, k]`` and ``score [B, k]``
    by descending score. Where fewer than :obj:`k` items were left, a row ends in items of
    :obj:`-1` and scores of :math:`-\infty`.
    """

    user: Tensor
    item: Tensor
    score: Tensor


def recommend(
    model: Ranker,
    user: Tensor | None = None,
    k: int = 20,
    *,
    exclude_seen: bool = True,
    exclude: Tensor | None = None,
    allow: Tensor | None = None,
    deny: Tensor | None = None,
    batch_size: int = 1024,
) -> Iterator[Recommendations]:
    r"""Ranks all items for users, a block of users at a time: beyond the embeddings, memory depends
    on :obj:`batch_size` and :obj:`k` alone. Among equal scores the item of lower id comes first.

    Args:
        model (Recommender): A trained model.
        user (torch.Tensor, optional): The ids of the users, in the order of the result.
            (default: :obj:`None`, all)
        k (int, optional): The number of items for each user. (default: :obj:`20`)
        exclude_seen (bool, optional): If set to :obj:`False`, items of the training edges are
            candidates too. (default: :obj:`True`)
        exclude (torch.Tensor, optional): Further pairs of a user and an item to leave out,
            ``[2, n]``: :func:`known_pairs` gives those of all splits, held-out ones too.
            (default: :obj:`None`)
        allow (torch.Tensor, optional): The ids of the only items that may be recommended.
            (default: :obj:`None`, all)
        deny (torch.Tensor, optional): The ids of items that may not. (default: :obj:`None`)
        batch_size (int, optional): Users ranked at a time. (default: :obj:`1024`)

    Yields:
        Recommendations: Blocks of :obj:`batch_size` users; the columns are :obj:`k`, or the number
        of candidates where :obj:`allow` and :obj:`deny` leave fewer.

    Raises:
        ValueError: If :obj:`k` exceeds the number of items, an id does not exist, or no candidate
            is left.
    """
    # Not a generator itself: what is wrong is said when it is called, not at the first block.
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be at least 1 (got {batch_size})")
    if not 1 <= k <= model.num_items:
        raise ValueError(f"'k' must be between 1 and the {model.num_items} items (got {k})")
    user = torch.arange(model.num_users) if user is None else torch.as_tensor(user).reshape(-1)
    check_ids('user', user, model.num_users)
    user = user.long()  # 8 bits would be taken for a mask
    candidates = select_items(model.num_items, allow, deny)
    pairs = None if exclude is None else UserItems(exclude, model.num_users, model.num_items)
    return _blocks(model, user, k, exclude_seen, pairs, candidates, batch_size)


def select_items(
    num_items: int, allow: Tensor | None = None, deny: Tensor | None = None
) -> Tensor | None:
    r"""Returns the items that an allow list and a deny list leave, ascending.

    Args:
        num_items (int): The number of items.
        allow (torch.Tensor, optional): The only items that are left. (default: :obj:`None`, all)
        deny (torch.Tensor, optional): The items that are taken out. (default: :obj:`None`)

    Returns:
        torch.Tensor, optional: Their ids, or :obj:`None` for all.

    Raises:
        ValueError: If an id does not exist, or no item is left.
    """
    if allow is None and deny is None:
        return None
    keep = torch.full((num_items,), allow is None)
    for name, ids in (('allow', allow), ('deny', deny)):
        if ids is not None:
            ids = torch.as_tensor(ids).reshape(-1)
            check_ids(name, ids, num_items)
            keep[ids.long()] = name == 'allow'
    if not bool(keep.any()):
        raise ValueError(f"'allow' and 'deny' leave none of the {num_items} items")
    return keep.nonzero().view(-1)


def check_ids(name: str, ids: Tensor, size: int) -> None:
    r"""Raises :class:`ValueError` unless all ids lie in ``[0, size)``."""
    if ids.numel() == 0:  # of any type, as torch makes an empty list one of floats
        return
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"'{name}' must hold integers (got {ids.dtype})")
    if not 0 <= int(ids.min()) <= int(ids.max()) < size:
        raise ValueError(
            f"'{name}' must lie in [0, {size}) (got {int(ids.min())} to {int(ids.max())})"
        )


def restrict_pairs(pairs: Tensor, candidates: Tensor, num_items: int) -> Tensor:
    r"""Turns the items of ``[2, n]`` pairs into their places among ascending candidates; pairs of
    other items are dropped.
    """
    place = pairs.new_full((num_items,), -1)
    place[candidates] = torch.arange(candidates.numel(), device=pairs.device, dtype=pairs.dtype)
    column = place[pairs[1]]
    return torch.stack([pairs[0], column])[:, column >= 0]


@torch.no_grad()
def _blocks(
    model: Ranker,
    user: Tensor,
    k: int,
    exclude_seen: bool,
    exclude: UserItems | None,
    candidates: Tensor | None,
    batch_size: int,
) -> Iterator[Recommendations]:
    embeddings = model.embed()
    item = embeddings.item
    if candidates is not None:
        candidates = candidates.to(item.device)
        item = item[candidates]
    num_items = item.size(0)
    item = pad_items(item)
    if exclude is not None:
        exclude.to(item.device)
    for users in user.to(item.device).split(batch_size) if user.numel() > 0 else ():
        masks = [model.seen_pairs(users)] if exclude_seen else []
        if exclude is not None:
            masks.append(exclude(users))
        mask = torch.cat(masks, dim=1) if masks else None
        if mask is not None and candidates is not None:
            mask = restrict_pairs(mask, candidates, model.num_items)
        score, index = topk_of_padded(
            embeddings.user[users], item, num_items, min(k, num_items), mask
        )
        if candidates is not None:
            index = torch.where(index < 0, index, candidates[index])
        yield Recommendations(users, index, score)
