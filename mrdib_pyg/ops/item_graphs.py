"""Edges from users to items together with features of the items, refused where they do not fit."""

import warnings
from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import coalesce

from mrdib_pyg.ops._topk import stable_topk
from mrdib_pyg.ops.rows import normalize_rows


def check_item_features(
    edge_index: Tensor,
    features: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None,
    num_users: int,
) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
    r"""Returns the edges with ids of type :obj:`int64`, the features with zeros where a modality is
    missing, and a mask or :obj:`None` for each modality.

    Raises:
        ValueError: If there are no features, shapes or types do not fit, an id is out of range, or
            a feature of an item that has the modality is NaN or infinite.
    """
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"'edge_index' must have the shape [2, num_edges] (got {list(edge_index.shape)})"
        )
    if edge_index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"'edge_index' must hold integer ids (got {edge_index.dtype})")
    if len(features) == 0:
        raise ValueError("'features' is empty; pass the features of at least one modality")
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
    if edge_index.numel() > 0:
        low = edge_index.min(dim=1).values.tolist()
        high = edge_index.max(dim=1).values.tolist()
        for name, a, b, num in zip(('user', 'item'), low, high, (num_users, num_items)):
            if a < 0 or b >= num:
                raise ValueError(
                    f"'edge_index' has {name} ids from {a} to {b}, but only 0 to {num - 1} exist"
                )
    return edge_index.long(), out, masks


# Similarities that one chunk of rows may hold: 32 MiB in float32 on CPU, 256 MiB elsewhere.
_MAX_KNN_SCORES, _MAX_SCORES_ACCELERATOR = 2**23, 2**26


