"""Decompositions of many joint distributions at once."""

import warnings

import torch
from torch import Tensor

from mrdib_pyg.pid.broja import broja

MEASURES = ('broja', 'imin', 'mmi')
MAX_GAP = 1e-6  # nats


@torch.no_grad()
def atoms(tables: Tensor, measure: str = 'broja') -> Tensor:
    r"""Decomposes each of many joint distributions. See :func:`mrdib_pyg.pid.decompose`.

    Args:
        tables (torch.Tensor): Probabilities in :obj:`torch.float64`, of sum one in each table.
        measure (str, optional): :obj:`"broja"`, :obj:`"imin"` or :obj:`"mmi"`.
            (default: :obj:`"broja"`)

    Shapes:
        - **input:** tables :math:`(B, n_1, n_2, n_y)`
        - **output:** :math:`(B, 5)`: redundant, unique to the first source, unique to the second,
          synergistic, and their sum, in nats

    Raises:
        ValueError: If the shape does not fit or the measure is unknown.
    """
    if tables.dim() != 4:
        raise ValueError(
            f"'tables' must have the shape [num_tables, num_x1, num_x2, num_y] "
            f'(got {list(tables.shape)})'
        )
    if measure not in MEASURES:
        raise ValueError(f"'measure' must be one of {', '.join(MEASURES)} (got '{measure}')")
    p1y, p2y = tables.sum(dim=2), tables.sum(dim=1)
    i1, i2 = information(p1y), information(p2y)
    total = information(tables.flatten(1, 2))
    # Inequalities that hold but for rounding, and for the gap of the solver, are made to hold.
    total = torch.maximum(total, torch.maximum(i1, i2))
    if measure == 'broja':
        union = _union_information(tables)
        union = torch.minimum(union, torch.minimum(total, i1 + i2))
        union = torch.maximum(union, torch.maximum(i1, i2))
        unique1, unique2 = union - i2, union - i1
        redundant = (i1 + i2 - union).clamp(min=0)
        synergistic = total - union
    else:
        if measure == 'mmi':
            redundant = torch.minimum(i1, i2)
        else:
            specific = torch.minimum(specific_information(p1y), specific_information(p2y))
            redundant = (p1y.sum(dim=1) * specific).sum(dim=1)
            redundant = torch.minimum(redundant, torch.minimum(i1, i2)).clamp(min=0)
        unique1, unique2 = i1 - redundant, i2 - redundant
        synergistic = (total - i1 - i2 + redundant).clamp(min=0)
    return torch.stack([redundant, unique1, unique2, synergistic, total], dim=1)


def _union_information(tables: Tensor) -> Tensor:
    out = broja(tables)
    failed = ~(out.gap <= MAX_GAP)
    if bool(failed.any()):
        warnings.warn(
            f'the BROJA program of {int(failed.sum())} of {len(tables)} tables stopped at a '
            f'duality gap of up to {float(out.gap.max()):.1e} nats (aimed at {MAX_GAP:g}): that is '
            "how far off their atoms may be; merge rare symbols, or compare with measure='mmi'",
            stacklevel=4,
        )
    return out.information


def information(p: Tensor) -> Tensor:
    r"""The mutual information in nats of each of the joint distributions :math:`(B, n_x, n_y)`."""
    log_ratio = _log(p) - _log(p.sum(dim=1, keepdim=True)) - _log(p.sum(dim=2, keepdim=True))
    return (p * log_ratio).sum(dim=(1, 2)).clamp(min=0)


def specific_information(p: Tensor) -> Tensor:
    r"""What :math:`X` tells about each outcome of :math:`Y`, in nats, :math:`(B, n_y)`: the
    Kullback-Leibler divergence of :math:`p(x|y)` from :math:`p(x)`."""
    py = p.sum(dim=1, keepdim=True)
    log_ratio = _log(p) - _log(py) - _log(p.sum(dim=2, keepdim=True))
    return (p * log_ratio).sum(dim=1) / torch.where(py > 0, py, 1.0)[:, 0]


def _log(p: Tensor) -> Tensor:
    return torch.where(p > 0, p, 1.0).log()  # whatever has no mass is multiplied by zero
