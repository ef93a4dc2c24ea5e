"""Sparse propagation: one product, and the mean of LightGCN over layers."""

import importlib.util
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrdib_pyg.ops.adjacency import CSR, NormalizedAdjacency, Workspace, csr_tensor
from mrdib_pyg.ops.rows import rows_per_chunk

_WITH_TRITON = importlib.util.find_spec('triton') is not None

# Products of gathered rows that the gradient of the edge weights may hold at a time.
_MAX_GATHERED = 2**22


def propagate(x: Tensor, adj: NormalizedAdjacency) -> Tensor:
    r"""Computes the sparse-dense product :math:`\hat{\mathbf{A}} \mathbf{X}`.

    CPUs use :func:`~torch.nn.functional.embedding_bag`, CUDA a Triton kernel that cuts long rows
    into pieces, or without Triton a CSR product. The first two give the same bits in every run.
    The gradient of the edge weights gathers rows in chunks of bounded size.

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
    _check_adj(adj)
    _check_features(x, adj._size[1], adj, 'adj.t() propagates in the other direction')
    return _Propagate.apply(x, *_arrays_of(adj, x))


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, count, value, *arrays):
        # Only the gradient of the weights needs the features.
        x_saved = x if ctx.needs_input_grad[2] else None
        ctx.count = count
        ctx.save_for_backward(x_saved, value, *arrays)
        # Detached, because embedding_bag would prepare for a backward pass of its own, which takes
        # half as long again.
        return spmm((value.detach(), *arrays[: count - 1]), x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, *arrays = ctx.saved_tensors
        grad_x = grad_value = None
        if ctx.needs_input_grad[0]:
            grad_x = spmm(arrays[ctx.count :] or arrays, grad)
        if ctx.needs_input_grad[2]:
            grad_value = _sampled_product(arrays[1], arrays[2], grad, x)
        return (grad_x, None, grad_value) + (None,) * (len(arrays) - 1)


def csr_arrays(csr: CSR, x: Tensor) -> tuple[Tensor, ...]:
    r"""Returns the values and the index tensors that :func:`spmm` takes with :obj:`x`."""
    if _uses_kernel(x):  # It sums in float32, and takes values of that precision.
        return csr.value, csr.rowptr, csr.col, *csr.pieces
    if x.device.type == 'cpu':
        return csr.values(x.dtype), *csr.indices(x.dtype)
    return csr.values(x.dtype), csr.rowptr, csr.col


def _arrays_of(adj: NormalizedAdjacency, x: Tensor) -> tuple[Any, ...]:
    # The number of arrays of the matrix, these arrays, and the arrays of its transpose unless
    # symmetric: torch.compile does not trace a tensor passed twice.
    arrays = csr_arrays(adj._csr, x)
    if adj.is_symmetric:
        return len(arrays), *arrays
    return len(arrays), *arrays, *csr_arrays(adj._csr_t, x)


def spmm(
    arrays: tuple[Tensor, ...],
    x: Tensor,
    addend: Tensor | None = None,
    weight: float = 0.0,
    workspace: Workspace | None = None,
) -> Tensor:
    r"""Computes :math:`\mathbf{A} \mathbf{X}`, or with an addend :math:`(1 - w) \mathbf{A}
    \mathbf{X} + w \mathbf{B}`, without a gradient. :obj:`arrays` are values and indices of
    :func:`csr_arrays`.
    """
    value, rowptr, col, *pieces = arrays
    if _uses_kernel(x):
        # Here, because it imports Triton.
        from mrdib_pyg.ops.kernels.csr_matmul import csr_matmul, csr_matmul_op

        if torch.compiler.is_compiling():
            return csr_matmul_op(rowptr, col, value, x, pieces, addend, 1.0 - weight, weight)
        return csr_matmul(
            rowptr, col, value, x, alpha=1.0 - weight, addend=addend, beta=weight,
            pieces=tuple(pieces), workspace=workspace,
        )  # fmt: skip
    if x.device.type == 'cpu':
        out = F.embedding_bag(
            col,
            x.contiguous(),
            rowptr,
            mode='sum',
            per_sample_weights=value,
            include_last_offset=True,
        )
    else:
        out = csr_tensor(rowptr, col, value, x.size(0)) @ x
    if addend is None:
        return out
    # In place, PyTorch 2.11 would lose the gradient of a compiled graph.
    return out.lerp(addend, weight) if torch.compiler.is_compiling() else out.lerp_(addend, weight)


def spmm_pair(
    arrays: tuple[Tensor, ...],
    arrays_t: tuple[Tensor, ...],
    x: tuple[Tensor, Tensor],
    addend: tuple[Tensor, Tensor] | None = None,
    weight: float = 0.0,
    workspace: Workspace | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Computes :func:`spmm` of a matrix and of its transpose: on CUDA both in one launch."""
    if _launches_kernel(x[0]):
        from mrdib_pyg.ops.kernels.csr_matmul import csr_matmul_pair

        return csr_matmul_pair(
            (arrays, arrays_t), x, alpha=1.0 - weight, addend=addend, beta=weight,
            workspace=workspace,
        )  # fmt: skip
    first, second = (None, None) if addend is None else addend
    return spmm(arrays, x[0], first, weight), spmm(arrays_t, x[1], second, weight)


