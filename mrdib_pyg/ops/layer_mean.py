from typing import overload

from torch import Tensor

from mrdib_pyg.ops.propagate import NormalizedAdjacency, propagate


@overload
def propagate_mean(x: Tensor, adj: NormalizedAdjacency, num_layers: int) -> Tensor: ...


@overload
def propagate_mean(
    x: tuple[Tensor, Tensor], adj: NormalizedAdjacency, num_layers: int
) -> tuple[Tensor, Tensor]: ...


def propagate_mean(
    x: Tensor | tuple[Tensor, Tensor], adj: NormalizedAdjacency, num_layers: int
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

    Returns:
        torch.Tensor or Tuple[torch.Tensor, torch.Tensor]: In the form of :obj:`x`.

    Raises:
        ValueError: If :obj:`num_layers` is negative.
    """
    if num_layers < 0:
        raise ValueError(f"'num_layers' must not be negative (got {num_layers})")
    if num_layers == 0:
        return x
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