@torch.no_grad()
def knn_graph(
    x: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Computes the directed graph of each row's :math:`k` most cosine-similar rows, itself
    included.

    Similarities are computed for a chunk of rows at a time and never exist as a whole. Among
    equal similarities the row of lower id comes first; the row itself is always kept. A row of
    zeros has similarity zero to all rows and to itself.

    Args:
        x (Tensor): The features.
        k (int): The number of neighbors of each row, itself included.
        mask (Tensor, optional): Which rows have features. The others, whatever :obj:`x` holds
            for them, are no row's neighbors and keep only a self-loop of weight one.
            (default: :obj:`None`, all)
        chunk_size (int, optional): The number of rows to compare at a time. (default:
            :obj:`None`, chosen by the number of rows)

    Shapes:
        - **input:** features :math:`(N, F)`, mask :math:`(N)`
        - **output:** edges :math:`(2, |\mathcal{E}|)` from each row to its neighbors, sorted by
          row and then by descending similarity, and the similarities :math:`(|\mathcal{E}|)`.
          :math:`|\mathcal{E}| = N \cdot k` without a mask; with one, rows have fewer neighbors
          where fewer than :math:`k` rows have features.

    Raises:
        ValueError: If :obj:`k` exceeds the number of rows, the shapes do not fit, or a row in
            use holds NaN or infinity.
    """
    if x.dim() != 2:
        raise ValueError(f"'x' must be a matrix [num_nodes, channels] (got {list(x.shape)})")
    num_nodes = x.size(0)
    if not 1 <= k <= num_nodes:
        raise ValueError(
            f"'k' must be between 1 and the {num_nodes} rows of 'x' (got {k}); set fewer neighbors"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (num_nodes,)):
        raise ValueError(
            f"'mask' must hold one bool for each of the {num_nodes} rows of 'x' (got {mask.dtype} "
            f'of the shape {list(mask.shape)})'
        )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"'chunk_size' must be at least 1 (got {chunk_size})")

    present = torch.arange(num_nodes, device=x.device)
    if mask is not None:
        present = present[mask]
        x = x[mask]
    if not x.is_floating_point() or x.element_size() < 4:
        x = x.float()
    if not bool(torch.isfinite(x).all()):
        bad = present[(~torch.isfinite(x)).any(dim=1)]
        raise ValueError(f"row {int(bad[0])} of 'x' holds NaN or infinity; mask it or repair it")
    x = normalize_rows(x)

    count = present.numel()
    k = min(k, count)
    budget = _MAX_KNN_SCORES if x.device.type == 'cpu' else _MAX_SCORES_ACCELERATOR
    chunk_size = min(chunk_size or max(budget // max(count, 1), 1), max(count, 1))
    value = x.new_empty(count, k)
    index = torch.empty(count, k, dtype=torch.long, device=x.device)
    buffer = x.new_empty(chunk_size, count)
    for start in range(0, count, chunk_size):
        rows = x[start : start + chunk_size]
        scores = torch.mm(rows, x.t(), out=buffer[: rows.size(0)])
        # Rounding may put a copy of the row ahead of the row itself.
        scores.diagonal(start).fill_(torch.inf)
        out = slice(start, start + rows.size(0))
        value[out], index[out] = stable_topk(scores, k)
    if count > 0:
        value.clamp_(-1, 1)
        value[:, 0] = (x != 0).any(dim=1).to(value.dtype)

    row = present.repeat_interleave(k)
    edge_index = torch.stack([row, present[index].view(-1)])
    edge_weight = value.view(-1)
    if mask is not None and count < num_nodes:
        absent = (~mask).nonzero().view(-1)
        edge_index = torch.cat([edge_index, absent.expand(2, -1)], dim=1)
        edge_weight = torch.cat([edge_weight, edge_weight.new_ones(absent.numel())])
        perm = edge_index[0].argsort(stable=True)
        edge_index, edge_weight = edge_index[:, perm], edge_weight[perm]
    return edge_index, edge_weight


# Entries of gathered rows that one chunk of edges may hold: 16 MiB in float32.
_MAX_GATHERED = 2**22


@torch.no_grad()
def edge_cosine(x: Tensor, edge_index: Tensor) -> Tensor:
    r"""Computes the cosine similarity of the two ends of each edge, a chunk of edges at a time.

    Both directions of an edge give the same bits. A row of zeros has similarity zero to all rows.

    Args:
        x (Tensor): The features.
        edge_index (Tensor): The edges.

    Shapes:
        - **input:** features :math:`(N, F)`, edges :math:`(2, |\mathcal{E}|)`
        - **output:** similarities :math:`(|\mathcal{E}|)` in :math:`[-1, 1]`

    Raises:
        ValueError: If the shapes do not fit, or a row holds NaN or infinity.
    """
    if x.dim() != 2:
        raise ValueError(f"'x' must be a matrix [num_nodes, channels] (got {list(x.shape)})")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"'edge_index' must have the shape [2, num_edges] (got {list(edge_index.shape)})"
        )
    if not x.is_floating_point() or x.element_size() < 4:
        x = x.float()
    finite = torch.isfinite(x).all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ValueError(f"row {row} of 'x' holds NaN or infinity; mask it or repair it")
    x = normalize_rows(x)
    chunk = max(_MAX_GATHERED // max(x.size(1), 1), 1)
    out = x.new_empty(edge_index.size(1))
    for start in range(0, edge_index.size(1), chunk):
        row, col = edge_index[:, start : start + chunk]
        out[start : start + chunk] = (x[row] * x[col]).sum(dim=-1)
    return out.clamp_(-1, 1)


@torch.no_grad()
def prune_edges(
    edge_index: Tensor,
    ratio: float,
    *,
    num_nodes: tuple[int, int],
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draws the edges that the degree-sensitive pruning of `"A Tale of Two Graphs: Freezing and
    Denoising Graph Structures for Multimodal Recommendation" <https://arxiv.org/abs/2211.06924>`_
    keeps: :math:`\lfloor |\mathcal{E}| (1 - \rho) \rfloor` of them, without replacement, with
    probabilities

    .. math::
        \pi_{(u, i)} \propto \frac{1}{\sqrt{d_u d_i}}

    Kept are the edges with the smallest :math:`\mathrm{Exp}(1) / \pi_e`, which has the same
    distribution as one draw after the other.

    Args:
        edge_index (Tensor): The edges, :math:`(2, |\mathcal{E}|)`, from users to items.
        ratio (float): The ratio :math:`\rho` of edges to drop. It is read as the decimal number
            it is printed as, so that 0.8 of 10 edges leaves 2.
        num_nodes (tuple[int, int]): The numbers of users and items.
        generator (torch.Generator, optional): Draws the edges. (default: :obj:`None`, the global
            seed)

    Returns:
        Tensor: The positions of the kept edges in :obj:`edge_index`, in increasing order.

    Raises:
        ValueError: If :obj:`ratio` is not in :math:`[0, 1)`.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"'ratio' must lie in [0, 1) (got {ratio})")
    row, col = edge_index
    num_edges = row.numel()
    num_kept = int(num_edges * (1 - Fraction(str(float(ratio)))))
    degree = torch.bincount(row, minlength=num_nodes[0])[row].double()
    degree = degree * torch.bincount(col, minlength=num_nodes[1])[col]
    draw = torch.empty_like(degree).exponential_(generator=generator)
    return torch.topk(draw * degree.sqrt(), num_kept, largest=False).indices.sort().values


WEIGHTINGS = ('softmax', 'mean')

# Pairs of users (one per item they share) that a block of users may hold at a time.
_MAX_PAIRS = 2**21


@torch.no_grad()
def cooccurrence_graph(
    edge_index: Tensor,
    num_users: int,
    k: int,
    *,
    weighting: str = 'softmax',
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Computes the directed graph of each user's :math:`k` users with the most items in common,

    .. math::
        c_{uv} = |\mathcal{N}_u \cap \mathcal{N}_v| > 0, \quad v \neq u

    weighted by a softmax over the counts :math:`c_{uv}` of the neighbors that are kept, or evenly.
    A user without neighbors has no edge.

    The product of the interactions with their transpose is taken for a block of users at a time.
    Among equal counts, which are frequent, the user of lower id comes first.

    Args:
        edge_index (Tensor): The edges from users to items; repeated ones count once.
        num_users (int): The number of users.
        k (int): The largest number of neighbors of a user.
        weighting (str, optional): :obj:`"softmax"` or :obj:`"mean"`. (default: :obj:`"softmax"`)
        chunk_size (int, optional): The number of pairs of users that a block may expand to, one
            for each item they share. A single user may exceed it, by no more than there are edges.
            (default: :obj:`None`, about two million)

    Shapes:
        - **input:** :math:`(2, |\mathcal{E}|)`
        - **output:** edges :math:`(2, n)` from each user to the neighbors, sorted by user and then
          by descending count, and their weights :math:`(n)`, which sum to one per user.

    Raises:
        ValueError: If the shape is another, an id is out of range, or a setting is unknown or not
            positive.
    """
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"'edge_index' must have the shape [2, num_edges] (got {list(edge_index.shape)})"
        )
    if edge_index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"'edge_index' must hold integer ids (got {edge_index.dtype})")
    for name, number in (('k', k), ('chunk_size', chunk_size)):
        if number is not None and number < 1:
            raise ValueError(f"'{name}' must be at least 1 (got {number})")
    if weighting not in WEIGHTINGS:
        raise ValueError(f"'weighting' must be one of {list(WEIGHTINGS)} (got '{weighting}')")
    if edge_index.numel() > 0:
        low, high = int(edge_index.min()), int(edge_index[0].max())
        if low < 0:
            raise ValueError(f"'edge_index' must not hold negative ids (got {low})")
        if high >= num_users:
            raise ValueError(f"'edge_index' has the user {high}, but 'num_users' is {num_users}")

    user, item = coalesce(edge_index.long())
    users_of = coalesce(torch.stack([item, user]))[1]  # sorted by item
    degree = torch.bincount(item)
    first = degree.cumsum(0) - degree
    num_pairs = degree[item]
    # Edges, and pairs they expand to, before each user.
    start = torch.searchsorted(user, torch.arange(num_users + 1, device=user.device))
    before = torch.cat([num_pairs.new_zeros(1), num_pairs.cumsum(0)])[start]

    rows, cols, counts = [], [], []
    low = 0
    while low < num_users:
        limit = before[low] + (chunk_size or _MAX_PAIRS)
        high = max(int(torch.searchsorted(before, limit, right=True)) - 1, low + 1)
        edges = slice(int(start[low]), int(start[high]))
        repeat = num_pairs[edges]
        index = torch.repeat_interleave(first[item[edges]] - (repeat.cumsum(0) - repeat), repeat)
        col = users_of[index + torch.arange(index.numel(), device=index.device)]
        row = torch.repeat_interleave(user[edges], repeat)
        code = ((row - low) * num_users + col)[row != col].sort().values
        code, count = torch.unique_consecutive(code, return_counts=True)
        row, col = code // num_users, code % num_users
        kept = _largest(row, count, k)
        rows.append(row[kept] + low)
        cols.append(col[kept])
        counts.append(count[kept])
        low = high

    empty = user.new_empty(0)
    row, col, count = (torch.cat([empty, *parts]) for parts in (rows, cols, counts))
    if weighting == 'mean':
        weight = torch.ones(row.numel(), device=row.device)
    else:
        # The first neighbor of a user has the largest count.
        head = count[torch.searchsorted(row, row)]
        weight = (count - head).to(torch.get_default_dtype()).exp()
    total = weight.new_zeros(num_users).index_add(0, row, weight)
    return torch.stack([row, col]), weight / total[row]


