from typing import Any, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrdib_pyg.ops.propagate import NormalizedAdjacency, propagate


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
    r"""The propagation of `"LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation" <https://arxiv.org/abs/2002.02126>`_,

    .. math::
        \frac{1}{L+1} \sum_{l=0}^{L} \hat{A}^l \mathbf{x}

    Args:
        x (torch.Tensor or Tuple[torch.Tensor, torch.Tensor]): Node rows ``[N, C]`` for a square
            adjacency, or ``(x_row [R, C], x_col [K, C])`` for a bipartite one of size ``(R, K)``,
            in which case one layer maps ``(x_row, x_col)`` to
            :math:`(\hat{A} x_{col}, \hat{A}^\top x_{row})`.
        adj (NormalizedAdjacency): The prepared adjacency.
        num_layers (int): The number of layers :math:`L`; 0 returns :obj:`x`.
        rows (Tuple[torch.Tensor, torch.Tensor], optional): For a bipartite adjacency, the indices
            of the rows of both sides to return: the mean is taken of these alone.
            (default: :obj:`None`, all)

    Returns:
        torch.Tensor or Tuple[torch.Tensor, torch.Tensor]: In the form of :obj:`x`.

    Raises:
        ValueError: If :obj:`num_layers` is negative, or :obj:`rows` are asked of one tensor.
    """
    if num_layers < 0:
        raise ValueError(f"'num_layers' must not be negative (got {num_layers})")
    if isinstance(x, Tensor) and rows is not None:
        raise ValueError("'rows' go with a pair of row and column features, not with one tensor")
    if num_layers == 0:
        return x if rows is None else _take(x, rows)
    scale = 1.0 / (num_layers + 1)
    if isinstance(x, Tensor):
        out = x
        for _ in range(num_layers):
            x = propagate(x, adj)
            out = out + x
        return out * scale

    x_row, x_col = x
    if rows is not None and not adj.value.requires_grad and not torch.compiler.is_compiling():
        return _MeanOfRows.apply(x_row, x_col, *rows, adj, num_layers)
    out_row, out_col = x_row, x_col
    for _ in range(num_layers):
        x_row, x_col = propagate(x_col, adj), propagate(x_row, adj.t())
        out_row, out_col = out_row + x_row, out_col + x_col
    out_row, out_col = out_row * scale, out_col * scale
    return (out_row, out_col) if rows is None else _take((out_row, out_col), rows)


class _MeanOfRows(torch.autograd.Function):
    # Sums over layers are of the rows asked for, forward and backward; no gradient table is made
    # per layer.

    @staticmethod
    def forward(ctx, x_row, x_col, row, col, adj, num_layers):
        ctx.save_for_backward(row, col)
        ctx.adj, ctx.num_layers, ctx.num_nodes = adj, num_layers, (x_row.size(0), x_col.size(0))
        out_row, out_col = _take((x_row, x_col), (row, col))
        for _ in range(num_layers):
            x_row, x_col = propagate(x_col, adj), propagate(x_row, adj.t())
            out_row += x_row.index_select(0, row)
            out_col += x_col.index_select(0, col)
        scale = 1.0 / (num_layers + 1)
        return out_row.mul_(scale), out_col.mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_row, grad_col):
        # The step (x_row, x_col) -> (A x_col, A^T x_row) is its own transpose.
        row, col = ctx.saved_tensors
        scale = 1.0 / (ctx.num_layers + 1)
        grad_row, grad_col = grad_row * scale, grad_col * scale
        num_rows, num_cols = ctx.num_nodes
        out_row = grad_row.new_zeros(num_rows, grad_row.size(1)).index_add_(0, row, grad_row)
        out_col = grad_col.new_zeros(num_cols, grad_col.size(1)).index_add_(0, col, grad_col)
        for _ in range(ctx.num_layers):
            out_row, out_col = propagate(out_col, ctx.adj), propagate(out_row, ctx.adj.t())
            out_row.index_add_(0, row, grad_row)
            out_col.index_add_(0, col, grad_col)
        return out_row, out_col, None, None, None, None


def _take(x: Any, rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return x[0].index_select(0, rows[0]), x[1].index_select(0, rows[1])
