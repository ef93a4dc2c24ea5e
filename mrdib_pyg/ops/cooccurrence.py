import torch
from torch import Tensor
from torch_geometric.utils import coalesce

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
