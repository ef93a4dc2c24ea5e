"""Graphs of items by their features, of users by common items, and the pruning of edges."""

from fractions import Fraction

import torch
from torch import Tensor
from torch_geometric.utils import coalesce

from mrdib_pyg.interactions import check_pairs, is_coalesced
from mrdib_pyg.ops._topk import stable_topk
from mrdib_pyg.ops.rows import normalize_rows, rows_per_chunk

MAX_SCORES = 2**23  # of a chunk of rows on CPU: 32 MiB in float32
_MAX_GATHERED = 2**22  # entries of gathered rows of a chunk of edges on CPU: 16 MiB in float32
_MAX_PAIRS = 2**21  # of users in a block, one per item they share

WEIGHTINGS = ('softmax', 'mean')


def _to_features(x: Tensor, ids: Tensor | None = None) -> Tensor:
    # At least in single precision and finite; `ids` name the rows in errors.
    if x.dim() != 2:
        raise ValueError(f"'x' must be a matrix [num_nodes, channels] (got {list(x.shape)})")
    if not x.is_floating_point() or x.element_size() < 4:
        x = x.float()
    finite = torch.isfinite(x).all(dim=1)
    if not bool(finite.all()):
        row = (~finite).nonzero()[0]
        row = row if ids is None else ids[row]
        raise ValueError(f"row {int(row)} of 'x' holds NaN or infinity; mask it or repair it")
    return x


@torch.no_grad()
def feature_knn_graph(
    x: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Computes the directed graph of each row's :math:`k` most cosine-similar rows, itself
    included.

    Only the similarities of a chunk of rows exist at a time. Among equal ones the row of lower id
    comes first; the row itself is always kept. A row of zeros has similarity zero to all rows and
    to itself.

    Args:
        x (Tensor): The features.
        k (int): The number of neighbors of each row, itself included.
        mask (Tensor, optional): Which rows have features. The others keep only a self-loop of
            weight one. (default: :obj:`None`, all)
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
    x = normalize_rows(_to_features(x, present))

    count = present.numel()
    k = min(k, count)
    chunk_size = chunk_size or rows_per_chunk(count, x.device, MAX_SCORES)
    chunk_size = min(chunk_size, max(count, 1))
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
    x = normalize_rows(_to_features(x))
    check_pairs("'edge_index'", edge_index, (x.size(0), x.size(0)), ('row', 'row'))
    chunk = rows_per_chunk(x.size(1), x.device, _MAX_GATHERED)
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

    Keeping the edges of the smallest :math:`\mathrm{Exp}(1) / \pi_e` has the same distribution as
    drawing one after the other.

    Args:
        edge_index (Tensor): The edges, :math:`(2, |\mathcal{E}|)`, from users to items.
        ratio (float): The ratio :math:`\rho` of edges to drop, read as the decimal number it is
            printed as, so that 0.8 of 10 edges leaves 2.
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

    Common items are counted for a block of users at a time. Among equal counts the user of lower
    id comes first.

    Args:
        edge_index (Tensor): The edges from users to items; repeated ones count once.
        num_users (int): The number of users.
        k (int): The largest number of neighbors of a user.
        weighting (str, optional): :obj:`"softmax"` or :obj:`"mean"`. (default: :obj:`"softmax"`)
        chunk_size (int, optional): The number of pairs of users that a block may expand to, one
            for each item they share. A single user may exceed it. (default: :obj:`None`, about
            two million)

    Shapes:
        - **input:** :math:`(2, |\mathcal{E}|)`
        - **output:** edges :math:`(2, n)` from each user to the neighbors, sorted by user and then
          by descending count, and their weights :math:`(n)`, which sum to one per user.

    Raises:
        ValueError: If the shape or an id is out of range, or a setting is unknown or not positive.
    """
    check_pairs("'edge_index'", edge_index, (num_users, None))
    for name, number in (('k', k), ('chunk_size', chunk_size)):
        if number is not None and number < 1:
            raise ValueError(f"'{name}' must be at least 1 (got {number})")
    if weighting not in WEIGHTINGS:
        raise ValueError(f"'weighting' must be one of {list(WEIGHTINGS)} (got {weighting!r})")

    edge_index = edge_index.long().contiguous()
    user, item = edge_index if is_coalesced(*edge_index) else coalesce(edge_index)
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
