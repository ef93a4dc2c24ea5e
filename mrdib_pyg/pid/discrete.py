import math
from itertools import combinations

import torch
from torch import Tensor

from mrdib_pyg.pid.atoms import MEASURES, atoms
from mrdib_pyg.pid.pid import PID

BASES = {'nats': 1.0, 'bits': math.log(2)}


def decompose(table: Tensor, measure: str = 'broja', base: str = 'nats') -> PID:
    r"""Decomposes the information that two sources give about a target."""
    if not isinstance(table, Tensor):
        raise TypeError(f"'table' must be a tensor (got {type(table).__name__})")
    if table.dim() != 3:
        raise ValueError(
            f"'table' must have the shape [num_x1, num_x2, num_y] (got {list(table.shape)})"
        )
    _check_names(measure, base)
    return _to_pids(atoms(to_probabilities(table)[None], measure), base)[0]


def decompose_pairs(
    table: Tensor, measure: str = 'broja', base: str = 'nats'
) -> dict[tuple[int, int], PID]:
    r"""Decomposes the information of each pair of two or more sources about a target."""
    if not isinstance(table, Tensor):
        raise TypeError(f"'table' must be a tensor (got {type(table).__name__})")
    if table.dim() < 3:
        raise ValueError(
            f"'table' must have the shape [num_x1, num_x2, ..., num_y] (got {list(table.shape)})"
        )
    _check_names(measure, base)
    p = to_probabilities(table)
    out = {}
    sources = range(table.dim() - 1)
    for i, j in combinations(sources, 2):
        others = [k for k in sources if k not in (i, j)]
        pair = p.sum(dim=others) if others else p
        out[i, j] = _to_pids(atoms(pair[None], measure), base)[0]
    return out


def to_probabilities(table: Tensor) -> Tensor:
    r"""Checks a table of probabilities or counts, and divides it by its sum."""
    p = table.detach().to('cpu', torch.float64)
    if p.numel() == 0:
        raise ValueError(f"'table' is empty (got the shape {list(table.shape)})")
    wrong = ~(p >= 0) | p.isinf()
    if bool(wrong.any()):
        where = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"'table' must hold probabilities or counts (got {p[tuple(where)].item()} at {where})"
        )
    largest = p.max()
    if largest == 0:
        raise ValueError("'table' has no mass: all of its entries are zero")
    p = p / largest
    return p / p.sum()


def _check_names(measure: str, base: str) -> None:
    if measure not in MEASURES:
        raise ValueError(f"'measure' must be one of {', '.join(MEASURES)} (got '{measure}')")
    if base not in BASES:
        raise ValueError(f"'base' must be one of {', '.join(BASES)} (got '{base}')")


def _to_pids(values: Tensor, base: str) -> list[PID]:
    rows = (values / BASES[base]).tolist()
    return [PID(r, (u1, u2), s, total) for r, u1, u2, s, total in rows]
