from typing import NamedTuple

import torch
from torch import Tensor

# Added to the diagonal, relative to it; the next one where a factorisation fails.
_RIDGES = (1e-15, 1e-13, 1e-11, 1e-9, 1e-6)


class NewtonSystem:
    r"""The linear system of a Newton step of :func:`~mrdib_pyg.pid.broja.broja`, factorised.

    With :math:`m = Q(x_1, x_2)`, :math:`r = Q(y|x_1, x_2)` and the slack :math:`s` of each cell,
    the unknowns are the changes of :math:`\lambda, \mu, m, s` in

    .. math::
        \sum_{x_2} \left( r \, \delta m + m (\mathrm{diag}(r) - r r^\top) \, \delta\theta \right)
        &= e_1, \quad \sum_{x_1} \left( \ldots \right) = e_2, \qquad
        \delta\theta_y = \delta\lambda_y(x_1) + \delta\mu_y(x_2), \\
        -r^\top \delta\theta - \delta s &= e, \qquad m s + s \, \delta m + m \, \delta s = t .

    Masses and slacks are eliminated, then :math:`\lambda`, whose block is diagonal in
    :math:`x_1`. What is left is positive definite in the :math:`n_2 n_y` unknowns :math:`\mu`.

    Args:
        mass (torch.Tensor): The masses :math:`m`, zero in cells that do not exist.
        slack (torch.Tensor): The slacks :math:`s`.
        cond (torch.Tensor): The conditionals :math:`r`, zero outside the mask.

    Shapes:
        - **input:** mass and slack :math:`(B, n_1, n_2)`, cond and mask
          :math:`(B, n_1, n_2, n_y)`
    """

    def __init__(self, mass: Tensor, slack: Tensor, cond: Tensor) -> None:
        self.mass, self.slack, self.cond = mass, slack, cond
        B, n1, n2, ny = cond.shape
        q = mass[..., None] * cond
        scaled = (mass / slack - mass)[..., None] * cond  # q and this make up the Hessian
        rows = _blocks(q.sum(dim=2), scaled, cond)
        columns = _blocks(q.sum(dim=1), scaled.transpose(1, 2), cond.transpose(1, 2))
        mixed = cond[..., :, None] * scaled[..., None, :]
        mixed.diagonal(dim1=-2, dim2=-1).add_(q)

        # Unknowns without an equation are scaled by zero. So is one mu of each y: lambda + c and
        # mu - c are the same solution.
        self.scale1, self.scale2 = _inverse_root(rows), _inverse_root(columns)
        fixed = columns.diagonal(dim1=-2, dim2=-1).argmax(dim=1, keepdim=True)
        self.scale2.scatter_(1, fixed, 0.0)
        rows = _scaled(rows, self.scale1)
        columns = _scaled(columns, self.scale2)
        mixed = mixed * self.scale1[:, :, None, :, None] * self.scale2[:, None, :, None, :]

        self.factor1 = _cholesky(rows)
        mixed = mixed.transpose(2, 3).flatten(3)  # [B, n1, y, n2 * y]
        mixed = torch.linalg.solve_triangular(self.factor1, mixed, upper=False)
        self.mixed = mixed.flatten(1, 2)  # [B, n1 * y, n2 * y]
        schur = -(self.mixed.transpose(1, 2) @ self.mixed)
        i = torch.arange(n2)
        blocks = schur.view(B, n2, ny, n2, ny).permute(1, 3, 0, 2, 4)
        blocks[i, i] = blocks[i, i] + columns.transpose(0, 1)
        self.factor2 = _cholesky(schur)

    def solve(
        self, target: Tensor, residual1: Tensor, residual2: Tensor, residual: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""Returns the changes of :math:`\lambda, \mu`, masses and slacks.

        Args:
            target (torch.Tensor): The products :math:`t` of mass and slack.
            residual1 (torch.Tensor): The right-hand side :math:`e_1`.
            residual2 (torch.Tensor): The right-hand side :math:`e_2`.
            residual (torch.Tensor): The right-hand side :math:`e`.
        """
        direct = (target - self.mass * residual) / self.slack - self.mass
        q = direct[..., None] * self.cond
        right1 = (residual1 - q.sum(dim=2)) * self.scale1
        right2 = (residual2 - q.sum(dim=1)) * self.scale2

        right1 = torch.linalg.solve_triangular(self.factor1, right1[..., None], upper=False)
        right2 = right2.flatten(1)[..., None] - self.mixed.transpose(1, 2) @ right1.flatten(1, 2)
        mu = torch.cholesky_solve(right2, self.factor2)
        right1 = right1 - (self.mixed @ mu).view_as(right1)
        lam = torch.linalg.solve_triangular(self.factor1.mT, right1, upper=True)
        lam = lam[..., 0] * self.scale1
        mu = mu.view_as(self.scale2) * self.scale2

        change = (self.cond * (lam[:, :, None] + mu[:, None])).sum(dim=-1)
        mass = direct + self.mass * change / self.slack
        return lam, mu, mass, residual - change


def _blocks(diagonal: Tensor, left: Tensor, right: Tensor) -> Tensor:
    out = left.transpose(2, 3) @ right
    out.diagonal(dim1=-2, dim2=-1).add_(diagonal)
    return out


def _inverse_root(blocks: Tensor) -> Tensor:
    diagonal = blocks.diagonal(dim1=-2, dim2=-1)
    return torch.where(diagonal > 0, diagonal, torch.inf).rsqrt()


def _scaled(blocks: Tensor, scale: Tensor) -> Tensor:
    out = blocks * scale[..., None] * scale[..., None, :]
    out.diagonal(dim1=-2, dim2=-1).fill_(1)
    return out


def _cholesky(matrices: Tensor) -> Tensor:
    for ridge in _RIDGES:
        ridged = matrices + ridge * torch.eye(matrices.size(-1)).to(matrices)
        factor, info = torch.linalg.cholesky_ex(ridged)
        if not bool(info.any()):
            break
        matrices = torch.where((info > 0)[..., None, None], ridged, matrices)
    return factor


MAX_STEPS = 80  # about 12 are taken, 30 where probabilities span many orders of magnitude

# Probabilities below this are taken as zero: they carry less than 1e-13 nats, and their products
# would underflow.
_NEGLIGIBLE = 1e-15


class Broja(NamedTuple):
    r"""What :func:`broja` returns, one entry or row for each table.

    Args:
        information (torch.Tensor): The smallest information :math:`I_Q(X_1, X_2; Y)` in nats.
        gap (torch.Tensor): The most that it may be too large by, in nats.
        joint (torch.Tensor): The joint distributions :math:`Q` that have it.
    """

    information: Tensor
    gap: Tensor
    joint: Tensor


@torch.no_grad()
def broja(tables: Tensor, tol: float = 1e-8) -> Broja:
    r"""Minimises the information that two sources give about a target over all joint distributions
    with the marginals of each source and the target,

    .. math::
        \min_Q \sum_{x_1, x_2, y} Q \log \frac{Q(y | x_1, x_2)}{P(y)} \quad \text{where} \quad
        Q(x_1, y) = P(x_1, y), \; Q(x_2, y) = P(x_2, y)

    (`"Quantifying Unique Information" <https://arxiv.org/abs/1311.2852>`_). The dual program
    (`"BROJA-2PID: A Robust Estimator for Bivariate Partial Information Decomposition"
    <https://doi.org/10.3390/e20040271>`_) is

    .. math::
        \max_{\lambda, \mu} \sum_{x_1, y} P(x_1, y) \lambda_y(x_1) + \sum_{x_2, y} P(x_2, y)
        \mu_y(x_2) \quad \text{where} \quad \log \sum_y e^{\lambda_y(x_1) + \mu_y(x_2)} \leq 0
        \text{ for all } x_1, x_2 .

    It is solved by a primal-dual interior-point method: Newton steps on the conditions of
    optimality with predictor and corrector, where the multiplier of a constraint is
    :math:`Q(x_1, x_2)` and :math:`Q(y | x_1, x_2)` is the softmax of :math:`\lambda + \mu`.
    After each step :math:`Q` is rounded to exact marginals and :math:`\lambda, \mu` are lowered
    until they satisfy all constraints. The difference of the two objectives is the duality gap:
    whatever the steps did, the true minimum lies no further below. Tables are solved together,
    each until its own gap is below the tolerance.

    Args:
        tables (torch.Tensor): Probabilities in :obj:`torch.float64`, of sum one in each table.
        tol (float, optional): The gap at which to stop, in nats. (default: :obj:`1e-8`)

    Shapes:
        - **input:** tables :math:`(B, n_1, n_2, n_y)`
        - **output:** information :math:`(B)`, gap :math:`(B)`, joint :math:`(B, n_1, n_2, n_y)`
    """
    if tables.size(2) > tables.size(1):  # the larger side is eliminated from the Newton system
        out = broja(tables.transpose(1, 2), tol)
        return out._replace(joint=out.joint.transpose(1, 2))
    p = torch.where(tables < _NEGLIGIBLE, 0.0, tables)
    p = p / p.sum(dim=(1, 2, 3), keepdim=True)

    upper = p.new_full((len(p),), torch.inf)
    lower = p.new_full((len(p),), -torch.inf)
    joint = p.clone()
    index = torch.arange(len(p), device=p.device)  # of the tables that are not solved yet
    program = _Program(p)
    for step in range(MAX_STEPS + 1):
        q, value = program.primal()
        better = value < upper[index]
        upper[index[better]], joint[index[better]] = value[better], q[better]
        lower[index] = torch.maximum(lower[index], program.dual())
        keep = ~(upper[index] - lower[index] < tol)
        if not bool(keep.any()) or step == MAX_STEPS:
            break
        if not bool(keep.all()):
            index = index[keep]
            program.select(keep)
        program.step()
    entropy = -(p.sum(dim=(1, 2)) * _log(p.sum(dim=(1, 2)))).sum(dim=1)
    return Broja(upper + entropy, (upper - lower).clamp(min=0), joint)


class _Program:
    r"""The iterates of the interior-point method: :obj:`lam`, :obj:`mu`, and the mass and the slack
    of each cell :math:`(x_1, x_2)`; :obj:`log_sum` and :obj:`cond` follow from the former two."""

    # A step goes this far towards the boundary, and changes no log-probability by more than this.
    BOUNDARY, TRUST = 0.99, 3.0
    MIN_CENTERING = 1e-3

    def __init__(self, p: Tensor) -> None:
        self.p1, self.p2 = p.sum(dim=2), p.sum(dim=1)
        py = self.p1.sum(dim=1)
        self.mask = (self.p1[:, :, None] > 0) & (self.p2[:, None] > 0)
        self.cell = self.mask.any(dim=-1)
        # The start is feasible in both programs: sources that are independent given the target.
        self.lam = _log(self.p1) - _log(py)[:, None] - 1
        self.mu = _log(self.p2)
        self.log_sum, self.cond = self.softmax(self.lam, self.mu)
        self.mass = torch.where(self.cell, (self.log_sum + 1).exp(), 0.0)
        self.slack = -self.log_sum
        # The central path has mass times slack in proportion to the most that a cell can hold.
        weight = torch.minimum(self.p1[:, :, None], self.p2[:, None]).sum(dim=-1)
        self.weight = weight / weight.sum(dim=(1, 2), keepdim=True)

    def select(self, keep: Tensor) -> None:
        r"""Goes on with some of the tables."""
        for name, value in vars(self).items():
            setattr(self, name, value[keep])

    def softmax(self, lam: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the logarithm of the sum over :math:`y`, and the share of each :math:`y`."""
        logits = (lam[:, :, None] + mu[:, None]).masked_fill(~self.mask, -torch.inf)
        log_sum = torch.where(self.cell, logits.logsumexp(dim=-1), -1.0)
        return log_sum, (logits - log_sum[..., None]).exp()

    def primal(self) -> tuple[Tensor, Tensor]:
        r"""Returns :math:`Q` with exact marginals, and its objective."""
        q = self.mass[..., None] * self.cond
        q = q * _shrink(q.sum(dim=2), self.p1)[:, :, None]
        q = q * _shrink(q.sum(dim=1), self.p2)[:, None]
        rest1 = (self.p1 - q.sum(dim=2)).clamp(min=0)
        rest2 = (self.p2 - q.sum(dim=1)).clamp(min=0)
        rest2 = rest2 / rest2.sum(dim=1, keepdim=True).clamp(min=1e-300)
        q = q + rest1[:, :, None] * rest2[:, None]
        value = (q * (_log(q) - _log(q.sum(dim=-1, keepdim=True)))).sum(dim=(1, 2, 3))
        return q, value

    def dual(self) -> Tensor:
        r"""Returns the objective of the dual program after the constraints are put right."""
        value = (self.p1 * self.lam).sum(dim=(1, 2)) + (self.p2 * self.mu).sum(dim=(1, 2))
        excess = self.log_sum.clamp(min=0)
        by_row = (self.p1.sum(dim=-1) * excess.amax(dim=2)).sum(dim=1)
        by_column = (self.p2.sum(dim=-1) * excess.amax(dim=1)).sum(dim=1)
        return value - torch.minimum(by_row, by_column)

    def step(self) -> None:
        r"""Takes one step of the method."""
        system = NewtonSystem(self.mass, self.slack, self.cond)
        product = self.mass * self.slack
        residuals = self.residuals(self.mass, self.slack, self.log_sum, self.cond)

        # Predictor: all the way to the solution of the linearised conditions.
        zero = torch.zeros_like(product)
        step = system.solve(zero, *residuals)
        size = self.length(step, 1.0)
        lam, mu, mass, slack = self.moved(step, size)
        gap = product.sum(dim=(1, 2))
        ratio = (mass * slack).sum(dim=(1, 2)) / gap
        centering = ratio.clamp(0, 1).square().clamp(min=self.MIN_CENTERING)

        # Corrector: aims at the central path, and takes off what was not linear at the predictor.
        target = (centering * gap)[:, None, None] * self.weight
        target = target - size[:, None, None].square() * step[2] * step[3]
        after = self.residuals(mass, slack, *self.softmax(lam, mu))
        left = (1 - size)[:, None, None]
        residuals = [now + then - left * now for now, then in zip(residuals, after)]
        step = system.solve(target, *residuals)
        self.lam, self.mu, self.mass, self.slack = self.moved(
            step, self.length(step, self.BOUNDARY)
        )
        self.log_sum, self.cond = self.softmax(self.lam, self.mu)

    def residuals(self, mass: Tensor, slack: Tensor, log_sum: Tensor, cond: Tensor) -> list[Tensor]:
        r"""Returns what the marginals and the constraints are off by."""
        q = mass[..., None] * cond
        wrong = torch.where(self.cell, -log_sum - slack, 0.0)
        return [self.p1 - q.sum(dim=2), self.p2 - q.sum(dim=1), wrong]

    def length(self, step: tuple[Tensor, ...], boundary: float) -> Tensor:
        r"""How far to go: mass and slack stay positive, log-probabilities change little."""
        lam, mu, mass, slack = step
        most = torch.minimum(_room(self.mass, mass), _room(self.slack, slack))
        change = torch.where(self.mask, (lam[:, :, None] + mu[:, None]).abs(), 0.0)
        trust = self.TRUST / change.amax(dim=(1, 2, 3)).clamp(min=self.TRUST)
        return torch.minimum(boundary * most, trust).clamp(max=1)

    def moved(self, step: tuple[Tensor, ...], size: Tensor) -> list[Tensor]:
        r"""Returns the iterates after a step."""
        size = size[:, None, None]
        return [x + size * d for x, d in zip((self.lam, self.mu, self.mass, self.slack), step)]


def _log(p: Tensor) -> Tensor:
    return torch.where(p > 0, p, 1.0).log()


def _shrink(now: Tensor, limit: Tensor) -> Tensor:
    return torch.where(now > limit, limit / now, 1.0)


def _room(x: Tensor, step: Tensor) -> Tensor:
    r"""The multiple of a step that brings the first entry to zero."""
    return torch.where(step < 0, x / -step, torch.inf).amin(dim=(1, 2))
