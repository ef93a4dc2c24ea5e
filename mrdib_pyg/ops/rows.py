"""Rows of matrices: how many at a time, some of them through a linear map, unit norm."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrdib_pyg.ops._fixed_shapes import can_read

_MAX_GATHERED = 2**19  # entries of gathered rows of a chunk on CPU: 2 MiB in float32
_MAX_ON_ACCELERATOR = 2**26  # entries of any chunk on an accelerator: 256 MiB in float32


def rows_per_chunk(width: int, device: torch.device, on_cpu: int) -> int:
    r"""Returns how many rows of a width may be computed at a time, for at most :obj:`on_cpu`
    entries on CPU, where caches decide.
    """
    budget = on_cpu if device.type == 'cpu' else _MAX_ON_ACCELERATOR
    return max(budget // max(width, 1), 1)


def linear_rows(x: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    r"""Computes :math:`\mathbf{X}_{rows} \mathbf{W}^{\top}`, a linear map of some rows of a wide
    matrix.

    On CPU the rows are gathered chunk by chunk into one small buffer, and again in the backward
    pass: allocating all of them would take longer than copying them.

    Args:
        x (Tensor): The matrix.
        rows (Tensor): The ids of the rows.
        weight (Tensor): The weight of the map.

    Shapes:
        - **input:** matrix :math:`(N, F)`, ids :math:`(n)`, weight :math:`(C, F)`
        - **output:** :math:`(n, C)`
    """
    if not can_read(x) or torch.is_autocast_enabled(x.device.type):
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
    size = rows_per_chunk(x.size(1), x.device, _MAX_GATHERED)
    for start in range(0, rows.numel(), size):
        part = slice(start, start + size)
        yield part, rows[part]


def _chunks(x: Tensor, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    x, buffer = x.detach(), None
    for part, ids in _parts(x, rows):
        if buffer is None:
            buffer = x.new_empty(ids.numel(), x.size(1))
        yield part, torch.index_select(x, 0, ids, out=buffer[: ids.numel()])


# Norms that the squares and the epsilon of `F.normalize` can deal with, in single precision.
_SMALLEST, _LARGEST = 1e-9, 1e15


def normalize_rows(x: Tensor) -> Tensor:
    r"""Scales each row to unit Euclidean norm; a row of zeros stays. Unlike :func:`F.normalize
    <torch.nn.functional.normalize>`, it also does so where the square of a norm leaves the range.
    """
    if x.numel() == 0:
        return x
    largest = torch.linalg.vector_norm(x, float('inf'), dim=-1, keepdim=True)  # makes no copy
    is_extreme = (largest > _LARGEST) | ((largest < _SMALLEST) & (largest > 0))
    if bool(is_extreme.any()):
        x = torch.where(is_extreme, x / largest, x)
    return F.normalize(x, dim=-1)