def make_workspace(x: Tensor, *arrays: tuple[Tensor, ...]) -> Workspace | None:
    r"""Returns the workspace on CUDA for products with :obj:`x` of matrices that are multiplied at
    once; one after the other may use it.
    """
    if not _launches_kernel(x):
        return None
    from mrdib_pyg.ops.kernels.csr_matmul import make_workspace

    return make_workspace(x, *[each[3:] for each in arrays])


def _uses_kernel(x: Tensor) -> bool:
    return x.is_cuda and _WITH_TRITON


def _launches_kernel(x: Tensor) -> bool:
    # A compiled graph holds the kernel as an operator.
    return _uses_kernel(x) and not torch.compiler.is_compiling()


def _sampled_product(rowptr: Tensor, col: Tensor, left: Tensor, right: Tensor) -> Tensor:
    # <left[row], right[col]> for each entry of the matrix.
    row = torch.repeat_interleave(rowptr.diff())
    chunk = rows_per_chunk(left.size(1), left.device, _MAX_GATHERED)
    out = left.new_empty(col.numel())
    for start in range(0, col.numel(), chunk):
        part = slice(start, start + chunk)
        out[part] = (left[row[part]] * right[col[part]]).sum(dim=-1)
    return out


@overload
def propagate_mean(x: Tensor, adj: NormalizedAdjacency, num_layers: int) -> Tensor: ...


@overload
def propagate_mean(
    x: tuple[Tensor, Tensor],
    adj: NormalizedAdjacency,
    num_layers: int,
    rows: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]: ...


