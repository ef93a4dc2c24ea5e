"""The graphs of SOIL: items that interest a user, and items attracted by the user's items."""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mrdib_pyg.interactions import check_pairs
from mrdib_pyg.ops._topk import stable_topk
from mrdib_pyg.ops.item_graphs import MAX_SCORES, edge_cosine
from mrdib_pyg.ops.negative_sampling import contains, encode_edges
from mrdib_pyg.ops.rows import normalize_rows, rows_per_chunk

_TOLERANCE = 1e-5  # of scores, relative to the best: closer ones may swap places in float32
_MAX_LISTED = 64  # items of a user; users with more are compared with all items, not by lists

RULES = ('public', 'unrecorded')

Masks = Sequence[Tensor | None]


def _check_item_features(
    edge_index: Tensor,
    features: Sequence[Tensor],
    masks: Masks | None,
    num_users: int,
) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
    r"""Returns edges of type :obj:`int64`, features with zeros where a modality is missing, and per
    modality a mask or :obj:`None`.
    """
    if len(features) == 0:
        raise ValueError("'features' must hold at least one modality (got none)")
    masks = [None] * len(features) if masks is None else list(masks)
    if len(masks) != len(features):
        raise ValueError(
            f"'masks' must have one entry for each of the {len(features)} matrices in 'features' "
            f'(got {len(masks)})'
        )
    num_items = features[0].size(0)
    out = []
    for i, (x, mask) in enumerate(zip(features, masks)):
        if x.dim() != 2 or x.size(0) != num_items:
            raise ValueError(
                f"'features[{i}]' must be a matrix with a row for each of the {num_items} items "
                f'(got the shape {list(x.shape)})'
            )
        if mask is not None:
            if mask.dtype != torch.bool or mask.shape != (num_items,):
                raise ValueError(
                    f"'masks[{i}]' must hold one bool for each of the {num_items} items (got "
                    f'{mask.dtype} of the shape {list(mask.shape)})'
                )
            x = torch.where(mask.unsqueeze(-1), x, 0.0)
        finite = torch.isfinite(x).all(dim=1)
        if not bool(finite.all()):
            raise ValueError(
                f"row {int((~finite).nonzero()[0])} of 'features[{i}]' holds NaN or infinity; mask "
                f'it or repair it'
            )
        out.append(x)
    check_pairs("'edge_index'", edge_index, (num_users, num_items))
    return edge_index.long(), out, masks


