import torch
from torch import Tensor

from mrdib_pyg.ops.normalize_rows import normalize_rows

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