def propagate_mean(
    x: Tensor | tuple[Tensor, Tensor],
    adj: NormalizedAdjacency,
    num_layers: int,
    rows: tuple[Tensor, Tensor] | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Computes the propagation of `"LightGCN: Simplifying and Powering Graph Convolution Network
    for Recommendation" <https://arxiv.org/abs/2002.02126>`_,

    .. math::
        \frac{1}{L+1} \sum_{l=0}^{L} \hat{A}^l \mathbf{x}

    computed by Horner's rule, from :math:`\mathbf{h}_0 = \mathbf{x}` to :math:`\mathbf{h}_L`:

    .. math::
        \mathbf{h}_l = \frac{1}{l+1} \mathbf{x} + \frac{l}{l+1} \hat{A} \mathbf{h}_{l-1}

    No layer is kept and nothing is saved for the gradient, which is the same sum over the powers of
    :math:`\hat{A}^{\top}`.

    Args:
        x (torch.Tensor or Tuple[torch.Tensor, torch.Tensor]): Node rows ``[N, C]`` for a square
            adjacency, or ``(x_row [R, C], x_col [K, C])`` for a bipartite one of size ``(R, K)``,
            in which case one layer maps ``(x_row, x_col)`` to
            :math:`(\hat{A} x_{col}, \hat{A}^\top x_{row})`.
        adj (NormalizedAdjacency): The prepared adjacency.
        num_layers (int): The number of layers :math:`L`; 0 returns :obj:`x`.
        rows (Tuple[torch.Tensor, torch.Tensor], optional): For a bipartite adjacency, the ids of
            the rows of each side to return, in this order, repeats included. Few rows save time:
            the last layer and the first of the gradient are computed for them alone.
            (default: :obj:`None`, all rows)

    Returns:
        torch.Tensor or Tuple[torch.Tensor, torch.Tensor]: In the form of :obj:`x`; with
        :obj:`rows` the tables of these rows.

    Raises:
        TypeError: If :obj:`adj` is not prepared or :obj:`x` is not floating point.
        ValueError: If :obj:`num_layers` is negative, the shape of :obj:`x` does not fit, or
            :obj:`rows` come with a single tensor.
    """
    if num_layers < 0:
        raise ValueError(f"'num_layers' must not be negative (got {num_layers})")
    if isinstance(x, Tensor) and rows is not None:
        raise ValueError("'rows' must be None where 'x' is one tensor; pass a pair (x_row, x_col)")
    if rows is not None:
        return mean_of_rows(x, adj, num_layers, rows)[0]  # type: ignore[arg-type]
    if num_layers == 0:
        return x
    _check(x, adj)
    if adj.value.requires_grad or not _same_dtype(x):
        # Weights with a gradient need the features of every layer.
        return _by_layers(x, adj, num_layers)
    if isinstance(x, Tensor):
        return _Mean.apply(x, num_layers, *_arrays_of(adj, x))
    return _PairMean.apply(*x, num_layers, *_arrays_of(adj, x[0]))


def mean_of_rows(
    x: tuple[Tensor, Tensor],
    adj: NormalizedAdjacency,
    num_layers: int,
    rows: tuple[Tensor, Tensor],
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    r"""Returns some rows of :func:`propagate_mean` and the same rows of :obj:`x`. A loss that reads
    both then has one gradient table instead of two to add.
    """
    if num_layers == 0:
        out = _take(x, rows)
        return out, out
    _check(x, adj)
    is_plain = _same_dtype(x) and not adj.value.requires_grad
    if not is_plain or torch.compiler.is_compiling():
        return _take(propagate_mean(x, adj, num_layers), rows), _take(x, rows)
    row, col, x_row, x_col = _MeanOfRows.apply(*x, *rows, adj, num_layers)
    return (row, col), (x_row, x_col)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, num_layers, count, *arrays):
        ctx.num_layers, ctx.count = num_layers, count
        ctx.save_for_backward(*arrays)
        return _mean(arrays[:count], x.detach(), num_layers)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        arrays = ctx.saved_tensors
        transposed = arrays[ctx.count :] or arrays
        return (_mean(transposed, grad, ctx.num_layers), None, None) + (None,) * len(arrays)


class _PairMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_row, x_col, num_layers, count, *arrays):
        ctx.num_layers, ctx.count = num_layers, count
        ctx.save_for_backward(*arrays)
        return _pair_mean(arrays, count, x_row.detach(), x_col.detach(), num_layers)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_row, grad_col):
        # The two directions are the blocks of one symmetric matrix: the gradient is the function.
        arrays = ctx.saved_tensors
        grads = _pair_mean(arrays, ctx.count, grad_row, grad_col, ctx.num_layers)
        return (*grads, None, None) + (None,) * len(arrays)


def _mean(arrays, x: Tensor, num_layers: int) -> Tensor:
    out, workspace = x, make_workspace(x, arrays)
    for layer in range(1, num_layers + 1):
        out = spmm(arrays, out, x, 1.0 / (layer + 1), workspace)
    return out


def _pair_mean(arrays, count: int, x_row: Tensor, x_col: Tensor, num_layers: int):
    arrays, arrays_t = arrays[:count], arrays[count:] or arrays
    row, col, workspace = x_row, x_col, make_workspace(x_row, arrays, arrays_t)
    for layer in range(1, num_layers + 1):
        addend, weight = (x_row, x_col), 1.0 / (layer + 1)
        row, col = spmm_pair(arrays, arrays_t, (col, row), addend, weight, workspace)
    return row, col


class _MeanOfRows(torch.autograd.Function):
    # Sums over layers have the requested rows only. The last layer, and the first of the gradient,
    # read the entries of these rows alone where they are few.

    @staticmethod
    def forward(ctx, x_row, x_col, row, col, adj, num_layers):
        ctx.save_for_backward(row, col)
        ctx.adj, ctx.num_layers = adj, num_layers
        x_row, x_col = x_row.detach(), x_col.detach()  # as in `propagate`
        own_row, own_col = _take((x_row, x_col), (row, col))
        out_row, out_col = own_row.clone(), own_col.clone()
        for _ in range(num_layers - 1):
            x_row, x_col = _propagate_pair(x_row, x_col, adj)
            out_row += x_row.index_select(0, row)
            out_col += x_col.index_select(0, col)
        ctx.few = _select_few(adj, row), _select_few(adj.t(), col)
        out_row += _propagate_rows(x_col, adj, row, ctx.few[0])
        out_col += _propagate_rows(x_row, adj.t(), col, ctx.few[1])
        scale = 1.0 / (num_layers + 1)
        return out_row.mul_(scale), out_col.mul_(scale), own_row, own_col

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_row, grad_col, grad_own_row, grad_own_col):
        # The step (x_row, x_col) -> (A x_col, A^T x_row) is its own transpose.
        row, col = ctx.saved_tensors
        scale = 1.0 / (ctx.num_layers + 1)
        grad_row, grad_col = grad_row * scale, grad_col * scale
        few_row, few_col = ctx.few
        out_row = _propagate_from(grad_col, ctx.adj, col, few_col)
        out_col = _propagate_from(grad_row, ctx.adj.t(), row, few_row)
        for _ in range(ctx.num_layers - 1):
            out_row.index_add_(0, row, grad_row)
            out_col.index_add_(0, col, grad_col)
            out_row, out_col = _propagate_pair(out_row, out_col, ctx.adj)
        out_row.index_add_(0, row, grad_row + grad_own_row)
        out_col.index_add_(0, col, grad_col + grad_own_col)
        return out_row, out_col, None, None, None, None


def _propagate_pair(
    x_row: Tensor, x_col: Tensor, adj: NormalizedAdjacency
) -> tuple[Tensor, Tensor]:
    arrays, arrays_t = csr_arrays(adj._csr, x_row), csr_arrays(adj._csr_t, x_row)
    return spmm_pair(arrays, arrays_t, (x_col, x_row))


def _select_few(adj: NormalizedAdjacency, rows: Tensor) -> CSR | None:
    # Some rows of A, where selecting them takes less time than multiplying by all rows. On CUDA
    # counting their entries would wait for the device.
    if adj.device.type != 'cpu':
        return None
    count = adj.rowptr[rows + 1] - adj.rowptr[rows]
    return adj._csr.select(rows) if 2 * int(count.sum()) < adj.nnz else None


def _propagate_rows(x: Tensor, adj: NormalizedAdjacency, rows: Tensor, few: CSR | None) -> Tensor:
    # Some rows of A X; `few` are these rows of A.
    if few is None:
        return propagate(x, adj).index_select(0, rows)
    return spmm(csr_arrays(few, x), x)


def _propagate_from(x: Tensor, adj: NormalizedAdjacency, rows: Tensor, few: CSR | None) -> Tensor:
    # A X where all rows of X but some are zero; `few` are these rows of the transpose of A.
    num_rows, num_cols = adj._size
    if few is None:
        table = x.new_zeros(num_cols, x.size(1)).index_add_(0, rows, x)
        return propagate(table, adj)
    return spmm(csr_arrays(few.t(num_rows), x), x)


def _by_layers(x, adj: NormalizedAdjacency, num_layers: int):
    scale = 1.0 / (num_layers + 1)
    if isinstance(x, Tensor):
        out = x
        for _ in range(num_layers):
            x = propagate(x, adj)
            out = out + x
        return out * scale
    x_row, x_col = x
    out_row, out_col = x_row, x_col
    for _ in range(num_layers):
        x_row, x_col = propagate(x_col, adj), propagate(x_row, adj.t())
        out_row, out_col = out_row + x_row, out_col + x_col
    return out_row * scale, out_col * scale


def _check(x: Tensor | tuple[Tensor, Tensor], adj: NormalizedAdjacency) -> None:
    _check_adj(adj)
    rows, cols = adj._size
    if isinstance(x, Tensor) and rows != cols:
        raise ValueError(
            f"'x' must be a pair (x_row, x_col) for the bipartite {adj} (got a tensor of shape "
            f'{list(x.shape)})'
        )
    parts = [x] if isinstance(x, Tensor) else list(x)
    for part, size in zip(parts, (rows, cols)):
        _check_features(part, size, adj)
    if parts[0].size(1) != parts[-1].size(1):
        raise ValueError(
            f"both parts of 'x' must have the same number of channels (got {parts[0].size(1)} and "
            f'{parts[-1].size(1)})'
        )


def _check_adj(adj: NormalizedAdjacency) -> None:
    if not isinstance(adj, NormalizedAdjacency):
        raise TypeError(
            f"'adj' must be a NormalizedAdjacency (got {type(adj).__name__}); build it once with "
            f'NormalizedAdjacency(edge_index, num_nodes=...)'
        )


def _check_features(x: Tensor, size: int, adj: NormalizedAdjacency, hint: str = '') -> None:
    if not x.is_floating_point():
        raise TypeError(f"'x' must be floating point (got {x.dtype}); call x.float()")
    if x.dim() != 2 or x.size(0) != size:
        raise ValueError(
            f"'x' must have the shape [{size}, channels] to go with {adj} (got {list(x.shape)})"
            + (f'; {hint}' if hint else '')
        )


def _same_dtype(x: Tensor | tuple[Tensor, Tensor]) -> bool:
    return isinstance(x, Tensor) or x[0].dtype == x[1].dtype


def _take(x: Any, rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return x[0].index_select(0, rows[0]), x[1].index_select(0, rows[1])
