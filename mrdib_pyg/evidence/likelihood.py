r"""The marginal likelihood of the linear-Gaussian model in its two forms, and its maximum.

Both forms are functions of :math:`\theta = (\log a_1, \ldots, \log a_M, \log c)` that return the
negative evidence per entry in nats and its gradient, in closed form.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

LOWEST, HIGHEST = -20.0, 20.0  # of a log amplitude
AMPLITUDE, CONSTANT = -2.5, -1.0  # where the search starts
PRIOR = 1e-8  # on squared log amplitudes: enough to hold what the data say nothing of
TOLERANCE = 1e-6  # of the gradient, in nats per entry of dense targets


class Objective(Protocol):
    r"""Either form of the negative evidence."""

    num_parameters: int

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        r"""Returns the value and its gradient."""


class PrimalState(NamedTuple):
    r"""What the primal form knows at one :math:`\theta`.

    Args:
        scale (torch.Tensor): :math:`\sqrt{a}` of each column, ``[D]``.
        inverse (torch.Tensor): :math:`(S X^{\top} X S + I)^{-1}`, ``[D, D]``.
        quadratic (float): :math:`\mathrm{tr}(K^{-1} Y Y^{\top}) / t`.
        log_det (float): :math:`\log \det K`.
        weight (torch.Tensor): What the diagonal of :math:`B B^{\top} / t` is before it is scaled.
    """

    scale: Tensor
    inverse: Tensor
    quadratic: float
    log_det: float
    weight: Tensor


class Primal:
    r"""The form for few columns: it factorizes a matrix ``[D, D]``.

    Args:
        gram (torch.Tensor): :math:`X^{\top} X`, ``[D, D]``.
        cross (torch.Tensor): :math:`X^{\top} Y / \sqrt{t}`, ``[D, t]``.
        square (float): :math:`\|Y\|^2 / t`.
        num_items (int): The number of rows of :math:`X`.
        widths (Sequence[int]): The number of columns of each modality; the last is the constant.
    """

    def __init__(
        self, gram: Tensor, cross: Tensor, square: float, num_items: int, widths: Sequence[int]
    ) -> None:
        self.gram, self.cross, self.square, self.num_items = gram, cross, square, num_items
        self.widths = torch.tensor(list(widths))
        self.num_parameters = len(widths)
        # Whichever is smaller stands for the targets from here on.
        self.outer = cross @ cross.t() if cross.size(1) > cross.size(0) else None

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        state = self.state(theta)
        noise = state.quadratic / self.num_items
        value = 0.5 * np.log(noise) + 0.5 * state.log_det / self.num_items
        per_column = 1 - state.inverse.diagonal() - state.weight / noise
        grad = theta.new_zeros(self.num_parameters)
        block = torch.arange(self.num_parameters).repeat_interleave(self.widths)
        grad.index_add_(0, block, per_column)
        return float(value), 0.5 * grad / self.num_items

    def state(self, theta: Tensor) -> PrimalState:
        r"""Factorizes the matrix at :math:`\theta`."""
        scale = (0.5 * theta).exp().repeat_interleave(self.widths)
        matrix = scale.unsqueeze(1) * self.gram * scale
        matrix.diagonal().add_(1.0)
        factor = torch.linalg.cholesky(matrix)
        inverse = torch.cholesky_inverse(factor)
        if self.outer is None:
            target = scale.unsqueeze(1) * self.cross
            solved = inverse @ target
            explained, weight = float((target * solved).sum()), solved.square().sum(dim=1)
        else:
            solved = inverse @ (scale.unsqueeze(1) * self.outer * scale)
            explained, weight = float(solved.trace()), (solved * inverse).sum(dim=1)
        log_det = 2 * float(factor.diagonal().log().sum())
        quadratic = _positive(self.square - explained, self.square)
        return PrimalState(scale, inverse, quadratic, log_det, weight)


class DualState(NamedTuple):
    r"""What the dual form knows at one :math:`\theta`.

    Args:
        inverse (torch.Tensor): :math:`K^{-1}`, ``[n, n]``.
        quadratic (float): :math:`\mathrm{tr}(K^{-1} Y Y^{\top}) / t`.
        log_det (float): :math:`\log \det K`.
        outer (torch.Tensor): :math:`K^{-1} Y Y^{\top} K^{-1} / t`, ``[n, n]``.
    """

    inverse: Tensor
    quadratic: float
    log_det: float
    outer: Tensor


class Dual:
    r"""The form for few items: it factorizes a matrix ``[n, n]``.

    Args:
        kernels (Sequence[torch.Tensor]): :math:`X_m X_m^{\top}` of each modality, ``[n, n]``.
        targets (torch.Tensor): Either :math:`Y / \sqrt{t}`, ``[n, t]``, or, where that is wider
            than long, :math:`Y Y^{\top} / t`, ``[n, n]``.
        is_gram (bool): Whether :obj:`targets` is the latter.
    """

    def __init__(self, kernels: Sequence[Tensor], targets: Tensor, is_gram: bool) -> None:
        self.kernels, self.targets, self.is_gram = list(kernels), targets, is_gram
        self.num_items = targets.size(0)
        self.num_parameters = len(self.kernels) + 1

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        state = self.state(theta)
        noise = state.quadratic / self.num_items
        value = 0.5 * np.log(noise) + 0.5 * state.log_det / self.num_items
        slope = state.inverse - state.outer / noise
        flat = slope.reshape(-1)
        parts = [kernel.reshape(-1) @ flat for kernel in self.kernels]
        grad = theta.exp() * torch.stack([*parts, flat.sum()])
        return float(value), 0.5 * grad / self.num_items

    def state(self, theta: Tensor) -> DualState:
        r"""Factorizes the matrix at :math:`\theta`."""
        amplitudes = theta.exp().tolist()
        matrix = torch.full_like(self.targets[:, :1], amplitudes[-1]).repeat(1, self.num_items)
        for amplitude, kernel in zip(amplitudes, self.kernels):
            matrix.add_(kernel, alpha=amplitude)
        matrix.diagonal().add_(1.0)
        factor = torch.linalg.cholesky(matrix)
        inverse = torch.cholesky_inverse(factor)
        solved = inverse @ self.targets
        if self.is_gram:
            quadratic, outer = float(solved.trace()), solved @ inverse
        else:
            quadratic, outer = float((solved * self.targets).sum()), solved @ solved.t()
        log_det = 2 * float(factor.diagonal().log().sum())
        return DualState(inverse, _positive(quadratic, 1.0), log_det, outer)


def _positive(quadratic: float, scale: float) -> float:
    # Targets that the features explain without rest would make the noise zero.
    return max(quadratic, 1e-14 * scale)


def maximize(objective: Objective, start: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    r"""Returns the :math:`\theta` of the largest evidence, by L-BFGS within bounds.

    Args:
        objective (Primal or Dual): The negative evidence.
        start (torch.Tensor): Where the search starts.
        tolerance (float, optional): Of the gradient, in nats per entry. (default: :obj:`1e-6`)
    """
    _, grad = objective(start)
    # The first step of L-BFGS is as long as the gradient: scaled, it is one in log amplitudes.
    factor = 1 / max(float(grad.norm()), 1e-10)

    def scaled(x: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(x)
        value, grad = objective(theta)
        value += PRIOR * float(theta.square().sum())
        return factor * value, factor * (grad + 2 * PRIOR * theta).numpy()

    found = minimize(
        scaled,
        start.numpy(),
        jac=True,
        method='L-BFGS-B',
        bounds=[(LOWEST, HIGHEST)] * objective.num_parameters,
        options={'maxiter': 100, 'gtol': factor * tolerance, 'ftol': 1e-11},
    )
    return torch.from_numpy(np.asarray(found.x, dtype=np.float64))
