import torch
from torch import Tensor

from mrdib_pyg.interactions import check_pairs
from mrdib_pyg.ops.rows import rows_per_chunk

_MAX_SCORES = 2**20  # of a chunk of users on CPU: 4 MiB in float32, which stay in its cache
_MIN_USERS = 32  # of a chunk: a smaller matrix product is slow
_BLOCK = 32  # items
_BLOCKS = (_BLOCK, 8)  # sizes of the blocks of a search on CPU, and of those inside chosen ones


@torch.no_grad()
def masked_topk(
    user: Tensor,
    item: Tensor,
    k: int,
    mask: Tensor | None = None,
    *,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Computes the exact top-:math:`k` items of each user by inner product, some pairs left out.

    Users are scored in chunks. Among equal scores the item of lower id comes first, also where the
    :math:`k`-th place is shared.

    Args:
        user (Tensor): The user embeddings.
        item (Tensor): The item embeddings.
        k (int): The number of items to return for each user.
        mask (Tensor, optional): Pairs of a row of :obj:`user` and an item to leave out, in any
            order. (default: :obj:`None`)
        chunk_size (int, optional): The number of users to score at a time. (default:
            :obj:`None`, chosen by the number of items)

    Shapes:
        - **input:** users :math:`(U, d)`, items :math:`(I, d)`, mask :math:`(2, n)`
        - **output:** scores :math:`(U, k)` and item ids :math:`(U, k)`, by descending score.
          Rows with fewer than :math:`k` items left end in scores of :math:`-\infty` and ids of
          :math:`-1`.

    Raises:
        ValueError: If :obj:`k` exceeds the number of items, shapes or ids do not fit, or a score
            is NaN.
    """
    if user.dim() != 2 or item.dim() != 2 or user.size(1) != item.size(1):
        raise ValueError(
            f"'user' and 'item' must be matrices of equal width (got {list(user.shape)} and "
            f'{list(item.shape)})'
        )
    if user.dtype != item.dtype or not user.is_floating_point():
        raise ValueError(
            f"'user' and 'item' must be of one floating point type (got {user.dtype} and "
            f'{item.dtype})'
        )
    return topk_of_padded(user, pad_items(item), item.size(0), k, mask, chunk_size)


def pad_items(item: Tensor) -> Tensor:
    r"""Fills item embeddings up to whole blocks, for :func:`topk_of_padded`."""
    num_rows = -item.size(0) % _BLOCK
    return item if num_rows == 0 else torch.cat([item, item.new_zeros(num_rows, item.size(1))])


@torch.no_grad()
def topk_of_padded(
    user: Tensor,
    item: Tensor,
    num_items: int,
    k: int,
    mask: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Computes :func:`masked_topk` on the output of :func:`pad_items`: a table that is searched
    repeatedly is copied once.
    """
    num_users = user.size(0)
    if not 1 <= k <= num_items:
        raise ValueError(f"'k' must be between 1 and the {num_items} items (got {k})")
    if chunk_size is None:
        chunk_size = max(rows_per_chunk(num_items, user.device, _MAX_SCORES), _MIN_USERS)
    elif chunk_size < 1:
        raise ValueError(f"'chunk_size' must be at least 1 (got {chunk_size})")
    chunk_size = min(chunk_size, max(num_users, 1))
    starts = range(0, num_users, chunk_size)
    row, col, bounds = _sort_mask(mask, user, num_items, chunk_size)

    value = user.new_empty(num_users, k)
    index = torch.empty(num_users, k, dtype=torch.long, device=user.device)
    num_columns = item.size(0)
    buffer = user.new_empty(chunk_size, num_columns)
    place = row * num_columns + col
    for i, start in enumerate(starts):
        users = user[start : start + chunk_size]
        scores = buffer[: users.size(0)]
        torch.mm(users, item.t(), out=scores)
        part = slice(bounds[i], bounds[i + 1])
        scores[:, num_items:] = -torch.inf  # padding of the last block
        scores.view(-1)[place[part] - start * num_columns] = -torch.inf
        out = slice(start, start + users.size(0))
        value[out], index[out] = stable_topk(scores, k)
    is_nan = value[:, 0].isnan()
    if bool(is_nan.any()):
        first = int(is_nan.nonzero()[0])
        raise ValueError(f"the scores of row {first} of 'user' hold NaN; check the embeddings")
    index.masked_fill_(value == -torch.inf, -1)
    return value, index


def stable_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    r"""Computes :func:`torch.topk` of each row with equal values by increasing column. The order
    among values of :math:`-\infty` is left open.
    """
    value, index = _topk(scores, min(k + 1, scores.size(1)))
    # Ties are rare: only rows with one, the (k+1)-th place included, are sorted again. Few
    # operations until then: on a GPU each takes longer to launch than to run.
    tied = (value[:, :-1] == value[:, 1:]) & (value[:, :-1] != -torch.inf)
    value, index = value[:, :k], index[:, :k]
    if not bool(tied.any()):
        return value, index
    # Rows with NaN, which comes first, stay: nothing is above or equal to it.
    rows = (tied.any(dim=1) & ~value[:, 0].isnan()).nonzero().view(-1)
    if rows.numel() > 0:
        shared = rows[tied[rows, k - 1]] if tied.size(1) == k else rows[:0]
        if shared.numel() > 0:
            index[shared] = _first_of_equals(scores[shared], value[shared, -1:], k)
        column = index[rows].sort(dim=1).values
        values = scores[rows.view(-1, 1), column]
        values, order = values.sort(dim=1, descending=True, stable=True)
        value[rows], index[rows] = values, column.gather(1, order)
    return value, index


def _topk(scores: Tensor, k: int, blocks: tuple[int, ...] = _BLOCKS) -> tuple[Tensor, Tensor]:
    # On CPU `torch.topk` takes longer than the matrix product before it. Only the k blocks of
    # columns with the largest maxima are searched: they hold the top k.
    num_rows, num_columns = scores.size()
    is_slow = scores.device.type == 'cpu' and scores.is_contiguous() and len(blocks) > 0
    if not is_slow or num_columns % blocks[0] != 0 or 2 * k * blocks[0] > num_columns:
        return torch.topk(scores, k, dim=1)
    size, num_blocks = blocks[0], num_columns // blocks[0]
    maxima = scores.view(num_rows, num_blocks, size).amax(dim=2)
    block = torch.topk(maxima, k, dim=1, sorted=False).indices
    rows = torch.arange(num_rows, device=scores.device).unsqueeze(1) * num_blocks
    candidates = scores.view(-1, size).index_select(0, (rows + block).view(-1))
    value, place = _topk(candidates.view(num_rows, k * size), k, blocks[1:])
    return value, block.gather(1, place // size) * size + place % size


def _first_of_equals(scores: Tensor, bound: Tensor, k: int) -> Tensor:
    # All columns above the k-th value, and the first ones equal to it, as many as fit.
    above = scores > bound
    equal = scores == bound
    room = k - above.sum(dim=1, keepdim=True)
    keep = above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= room))
    return keep.nonzero()[:, 1].view(-1, k)


def _sort_mask(
    mask: Tensor | None, user: Tensor, num_items: int, chunk_size: int
) -> tuple[Tensor, Tensor, list[int]]:
    # The pairs by row, and the bounds of each chunk.
    if mask is None:
        mask = user.new_empty(2, 0, dtype=torch.long)
    check_pairs("'mask'", mask, (user.size(0), num_items), ('row', 'item'))
    row, col = mask[0].long(), mask[1].long()
    if bool((row.diff() < 0).any()):
        row, perm = row.sort()
        col = col[perm]
    bounds = torch.arange(0, user.size(0) + chunk_size, chunk_size, device=row.device)
    return row, col, torch.searchsorted(row, bounds).tolist()
