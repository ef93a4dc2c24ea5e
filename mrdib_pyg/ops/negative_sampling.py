import torch
from torch import Tensor

from mrdib_pyg.interactions import check_pairs

_MAX_ROUNDS = 16  # of drawing and rejecting, before the users left get a list of their free items
_MAX_PAIRS = 2**22  # of a user and a candidate in these lists at a time


def encode_edges(edge_index: Tensor, num_items: int) -> Tensor:
    r"""Encodes user-item edges as the sorted codes :math:`u \cdot I + i` of
    :func:`sample_negatives`.

    Args:
        edge_index (Tensor): The edges from users to items.
        num_items (int): The number of items :math:`I`.

    Shapes:
        - **input:** :math:`(2, |\mathcal{E}|)`
        - **output:** :math:`(|\mathcal{E}|)`

    Raises:
        ValueError: If the shape is another or an id is negative or out of range.
    """
    check_pairs("'edge_index'", edge_index, (None, num_items))
    user, item = edge_index[0].long(), edge_index[1].long()
    code = user * num_items + item
    return code if bool((code[1:] >= code[:-1]).all()) else code.sort().values


@torch.no_grad()
def sample_negatives(
    user: Tensor,
    codes: Tensor,
    num_items: int,
    *,
    candidates: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draws for each user an item it has no edge to, uniformly and exactly.

    Items are drawn for all users at once, and those that hit an edge (a binary search in
    :obj:`codes`) are drawn again. After a bounded number of rounds only users of almost all items
    are left. They draw from a list of their remaining items, with the same distribution.

    Args:
        user (Tensor): The users, repeated as often as a negative is needed.
        codes (Tensor): The sorted codes of the edges, from :func:`encode_edges`.
        num_items (int): The number of items.
        candidates (Tensor, optional): The distinct items to draw from, *e.g.*, those that occur
            in training. (default: :obj:`None`, all items)
        generator (torch.Generator, optional): The generator, on the device of :obj:`user`.
            (default: :obj:`None`, the global one)

    Shapes:
        - **input:** users of any shape, codes :math:`(|\mathcal{E}|)`, candidates :math:`(C)`
        - **output:** item ids like :obj:`user`; :math:`-1` where a user has an edge to each
          candidate.

    Raises:
        ValueError: If there is no candidate, an id is out of range or not an integer, or the
            generator is on another device.
    """
    _check_ids('user', user)
    if generator is not None and generator.device.type != user.device.type:
        raise ValueError(
            f"'generator' is on {generator.device}, but 'user' on {user.device}; use "
            f"torch.Generator('{user.device.type}')"
        )
    if candidates is not None:
        _check_ids('candidates', candidates)
        candidates = candidates.long()
    if candidates is not None and candidates.numel() > 0:
        low, high = int(candidates.min()), int(candidates.max())
        if low < 0 or high >= num_items:
            raise ValueError(
                f"'candidates' has ids from {low} to {high}, but 'num_items' is {num_items}"
            )
    num_candidates = num_items if candidates is None else candidates.numel()
    if num_candidates < 1:
        name = 'num_items' if candidates is None else 'candidates'
        raise ValueError(f"'{name}' must allow at least one item to draw (got none)")

    base = user.reshape(-1).long() * num_items
    out = torch.empty_like(base)
    todo = torch.arange(base.numel(), device=base.device)
    for _ in range(_MAX_ROUNDS):
        item = torch.randint(num_candidates, todo.shape, device=base.device, generator=generator)
        if candidates is not None:
            item = candidates[item]
        out[todo] = item
        todo = todo[contains(codes, base[todo] + item)]
        if todo.numel() == 0:
            return out.view_as(user)

    if candidates is None:
        candidates = torch.arange(num_items, device=base.device)
    for rows in todo.split(max(_MAX_PAIRS // num_candidates, 1)):
        out[rows] = _enumerate(base[rows], codes, candidates, generator)
    return out.view_as(user)


def _check_ids(name: str, ids: Tensor) -> None:
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"'{name}' must hold integer ids (got {ids.dtype})")


def contains(codes: Tensor, query: Tensor) -> Tensor:
    r"""Whether each query is among the sorted codes."""
    if codes.numel() == 0:
        return torch.zeros_like(query, dtype=torch.bool)
    position = torch.searchsorted(codes, query).clamp_(max=codes.numel() - 1)
    return codes[position] == query


def _enumerate(
    base: Tensor, codes: Tensor, candidates: Tensor, generator: torch.Generator | None
) -> Tensor:
    base, inverse = base.unique(return_inverse=True)
    free = ~contains(codes, base.view(-1, 1) + candidates)
    rank = free.cumsum(dim=1)
    count = rank[inverse, -1]
    # A uniform rank among the free candidates of each row, from 1. The modulo favors low ranks by
    # less than the number of candidates over 2 ** 62.
    draw = torch.randint(2**62, count.shape, device=base.device, generator=generator)
    target = draw % count.clamp(min=1) + 1
    position = torch.searchsorted(rank[inverse], target.view(-1, 1)).view(-1)
    item = candidates[position.clamp(max=candidates.numel() - 1)]
    return item.masked_fill(count == 0, -1)
