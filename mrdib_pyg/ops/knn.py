import torch
from torch import Tensor

from mrdib_pyg.ops.normalize_rows import normalize_rows
from mrdib_pyg.ops.topk import stable_topk

# Similarities that one chunk of rows may hold: 32 MiB in float32 on CPU, 256 MiB elsewhere.
_MAX_SCORES, _MAX_SCORES_ACCELERATOR = 2**23, 2**26


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
    budget = _MAX_SCORES if x.device.type == 'cpu' else _MAX_SCORES_ACCELERATOR
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
