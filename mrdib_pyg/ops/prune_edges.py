from fractions import Fraction

import torch
from torch import Tensor


@torch.no_grad()
def prune_edges(
    edge_index: Tensor,
    ratio: float,
    *,
    num_nodes: tuple[int, int],
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draws the edges that the degree-sensitive pruning of `"A Tale of Two Graphs: Freezing and
    Denoising Graph Structures for Multimodal Recommendation" <https://arxiv.org/abs/2211.06924>`_
    keeps: :math:`\lfloor |\mathcal{E}| (1 - \rho) \rfloor` of them, without replacement, with
    probabilities

    .. math::
        \pi_{(u, i)} \propto \frac{1}{\sqrt{d_u d_i}}

    Kept are the edges with the smallest :math:`\mathrm{Exp}(1) / \pi_e`, which has the same
    distribution as one draw after the other.

    Args:
        edge_index (Tensor): The edges, :math:`(2, |\mathcal{E}|)`, from users to items.
        ratio (float): The ratio :math:`\rho` of edges to drop. It is read as the decimal number
            it is printed as, so that 0.8 of 10 edges leaves 2.
        num_nodes (tuple[int, int]): The numbers of users and items.
        generator (torch.Generator, optional): Draws the edges. (default: :obj:`None`, the global
            seed)

    Returns:
        Tensor: The positions of the kept edges in :obj:`edge_index`, in increasing order.

    Raises:
        ValueError: If :obj:`ratio` is not in :math:`[0, 1)`.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"'ratio' must lie in [0, 1) (got {ratio})")
    row, col = edge_index
    num_edges = row.numel()
    num_kept = int(num_edges * (1 - Fraction(str(float(ratio)))))
    degree = torch.bincount(row, minlength=num_nodes[0])[row].double()
    degree = degree * torch.bincount(col, minlength=num_nodes[1])[col]
    draw = torch.empty_like(degree).exponential_(generator=generator)
    return torch.topk(draw * degree.sqrt(), num_kept, largest=False).indices.sort().values