@torch.no_grad()
def interest_counts(
    edge_index: Tensor,
    features: Sequence[Tensor],
    k: int,
    *,
    num_users: int,
    masks: Masks | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Counts for pairs of items how many users have interacted with the first and are interested
    in the second, as in the interest-aware graph of "SOIL: Contrastive Second-Order Interest
    Learning for Multimodal Recommendation" (ACM Multimedia 2024),

    .. math::
        \nu_{ij} = |\{u : i \in \mathcal{N}_u, j \in \mathcal{C}_u\}|, \quad
        \mathcal{C}_u = \bigcup_m \mathrm{top}_k \sum_{i \in \mathcal{N}_u}
        \cos(\mathbf{x}_{m,i}, \mathbf{x}_{m,\cdot})

    Users are scored in chunks. Among scores that agree in nine decimals the item of lower id comes
    first; double precision decides where float32 cannot.

    Args:
        edge_index (Tensor): The edges from users to items, without repeats.
        features (list[Tensor]): The features of the items, one matrix per modality.
        k (int): The number of items a user is interested in, per modality.
        num_users (int): The number of users.
        masks (list[Tensor], optional): Which items have the modality; the others are nobody's
            interest in it. (default: :obj:`None`, all)
        chunk_size (int, optional): The number of users to score at a time. (default:
            :obj:`None`, chosen by the number of items)

    Shapes:
        - **input:** edges :math:`(2, |\mathcal{E}|)`, features :math:`(I, F_m)`, masks
          :math:`(I)`
        - **output:** pairs :math:`(2, n)`, sorted, and their counts :math:`(n)`, as floats

    Raises:
        ValueError: If :obj:`k` is not between 1 and the number of items, shapes or ids do not fit,
            or a feature is NaN or infinite.
    """
    edge_index, features, masks = _check_item_features(edge_index, features, masks, num_users)
    num_items = features[0].size(0)
    if not 1 <= k <= num_items:
        raise ValueError(f"'k' must be between 1 and the {num_items} items (got {k})")
    chunk_size = chunk_size or rows_per_chunk(num_items, edge_index.device, MAX_SCORES)
    user, item = edge_index
    perm = user.argsort(stable=True)
    col, count = item[perm], torch.bincount(user, minlength=num_users)
    rowptr = torch.cat([count.new_zeros(1), count.cumsum(0)])

    codes = []
    users = count.nonzero().view(-1)
    for x, mask in zip(features, masks):
        code, unsure = _interests(users, rowptr, col, x.float(), mask, k, chunk_size)
        codes.append(code)
        if unsure.numel() > 0:
            code, _ = _interests(unsure, rowptr, col, x.double(), mask, k, chunk_size)
            codes.append(code)
    code = torch.unique(torch.cat(codes))
    value = torch.ones(code.numel(), device=code.device)
    interests = torch.stack([code // num_items, code % num_items])
    size = (num_users, num_items)
    interested = torch.sparse_coo_tensor(interests, value, size, check_invariants=False)
    rates = torch.sparse_coo_tensor(
        edge_index.flip(0),
        torch.ones(user.numel(), device=user.device),
        size[::-1],
        check_invariants=False,
    )
    with warnings.catch_warnings():  # the product announces once that CSR is in beta
        warnings.simplefilter('ignore')
        counts = torch.sparse.mm(rates, interested).coalesce()
    return counts.indices(), counts.values()


def _interests(
    users: Tensor,
    rowptr: Tensor,
    col: Tensor,
    x: Tensor,
    mask: Tensor | None,
    k: int,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    # The pairs of a user and an item of interest as codes, and the users left undecided, whose k-th
    # and next item are too close for this precision.
    is_exact = x.dtype == torch.float64
    x = normalize_rows(x)
    num_items = x.size(0)
    num_present = num_items if mask is None else int(mask.sum())
    k = min(k, num_present)
    codes, unsure = [users[:0]], [users[:0]]
    for start in range(0, users.numel() if k > 0 else 0, chunk_size):
        rows = users[start : start + chunk_size]
        count = rowptr[rows + 1] - rowptr[rows]
        end = count.cumsum(0)
        offset = torch.cat([end.new_zeros(1), end])
        entry = torch.arange(int(offset[-1]), device=col.device)
        entry = entry + (rowptr[rows] - offset[:-1]).repeat_interleave(count)
        profile = F.embedding_bag(col[entry], x, offset, mode='sum', include_last_offset=True)
        # A user none of whose items has the modality has no interest in it.
        keep = (profile != 0).any(dim=1)
        rows, profile = rows[keep], profile[keep]
        scores = profile @ x.t()
        largest = scores.abs().amax(dim=1)
        if mask is not None:
            scores[:, ~mask] = -torch.inf
        if is_exact:
            index = stable_topk(scores.round_(decimals=9), k)[1]
        else:
            value, index = torch.topk(scores, min(k + 1, num_present), dim=1)
            if num_present > k:
                sure = value[:, k - 1] - value[:, k] > _TOLERANCE * largest
                unsure.append(rows[~sure])
                rows, index = rows[sure], index[sure, :k]
        codes.append((rows.unsqueeze(1) * num_items + index).view(-1))
    return torch.cat(codes), torch.cat(unsure)


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
    Multimodal Recommendation" (ACM Multimedia 2024). They lead from users to items that the users'
    items attract,

    .. math::
        \Phi_{ij} = \prod_m \max(0, \cos(\mathbf{x}_{m,i}, \mathbf{x}_{m,j}))

    over the modalities that both items have. The rule :obj:`"public"` of the public code keeps the
    edges of :obj:`edge_index` with weight one and adds the attraction of the :obj:`k` most
    attracted pairs :math:`i \in \mathcal{N}_u, j \neq i` to the edges :math:`(u, j)`; :math:`j` may
    be one of the user's items. The rule :obj:`"unrecorded"` of the paper keeps only the :obj:`k`
    items :math:`j \notin \mathcal{N}_u` of the largest weight :math:`\max_{i \in \mathcal{N}_u}
    \Phi_{ij}`.

    Among equals the pair of lower :math:`i`, then of lower :math:`j` comes first. Attractions of
    zero make no edge.

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
    edge_index, xs, masks = _check_item_features(edge_index, features, masks, num_users)
    xs = [normalize_rows(x.float()) for x in xs]
    num_items = xs[0].size(0)
    if edge_index.size(1) == 0:
        return edge_index, xs[0].new_empty(0)
    chunk_size = chunk_size or rows_per_chunk(num_items, edge_index.device, MAX_SCORES)
    code = encode_edges(edge_index, num_items)
    user, item = code // num_items, code % num_items
    degree = torch.bincount(user, minlength=num_users)

    length = k
    if rule == 'unrecorded' and k > 0:
        # The user may know as many of the best as there are other items of the user.
        length += min(int(degree.max()), _MAX_LISTED) - 1
    length = min(length, num_items - 1)
    if length == 0:
        if rule == 'public':
            return torch.stack([user, item]), torch.ones(user.numel(), device=user.device)
        return edge_index[:, :0], torch.ones(0, device=user.device)
    value, index = _best_others(xs, masks, length, chunk_size)

    codes: list[Tensor] = []
    weights: list[Tensor] = []
    chunk = rows_per_chunk(8 * length, edge_index.device, MAX_SCORES)
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
            new = ~contains(code, pairs)
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
    # Slices of about `chunk` edges that split no user.
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
