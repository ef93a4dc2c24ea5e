from collections.abc import Sequence

import torch
from torch import Tensor

from mrdib_pyg.ops.edge_cosine import edge_cosine
from mrdib_pyg.ops.item_features import check_item_features
from mrdib_pyg.ops.normalize_rows import normalize_rows
from mrdib_pyg.ops.topk import stable_topk

RULES = ('public', 'unrecorded')
# Attractions that one chunk of items, and candidates that one chunk of users, may hold.
_MAX_SCORES = 2**23
# Attractions closer than this may stand in the wrong order in float32.
_TOLERANCE = 1e-5
# Users with more items than this are compared with all items rather than by lists.
_MAX_LISTED = 64

Masks = Sequence[Tensor | None]


@torch.no_grad()
def second_order_edges(
    edge_index: Tensor,
    features: Sequence[Tensor],
    k: int,
    rule: str = 'public',
    *,
    num_users: int,
    masks: Masks | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Computes the second-order edges of "SOIL: Contrastive Second-Order Interest Learning for
    Multimodal Recommendation" (ACM Multimedia 2024), from users to items that those they know
    attract,

    .. math::
        \Phi_{ij} = \prod_m \max(0, \cos(\mathbf{x}_{m,i}, \mathbf{x}_{m,j}))

    over the modalities that both items have. By the rule :obj:`"public"`, that of the public
    code, each user's edges are those of :obj:`edge_index` with weight one, plus the :obj:`k`
    pairs :math:`i \in \mathcal{N}_u, j \neq i` of the largest attraction, each of which adds it to
    the edge :math:`(u, j)`; :math:`j` may be an item the user knows. By the rule
    :obj:`"unrecorded"`, that of the paper, they are the :obj:`k` items :math:`j \notin
    \mathcal{N}_u` of the largest :math:`\max_{i \in \mathcal{N}_u} \Phi_{ij}`, which is the
    weight, and nothing else.

    Only the best few attractions of each item are kept. Among equals the pair of lower
    :math:`i`, then of lower :math:`j` comes first; attractions of zero make no edge.

    Args:
        edge_index (Tensor): The edges from users to items, without repeats.
        features (list[Tensor]): The features of the items, one matrix per modality.
        k (int): The number of second-order edges of a user.
        rule (str, optional): :obj:`"public"` or :obj:`"unrecorded"`. (default: :obj:`"public"`)
        num_users (int): The number of users.
        masks (list[Tensor], optional): Which items have the modality. (default: :obj:`None`, all)
        chunk_size (int, optional): The number of items to compare at a time. (default:
            :obj:`None`, chosen by the number of items)

    Shapes:
        - **input:** edges :math:`(2, |\mathcal{E}|)`, features :math:`(I, F_m)`, masks
          :math:`(I)`
        - **output:** edges :math:`(2, n)`, sorted and without repeats, and weights :math:`(n)`

    Raises:
        ValueError: If the rule is unknown, :obj:`k` is negative, shapes or ids do not fit, or a
            feature is NaN or infinite.
    """
    if rule not in RULES:
        raise ValueError(f"'rule' must be one of {list(RULES)} (got {rule!r})")
    if k < 0:
        raise ValueError(f"'k' must not be negative (got {k})")
    edge_index, xs, masks = check_item_features(edge_index, features, masks, num_users)
    xs = [normalize_rows(x.float()) for x in xs]
    num_items = xs[0].size(0)
    if edge_index.size(1) == 0:
        return edge_index, xs[0].new_empty(0)
    chunk_size = chunk_size or max(_MAX_SCORES // num_items, 1)
    code = (edge_index[0] * num_items + edge_index[1]).sort().values
    user, item = code // num_items, code % num_items
    degree = torch.bincount(user, minlength=num_users)

    length = k
    if rule == 'unrecorded' and k > 0:
        # Of the best that an item attracts, a user may know all but one of the own items.
        length += min(int(degree.max()), _MAX_LISTED) - 1
    length = min(length, num_items - 1)
    if length == 0:
        if rule == 'public':
            return torch.stack([user, item]), torch.ones(user.numel(), device=user.device)
        return edge_index[:, :0], torch.ones(0, device=user.device)
    value, index = _best_others(xs, masks, length, chunk_size)

    codes: list[Tensor] = []
    weights: list[Tensor] = []
    chunk = max(_MAX_SCORES // (8 * length), 1)
    if rule == 'public':
        codes, weights = [code], [value.new_ones(code.numel())]
        for part in _by_users(user, chunk):
            pairs = user[part].unsqueeze(1) * num_items + index[item[part]]
            _append_best(codes, weights, pairs.view(-1), value[item[part]].view(-1), k, num_items)
    else:
        heavy = degree > (_MAX_LISTED if length < num_items - 1 else num_items)
        rank = torch.arange(length, device=user.device)
        for part in _by_users(user, chunk):
            pairs = user[part].unsqueeze(1) * num_items + index[item[part]]
            keep = rank < (k + degree[user[part]] - 1).unsqueeze(1)
            keep &= ~heavy[user[part]].unsqueeze(1)
            pairs, weight = pairs[keep], value[item[part]][keep]
            new = code[torch.searchsorted(code, pairs).clamp_(max=code.numel() - 1)] != pairs
            pairs, inverse = torch.unique(pairs[new], return_inverse=True)
            weight = value.new_zeros(pairs.numel()).scatter_reduce_(
                0, inverse, weight[new], 'amax', include_self=True
            )
            _append_best(codes, weights, pairs, weight, k, num_items)
        for u in heavy.nonzero().view(-1).tolist():
            known = item[user == u]
            phi = xs[0].new_zeros(num_items)
            for rows in known.split(chunk_size):
                phi = torch.maximum(phi, _attraction(xs, masks, rows).amax(dim=0))
            phi[known] = 0.0
            phi, best = stable_topk(phi.unsqueeze(0), min(k, num_items))
            _append_best(codes, weights, u * num_items + best[0], phi[0], k, num_items)
    pairs, inverse = torch.unique(torch.cat(codes), return_inverse=True)
    weight = torch.cat(weights)
    weight = weight.new_zeros(pairs.numel()).index_add_(0, inverse, weight)
    return torch.stack([pairs // num_items, pairs % num_items]), weight


def _attraction(xs: Sequence[Tensor], masks: Masks, rows: Tensor) -> Tensor:
    out: Tensor | None = None
    common: Tensor | None = None
    for x, mask in zip(xs, masks):
        s = (x[rows] @ x.t()).clamp_(min=0)
        both = torch.ones_like(s, dtype=torch.bool)
        if mask is not None:
            both = mask[rows].unsqueeze(1) & mask
            s.masked_fill_(~both, 1.0)
        out = s if out is None else out.mul_(s)
        common = both if common is None else common | both
    assert out is not None and common is not None
    return out.masked_fill_(~common, 0.0)


def _best_others(
    xs: Sequence[Tensor], masks: Masks, k: int, chunk_size: int
) -> tuple[Tensor, Tensor]:
    # The k items that each item attracts the most, itself left out, by increasing id.
    num_items = xs[0].size(0)
    items = torch.arange(num_items, device=xs[0].device)
    index = items.new_empty(num_items, k)
    unsure = [items[:0]]
    for rows in items.split(chunk_size):
        scores = _attraction(xs, masks, rows)
        scores[items[: rows.numel()], rows] = -1.0
        value, best = torch.topk(scores, min(k + 1, num_items), dim=1)
        index[rows] = best[:, :k]
        # Zeros make no edge: among them the order is irrelevant.
        close = value[:, k - 1] - value[:, k] <= _TOLERANCE * value[:, 0]
        unsure.append(rows[close & (value[:, k - 1] > 0)])
    again = torch.cat(unsure)
    if again.numel() > 0:
        exact = [normalize_rows(x.double()) for x in xs]
        for rows in again.split(chunk_size):
            scores = _attraction(exact, masks, rows).round_(decimals=9)
            scores[items[: rows.numel()], rows] = -1.0
            index[rows] = stable_topk(scores, k)[1]
    index = index.sort(dim=1).values
    # Anew for each pair, because both directions of a pair are to give the same bits.
    pairs = torch.stack([items.repeat_interleave(k), index.view(-1)])
    value = xs[0].new_ones(pairs.size(1))
    common = torch.zeros_like(value, dtype=torch.bool)
    for x, mask in zip(xs, masks):
        s = edge_cosine(x, pairs).clamp_(min=0)
        both = torch.ones_like(common) if mask is None else mask[pairs[0]] & mask[pairs[1]]
        value = torch.where(both, value * s, value)
        common |= both
    value = value.masked_fill_(~common, 0.0).view(num_items, k)
    # By descending attraction, equals by increasing id.
    value, order = value.sort(dim=1, descending=True, stable=True)
    return value, index.gather(1, order)


def _by_users(user: Tensor, chunk: int) -> list[slice]:
    # Slices of about `chunk` edges, none of which parts a user.
    bounds = [0]
    while bounds[-1] < user.numel():
        last = user[min(bounds[-1] + chunk, user.numel()) - 1 :][:1]
        bounds.append(int(torch.searchsorted(user, last, right=True)))
    return [slice(start, end) for start, end in zip(bounds, bounds[1:])]


def _append_best(
    codes: list[Tensor], weights: list[Tensor], code: Tensor, weight: Tensor, k: int, size: int
) -> None:
    # The k pairs of the largest weight of each user, equals in the order given.
    code, weight = code[weight > 0], weight[weight > 0]
    weight, perm = weight.sort(descending=True, stable=True)
    code = code[perm]
    user, perm = (code // size).sort(stable=True)
    start = torch.searchsorted(user, user)
    keep = torch.arange(user.numel(), device=user.device) - start < k
    codes.append(code[perm][keep])
    weights.append(weight[perm][keep])
