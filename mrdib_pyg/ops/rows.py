from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries of gathered rows that one chunk may hold: 2 MiB in float32.
_MAX_GATHERED = 2**19


def linear_rows(x: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    r"""Computes :math:`\mathbf{X}_{rows} \mathbf{W}^{\top}`, a linear map of some rows of a wide
    matrix.

    On CPU the rows are gathered a chunk at a time into one small buffer, in the backward pass
    again: allocating all of them would take longer than copying them.

    Args:
        x (Tensor): The matrix.
        rows (Tensor): The ids of the rows.
        weight (Tensor): The weight of the map.

    Shapes:
        - **input:** matrix :math:`(N, F)`, ids :math:`(n)`, weight :math:`(C, F)`
        - **output:** :math:`(n, C)`
    """
    is_plain = torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type)
    if x.device.type != 'cpu' or is_plain:
        return F.linear(F.embedding(rows, x), weight)
    return _LinearRows.apply(x, rows, weight)


class _LinearRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rows, weight):
        ctx.save_for_backward(x, rows, weight)
        out = x.new_empty(rows.numel(), weight.size(0))
        for part, gathered in _chunks(x, rows):
            torch.mm(gathered, weight.t(), out=out[part])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, rows, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[2]:
            grad_weight = torch.zeros_like(weight)
            for part, gathered in _chunks(x, rows):
                grad_weight.addmm_(grad[part].t(), gathered)
        if ctx.needs_input_grad[0]:
            grad_x = torch.zeros_like(x)
            for part, ids in _parts(x, rows):
                grad_x.index_add_(0, ids, grad[part] @ weight)
        return grad_x, None, grad_weight


def _parts(x: Tensor, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    size = max(_MAX_GATHERED // max(x.size(1), 1), 1)
    for start in range(0, rows.numel(), size):
        part = slice(start, start + size)
        yield part, rows[part]


def _chunks(x: Tensor, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    size = max(_MAX_GATHERED // max(x.size(1), 1), 1)
    buffer = x.detach().new_empty(min(size, rows.numel()), x.size(1))
    for part, ids in _parts(x, rows):
        yield part, torch.index_select(x.detach(), 0, ids, out=buffer[: ids.numel()])


# Norms that the squares and the epsilon of `F.normalize` can deal with, in single precision.
_SMALLEST, _LARGEST = 1e-9, 1e15


def normalize_rows(x: Tensor) -> Tensor:
    r"""Scales each row to unit Euclidean norm, whatever its scale; a row of zeros stays.

    As :func:`torch.nn.functional.normalize`, which leaves very small rows small and takes the norm
    of very large ones for infinite.
    """
    if x.numel() == 0:
        return x
    largest = torch.linalg.vector_norm(x, float('inf'), dim=-1, keepdim=True)  # makes no copy
    is_extreme = (largest > _LARGEST) | ((largest < _SMALLEST) & (largest > 0))
    if bool(is_extreme.any()):
        x = torch.where(is_extreme, x / largest, x)
    return F.normalize(x, dim=-1)
