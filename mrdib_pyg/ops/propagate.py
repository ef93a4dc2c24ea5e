import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrdib_pyg.ops.adjacency import NormalizedAdjacency

# Products of gathered rows that the gradient of the edge weights may hold at a time.
_MAX_GATHERED = 2**22


def propagate(x: Tensor, adj: NormalizedAdjacency) -> Tensor:
    r"""Computes the sparse-dense product :math:`\hat{\mathbf{A}} \mathbf{X}`.

    On CPU this is a weighted sum of embedding bags, elsewhere a product with a CSR matrix. The
    gradient with respect to :obj:`x` is :math:`\hat{\mathbf{A}}^{\top} \mathbf{G}`; the one with
    respect to the edge weights never holds more than a bounded chunk of gathered rows.

    Args:
        x (Tensor): The node features.
        adj (NormalizedAdjacency): The prepared matrix.

    Shapes:
        - **input:** :math:`(\textrm{columns}, d)`
        - **output:** :math:`(\textrm{rows}, d)`, in the data type of :obj:`x`

    Raises:
        TypeError: If :obj:`adj` is not prepared or :obj:`x` is not floating point.
        ValueError: If :obj:`x` does not have one row for each column of :obj:`adj`.
    """
    if not isinstance(adj, NormalizedAdjacency):
        raise TypeError(
            f"'adj' must be a NormalizedAdjacency (got {type(adj).__name__}); build it once with "
            f'NormalizedAdjacency(edge_index, num_nodes=...)'
        )
    if x.dim() != 2 or x.size(0) != adj.size(1):
        raise ValueError(
            f"'x' must have the shape [{adj.size(1)}, channels], one row for each column of "
            f'{adj} (got {list(x.shape)}); adj.t() propagates in the other direction'
        )
    if not x.is_floating_point():
        raise TypeError(f"'x' must be floating point (got {x.dtype}); call x.float()")
    value, value_t = adj._values(x.dtype)
    if adj.is_symmetric:  # No tensor twice: torch.compile does not trace that.
        return _Propagate.apply(x, value, adj.rowptr, adj.col, None, None, None)
    return _Propagate.apply(x, value, adj.rowptr, adj.col, adj._rowptr_t, adj._col_t, value_t)


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, value, rowptr, col, rowptr_t, col_t, value_t):
        # The features are needed by the gradient of the weights alone.
        x_saved = x if ctx.needs_input_grad[1] else None
        if rowptr_t is None:  # The matrix is symmetric.
            rowptr_t, col_t, value_t = rowptr, col, value
        ctx.save_for_backward(x_saved, rowptr, col, rowptr_t, col_t, value_t)
        # Detached, because embedding_bag prepares for a backward pass of its own otherwise, which
        # takes it half as long again.
        return _spmm(rowptr, col, value.detach(), x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, rowptr, col, rowptr_t, col_t, value_t = ctx.saved_tensors
        grad_x = grad_value = None
        if ctx.needs_input_grad[0]:
            grad_x = _spmm(rowptr_t, col_t, value_t, grad)
        if ctx.needs_input_grad[1]:
            grad_value = _sampled_product(rowptr, col, grad, x)
        return grad_x, grad_value, None, None, None, None, None


def _spmm(rowptr: Tensor, col: Tensor, value: Tensor, x: Tensor) -> Tensor:
    if x.device.type == 'cpu':
        return F.embedding_bag(
            col,
            x.contiguous(),
            rowptr,
            mode='sum',
            per_sample_weights=value,
            include_last_offset=True,
        )
    return _csr_matmul(rowptr, col, value, x)


def _csr_matmul(rowptr: Tensor, col: Tensor, value: Tensor, x: Tensor) -> Tensor:
    size = (rowptr.numel() - 1, x.size(0))
    with warnings.catch_warnings():  # CSR tensors announce once that they are in beta.
        warnings.simplefilter('ignore')
        matrix = torch.sparse_csr_tensor(rowptr, col, value, size, check_invariants=False)
    return matrix @ x


def _sampled_product(rowptr: Tensor, col: Tensor, left: Tensor, right: Tensor) -> Tensor:
    # <left[row], right[col]> for each entry of the matrix.
    row = torch.repeat_interleave(rowptr.diff())
    chunk = max(_MAX_GATHERED // max(left.size(1), 1), 1)
    out = left.new_empty(col.numel())
    for start in range(0, col.numel(), chunk):
        part = slice(start, start + chunk)
        out[part] = (left[row[part]] * right[col[part]]).sum(dim=-1)
    return out