def _largest(row: Tensor, count: Tensor, k: int) -> Tensor:
    # Positions of the k largest counts of each row, in descending order. `row` is sorted, and what
    # comes first wins a tie, since the sort is stable.
    if row.numel() == 0:
        return row
    bound = count.max() + 1
    order = (row * bound + (bound - 1 - count)).argsort(stable=True)
    rank = torch.arange(row.numel(), device=row.device) - torch.searchsorted(row, row)
    return order[rank < k]


# Scores that one chunk of users may hold: 32 MiB.
_MAX_INTEREST_SCORES = 2**23

# Scores closer than this, relative to the best one, may stand in the wrong order in float32.
_INTEREST_TOLERANCE = 1e-5


@torch.no_grad()
def interest_counts(
    edge_index: Tensor,
    features: Sequence[Tensor],
    k: int,
    *,
    num_users: int,
    masks: Sequence[Tensor | None] | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Counts for pairs of items how many users have interacted with the first and are interested
    in the second, as in the interest-aware graph of "SOIL: Contrastive Second-Order Interest
    Learning for Multimodal Recommendation" (ACM Multimedia 2024),

    .. math::
        \nu_{ij} = |\{u : i \in \mathcal{N}_u, j \in \mathcal{C}_u\}|, \quad
        \mathcal{C}_u = \bigcup_m \mathrm{top}_k \sum_{i \in \mathcal{N}_u}
        \cos(\mathbf{x}_{m,i}, \mathbf{x}_{m,\cdot})

    Users are scored in chunks. Among scores that are equal in their first nine decimals the item
    of lower id comes first; where float32 cannot tell, double precision decides.

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
    edge_index, features, masks = check_item_features(edge_index, features, masks, num_users)
    num_items = features[0].size(0)
    if not 1 <= k <= num_items:
        raise ValueError(f"'k' must be between 1 and the {num_items} items (got {k})")
    chunk_size = chunk_size or max(_MAX_INTEREST_SCORES // num_items, 1)
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
    # The pairs of a user and an item of interest as codes, and the users left to decide: those
    # whose k-th and next item are too close for the precision at hand.
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
                sure = value[:, k - 1] - value[:, k] > _INTEREST_TOLERANCE * largest
                unsure.append(rows[~sure])
                rows, index = rows[sure], index[sure, :k]
        codes.append((rows.unsqueeze(1) * num_items + index).view(-1))
    return torch.cat(codes), torch.cat(unsure)


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
