"""Decompositions of many joint distributions at once."""

import math
import warnings
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from mrdib_pyg.pid.broja import broja

MEASURES = ('broja', 'imin', 'mmi')

MAX_GAP = 1e-6  # nats


@torch.no_grad()
def atoms(tables: Tensor, measure: str = 'broja') -> Tensor:
    r"""Decomposes joint distributions ``[B, n_1, n_2, n_y]`` in :obj:`torch.float64` to ``[B, 5]``
    in nats: redundant, unique to the first and to the second source, synergistic, and their sum.
    """
    p1y, p2y = tables.sum(dim=2), tables.sum(dim=1)
    i1, i2 = information(p1y), information(p2y)
    total = information(tables.flatten(1, 2))
    # Enforces inequalities that rounding and the gap of the solver may violate.
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
            f'duality gap of up to {float(out.gap.max()):.1e} nats instead of {MAX_GAP:g}, which '
            "bounds the error of the atoms; merge rare symbols, or compare with measure='mmi'",
            stacklevel=4,
        )
    return out.information


def information(p: Tensor) -> Tensor:
    r"""The mutual information in nats of joint distributions, ``[B, n_x, n_y]`` to ``[B]``."""
    log_ratio = _log(p) - _log(p.sum(dim=1, keepdim=True)) - _log(p.sum(dim=2, keepdim=True))
    return (p * log_ratio).sum(dim=(1, 2)).clamp(min=0)


def specific_information(p: Tensor) -> Tensor:
    r"""The Kullback-Leibler divergence of :math:`p(x|y)` from :math:`p(x)` for each outcome of
    :math:`Y` in nats, ``[B, n_y]``."""
    py = p.sum(dim=1, keepdim=True)
    log_ratio = _log(p) - _log(py) - _log(p.sum(dim=2, keepdim=True))
    return (p * log_ratio).sum(dim=1) / torch.where(py > 0, py, 1.0)[:, 0]


def _log(p: Tensor) -> Tensor:
    return torch.where(p > 0, p, 1.0).log()  # entries without mass are multiplied by zero


class PID(NamedTuple):
    r"""A partial information decomposition of two sources and a target,

    .. math::
        I(X_1, X_2; Y) = R + U_1 + U_2 + S, \qquad I(X_m; Y) = R + U_m

    (`"Nonnegative Decomposition of Multivariate Information" <https://arxiv.org/abs/1004.2515>`_).

    Args:
        redundant (float): The information :math:`R` in either source.
        unique (Tuple[float, float]): The information :math:`U_1` in only the first source, and
            :math:`U_2` in only the second.
        synergistic (float): The information :math:`S` in only both sources together.
        total (float): The information :math:`I(X_1, X_2; Y)` of both sources.
    """

    redundant: float
    unique: tuple[float, float]
    synergistic: float
    total: float

    @property
    def informations(self) -> tuple[float, float]:
        r"""The information :math:`I(X_m; Y)` of each source."""
        return self.redundant + self.unique[0], self.redundant + self.unique[1]


def choose_bins(num_pairs: int, max_bins: int = 12, max_bias: float = 0.01) -> int:
    r"""The number of bins :math:`B` for each of two scores, 2 to :obj:`max_bins`, that keeps the
    bias of their joint table, about :math:`B^2 / 2n` nats for :math:`n` pairs, below
    :obj:`max_bias`.
    """
    return min(max_bins, max(2, int(math.sqrt(2 * max_bias * num_pairs))))


