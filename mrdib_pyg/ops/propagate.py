import importlib.util
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrdib_pyg.ops.adjacency import NormalizedAdjacency
from mrdib_pyg.ops.csr import CSR, Workspace

_WITH_TRITON = importlib.util.find_spec('triton') is not None

# Products of gathered rows that the gradient of the edge weights may hold at a time.
_MAX_GATHERED = 2**22


def propagate(x: Tensor, adj: NormalizedAdjacency) -> Tensor:
    r"""Computes the sparse-dense product :math:`\hat{\mathbf{A}} \mathbf{X}`.

    On CPU this is a weighted sum of embedding bags; on CUDA a Triton kernel that cuts long rows
    into pieces, or without Triton a product with a CSR matrix. The gradient with respect to
    :obj:`x` is :math:`\hat{\mathbf{A}}^{\top} \mathbf{G}`; the one with respect to the edge weights
    never holds more than a bounded chunk of gathered rows. On CPU and in the kernel, which adds the
    pieces of a row in their order, results are the same bits in every run.

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
    csr, csr_t = adj._csr, adj._csr_t
    value, arrays = csr_arrays(csr, x)
    if csr is csr_t:  # No tensor twice: torch.compile does not trace that.
        return _Propagate.apply(x, value, len(arrays), *arrays)
    value_t, arrays_t = csr_arrays(csr_t, x)
    return _Propagate.apply(x, value, len(arrays), *arrays, value_t, *arrays_t)


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, value, count, *arrays):
        # The features are needed by the gradient of the weights alone.
        x_saved = x if ctx.needs_input_grad[1] else None
        ctx.count = count
        ctx.save_for_backward(x_saved, value, *arrays)
        # Detached, because embedding_bag prepares for a backward pass of its own otherwise, which
        # takes it half as long again.
        return spmm((value.detach(), *arrays[:count]), x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, value, *arrays = ctx.saved_tensors
        grad_x = grad_value = None
        if ctx.needs_input_grad[0]:
            # Nothing follows the arrays of a symmetric matrix.
            grad_x = spmm(arrays[ctx.count :] or (value, *arrays), grad)
        if ctx.needs_input_grad[1]:
            grad_value = _sampled_product(arrays[0], arrays[1], grad, x)
        return (grad_x, grad_value, None) + (None,) * len(arrays)


def csr_arrays(csr: CSR, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    r"""Returns the values and the indices of a matrix as :func:`spmm` takes them with :obj:`x`:
    an autograd function is handed tensors, one by one.
    """
    if _uses_kernel(x):  # It sums in float32 and is given values of that precision.
        return csr.value, (csr.rowptr, csr.col, *csr.pieces)
    if x.device.type == 'cpu':
        return csr.values(x.dtype), csr.indices(x.dtype)
    return csr.values(x.dtype), (csr.rowptr, csr.col)


def spmm(
    arrays: tuple[Tensor, ...],
    x: Tensor,
    addend: Tensor | None = None,
    weight: float = 0.0,
    workspace: Workspace | None = None,
) -> Tensor:
    r"""Computes :math:`\mathbf{A} \mathbf{X}`, or with an addend
    :math:`(1 - w) \mathbf{A} \mathbf{X} + w \mathbf{B}`, without a gradient.

    Args:
        arrays (tuple[Tensor, ...]): The values, then the indices of :func:`csr_arrays`.
        x (Tensor): The dense matrix.
        addend (Tensor, optional): The matrix :math:`\mathbf{B}`. (default: :obj:`None`)
        weight (float, optional): Its weight :math:`w`. (default: :obj:`0.0`)
        workspace (Tuple[Tensor, Tensor], optional): What :func:`make_workspace` returned for the
            matrix. (default: :obj:`None`)
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
        out = _csr_matmul(rowptr, col, value, x)
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
    r"""Computes :func:`spmm` of a matrix and of its transpose: on CUDA both in one launch.

    Args:
        arrays (tuple[Tensor, ...]): Values and indices of the matrix.
        arrays_t (tuple[Tensor, ...]): Those of its transpose.
        x (Tuple[Tensor, Tensor]): What each is multiplied with.
        addend (Tuple[Tensor, Tensor], optional): What is added to each. (default: :obj:`None`)
        weight (float, optional): The weight of both. (default: :obj:`0.0`)
        workspace (Tuple[Tensor, Tensor], optional): What :func:`make_workspace` returned for both
            matrices. (default: :obj:`None`)
    """
    if _uses_kernel(x[0]) and not torch.compiler.is_compiling():
        from mrdib_pyg.ops.kernels.csr_matmul import csr_matmul_pair

        return csr_matmul_pair(
            (arrays, arrays_t), x, alpha=1.0 - weight, addend=addend, beta=weight,
            workspace=workspace,
        )  # fmt: skip
    first, second = (None, None) if addend is None else addend
    return spmm(arrays, x[0], first, weight), spmm(arrays_t, x[1], second, weight)


def make_workspace(x: Tensor, *arrays: tuple[Tensor, ...]) -> Workspace | None:
    r"""Returns what products of these matrices, one after the other, need besides their results,
    if anything.

    Args:
        x (Tensor): What they are multiplied with.
        *arrays (tuple[Tensor, ...]): The arrays of the matrices that are multiplied at once.
    """
    if not _uses_kernel(x) or torch.compiler.is_compiling():
        return None
    from mrdib_pyg.ops.kernels.csr_matmul import make_workspace

    return make_workspace(x, *[each[3:] for each in arrays])


def _uses_kernel(x: Tensor) -> bool:
    return x.is_cuda and _WITH_TRITON


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
