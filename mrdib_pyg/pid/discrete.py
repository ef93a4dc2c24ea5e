import math
from itertools import combinations

import torch
from torch import Tensor

from mrdib_pyg.pid.atoms import MEASURES, atoms
from mrdib_pyg.pid.pid import PID

BASES = {'nats': 1.0, 'bits': math.log(2)}


def decompose(table: Tensor, measure: str = 'broja', base: str = 'nats') -> PID:
    r"""Decomposes the information that two discrete sources give about a target,

    .. math::
        I(X_1, X_2; Y) = R + U_1 + U_2 + S, \qquad I(X_m; Y) = R + U_m ,

    into non-negative atoms. One more equation decides:

    * :obj:`"broja"` (`"Quantifying Unique Information" <https://arxiv.org/abs/1311.2852>`_):
      :math:`R + U_1 + U_2` is the smallest :math:`I_Q(X_1, X_2; Y)` of all joint distributions
      :math:`Q` with :math:`Q(x_m, y) = P(x_m, y)`. This convex program is solved by a primal-dual
      interior-point method until its duality gap, which bounds the error of every atom, is
      below :math:`10^{-8}` nats.
    * :obj:`"imin"` (`"Nonnegative Decomposition of Multivariate Information"
      <https://arxiv.org/abs/1004.2515>`_): :math:`R = \sum_y P(y) \min_m
      \mathrm{KL}(P(x_m | y) \,\|\, P(x_m))`.
    * :obj:`"mmi"` (`"Exploration of synergistic and redundant information sharing in static and
      dynamical Gaussian systems" <https://arxiv.org/abs/1411.2832>`_):
      :math:`R = \min_m I(X_m; Y)`.

    .. warning::
        The measures do not mean the same. Under MMI one of :math:`U_1, U_2` is always zero. Two
        parts that are independent, symmetric and additive have :math:`U_1 = U_2 = 0` under both
        MMI and BROJA: they show up as redundancy and synergy. :math:`I_\mathrm{min}` asks
        whether sources tell equally *much* about an outcome, not whether they tell the same:
        two independent bits that are copied to the target are redundant by one bit.

    Args:
        table (torch.Tensor): The joint distribution :math:`P(x_1, x_2, y)`, or counts: it is
            divided by its sum. Computed in :obj:`torch.float64` on the CPU, without gradient.
        measure (str, optional): :obj:`"broja"`, :obj:`"imin"` or :obj:`"mmi"`.
            (default: :obj:`"broja"`)
        base (str, optional): The unit of the result, :obj:`"nats"` or :obj:`"bits"`.
            (default: :obj:`"nats"`)

    Shapes:
        - **input:** table :math:`(n_1, n_2, n_y)`

    Returns:
        PID: The atoms, and their sum :math:`I(X_1, X_2; Y)`.

    Raises:
        TypeError: If the table is no tensor of real numbers.
        ValueError: If the table has another number of dimensions, is empty, holds a negative,
            infinite or NaN entry or zeros only, or the measure or the base is unknown.
    """
    _check_table(table)
    if table.dim() != 3:
        hint = '; see decompose_pairs for more sources' if table.dim() > 3 else ''
        raise ValueError(
            f"'table' must have the shape [num_x1, num_x2, num_y] (got {list(table.shape)}){hint}"
        )
    _check_names(measure, base)
    return _to_pid(atoms(to_probabilities(table)[None], measure), base)


def decompose_pairs(
    table: Tensor, measure: str = 'broja', base: str = 'nats'
) -> dict[tuple[int, int], PID]:
    r"""Decomposes the information that each pair of two or more discrete sources gives about a
    target. The other sources are summed out. See :func:`decompose`.

    Args:
        table (torch.Tensor): The joint distribution :math:`P(x_0, \ldots, x_{M-1}, y)`, or
            counts. The target is the last dimension.
        measure (str, optional): :obj:`"broja"`, :obj:`"imin"` or :obj:`"mmi"`.
            (default: :obj:`"broja"`)
        base (str, optional): The unit of the result, :obj:`"nats"` or :obj:`"bits"`.
            (default: :obj:`"nats"`)

    Shapes:
        - **input:** table :math:`(n_0, \ldots, n_{M-1}, n_y)` with :math:`M \geq 2`

    Returns:
        Dict[Tuple[int, int], PID]: The decompositions by the dimensions of the two sources,
        :obj:`(0, 1)`, :obj:`(0, 2)` and so on, the smaller first.

    Raises:
        TypeError: If the table is no tensor of real numbers.
        ValueError: As :func:`decompose` does, and if there are fewer than two sources.
    """
    _check_table(table)
    if table.dim() < 3:
        raise ValueError(
            f"'table' must have the shape [num_x0, num_x1, ..., num_y] (got {list(table.shape)})"
        )
    _check_names(measure, base)
    p = to_probabilities(table)
    sources = range(table.dim() - 1)
    out = {}
    for pair in combinations(sources, 2):
        others = [source for source in sources if source not in pair]
        marginal = p.sum(dim=others) if others else p
        out[pair] = _to_pid(atoms(marginal[None], measure), base)
    return out


def to_probabilities(table: Tensor) -> Tensor:
    r"""Checks probabilities or counts, and divides them by their sum."""
    p = table.detach().to('cpu', torch.float64)
    if p.numel() == 0:
        raise ValueError(f"'table' must not be empty (got {list(table.shape)})")
    wrong = ~(p >= 0) | p.isinf()
    if bool(wrong.any()):
        where = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"'table' must hold probabilities or counts, finite and not negative "
            f'(got {p[tuple(where)].item():g} at {where})'
        )
    largest = p.max()
    if largest == 0:
        raise ValueError("'table' must have some mass (got zeros only)")
    p = p / largest  # so that no sum overflows
    return p / p.sum()


def _check_table(table: Tensor) -> None:
    if not isinstance(table, Tensor):
        raise TypeError(
            f"'table' must be a tensor (got {type(table).__name__}); see torch.as_tensor"
        )
    if table.is_complex():
        raise TypeError(f"'table' must hold real numbers (got {table.dtype})")


def _check_names(measure: str, base: str) -> None:
    if measure not in MEASURES:
        raise ValueError(f"'measure' must be one of {', '.join(MEASURES)} (got '{measure}')")
    check_base(base)


def check_base(base: str) -> None:
    r"""Refuses an unknown unit of information."""
    if base not in BASES:
        raise ValueError(f"'base' must be one of {', '.join(BASES)} (got '{base}')")


def _to_pid(values: Tensor, base: str) -> PID:
    redundant, unique1, unique2, synergistic, total = (values[0] / BASES[base]).tolist()
    return PID(redundant, (unique1, unique2), synergistic, total)