def quantile_bins(score: Tensor, num_bins: int) -> Tensor:
    r"""The quantile bin of each score, ``[n]``. Equal scores share a bin."""
    edges = score.sort().values[torch.arange(1, num_bins) * len(score) // num_bins]
    return torch.bucketize(score, torch.unique(edges), right=True)


def user_weights(user: Tensor, num_samples: int, seed: int) -> Tensor:
    r"""How often each pair counts in the sample (row 0) and in resamples of its users with
    replacement, ``[1 + num_samples, n]``.
    """
    ids, inverse = torch.unique(user, return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    counts = torch.ones(1 + num_samples, len(ids), dtype=torch.float64)
    for row in counts[1:]:
        drawn = torch.randint(len(ids), (len(ids),), generator=generator)
        row.copy_(torch.bincount(drawn, minlength=len(ids)))
    return counts[:, inverse]


def joint_table(weights: Tensor, *bins: Tensor) -> Tensor:
    r"""The weighted joint distribution of bins, weights ``[R, n]`` to ``[R, B_1, B_2, ...]``."""
    sizes = [int(x.max()) + 1 for x in bins]
    cell = torch.zeros_like(bins[0])
    for x, size in zip(bins, sizes):
        cell = cell * size + x
    table = torch.zeros(math.prod(sizes), len(weights), dtype=weights.dtype)
    table.index_add_(0, cell, weights.t().contiguous())
    table = table.t() / weights.sum(dim=1, keepdim=True)
    return table.reshape(-1, *sizes)


BASES = {'nats': 1.0, 'bits': math.log(2)}


def decompose(table: Tensor, measure: str = 'broja', base: str = 'nats') -> PID:
    r"""Decomposes the information of two discrete sources about a target into non-negative atoms,

    .. math::
        I(X_1, X_2; Y) = R + U_1 + U_2 + S, \qquad I(X_m; Y) = R + U_m .

    The measure adds the missing equation:

    * :obj:`"broja"` (`"Quantifying Unique Information" <https://arxiv.org/abs/1311.2852>`_):
      :math:`R + U_1 + U_2` is the smallest :math:`I_Q(X_1, X_2; Y)` of all joint distributions
      :math:`Q` with :math:`Q(x_m, y) = P(x_m, y)`. A primal-dual interior-point method solves
      this convex program to a duality gap below :math:`10^{-8}` nats, which bounds the error of
      every atom.
    * :obj:`"imin"` (`"Nonnegative Decomposition of Multivariate Information"
      <https://arxiv.org/abs/1004.2515>`_): :math:`R = \sum_y P(y) \min_m
      \mathrm{KL}(P(x_m | y) \,\|\, P(x_m))`.
    * :obj:`"mmi"` (`"Exploration of synergistic and redundant information sharing in static and
      dynamical Gaussian systems" <https://arxiv.org/abs/1411.2832>`_):
      :math:`R = \min_m I(X_m; Y)`.

    .. warning::
        The measures mean different things. MMI always sets one of :math:`U_1, U_2` to zero. Two
        independent, symmetric, additive sources have :math:`U_1 = U_2 = 0` under both MMI and
        BROJA: they appear as redundancy and synergy. :math:`I_\mathrm{min}` asks whether sources
        tell equally *much* about an outcome, not whether they tell the same: two independent bits
        copied to the target are redundant by one bit.

    Args:
        table (torch.Tensor): The joint distribution :math:`P(x_1, x_2, y)` or counts. The result
            is computed in :obj:`torch.float64` on the CPU, without gradient.
        measure (str, optional): :obj:`"broja"`, :obj:`"imin"` or :obj:`"mmi"`.
            (default: :obj:`"broja"`)
        base (str, optional): The unit of the result, :obj:`"nats"` or :obj:`"bits"`.
            (default: :obj:`"nats"`)

    Shapes:
        - **input:** table :math:`(n_1, n_2, n_y)`

    Returns:
        PID: The atoms, and their sum :math:`I(X_1, X_2; Y)`.

    Raises:
        TypeError: If the table is not a tensor of real numbers.
        ValueError: If the table does not have three dimensions, is empty, holds a negative,
            infinite or NaN entry or only zeros, or the measure or the base is unknown.
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
    r"""Decomposes the information of each pair of discrete sources about a target. The other
    sources are summed out. See :func:`decompose`.

    Args:
        table (torch.Tensor): The joint distribution :math:`P(x_0, \ldots, x_{M-1}, y)` or counts.
        measure (str, optional): :obj:`"broja"`, :obj:`"imin"` or :obj:`"mmi"`.
            (default: :obj:`"broja"`)
        base (str, optional): The unit of the result, :obj:`"nats"` or :obj:`"bits"`.
            (default: :obj:`"nats"`)

    Shapes:
        - **input:** table :math:`(n_0, \ldots, n_{M-1}, n_y)` with :math:`M \geq 2`

    Returns:
        Dict[Tuple[int, int], PID]: The decompositions by the dimensions of the two sources,
        :obj:`(0, 1)`, :obj:`(0, 2)` and so on.

    Raises:
        TypeError: If the table is not a tensor of real numbers.
        ValueError: As :func:`decompose`, and if there are fewer than two sources.
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
        raise ValueError("'table' must have some mass (got only zeros)")
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
    r"""Raises :class:`ValueError` for an unknown unit."""
    if base not in BASES:
        raise ValueError(f"'base' must be one of {', '.join(BASES)} (got '{base}')")


def _to_pid(values: Tensor, base: str) -> PID:
    redundant, unique1, unique2, synergistic, total = (values[0] / BASES[base]).tolist()
    return PID(redundant, (unique1, unique2), synergistic, total)
