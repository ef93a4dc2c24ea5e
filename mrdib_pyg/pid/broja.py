from typing import NamedTuple

import torch
from torch import Tensor

MAX_STEPS = 80  # about 15 suffice, or 40 if probabilities span many orders of magnitude

# How far steps are trusted. The next value retries the few tables in thousands that fail.
_TRUST = (1.0, 0.5, 0.2)

# Smaller probabilities count as zero: they carry less than 1e-13 nats, and products underflow.
_NEGLIGIBLE = 1e-15

# Added to the diagonal, relative to it. The next value retries a failed factorisation.
_RIDGES = (1e-15, 1e-13, 1e-11, 1e-9, 1e-6)


class Broja(NamedTuple):
    r"""The solutions of :func:`broja`."""

    information: Tensor  # smallest I_Q(X_1, X_2; Y) in nats, [B]
    gap: Tensor  # bound on its error in nats, [B]
    joint: Tensor  # distributions Q that attain it, [B, n_1, n_2, n_y]


@torch.no_grad()
def broja(tables: Tensor, tol: float = 1e-8) -> Broja:
    r"""Minimises the information of two sources about a target over all joint distributions with
    the given marginals of each source and the target,

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

    A primal-dual interior-point method with predictor and corrector solves it. The multiplier of a
    constraint is :math:`Q(x_1, x_2)`, and :math:`Q(y | x_1, x_2)` is the softmax of
    :math:`\lambda + \mu`. After each step :math:`Q` is rounded to exact marginals, and
    :math:`\lambda, \mu` are lowered until they are feasible. The difference of both objectives, the
    duality gap, bounds the error. Tables ``[B, n_1, n_2, n_y]`` are solved to a gap below
    :obj:`tol` nats each. Only outcomes with mass in both marginals of some table are unknowns.
    """
    p = torch.where(tables < _NEGLIGIBLE, 0.0, tables)
    p = p / p.sum(dim=(1, 2, 3), keepdim=True)
    num1, num2 = (int((p.sum(dim=d) > 0).any(dim=0).sum()) for d in (2, 1))
    if num2 > num1:  # the source with more unknowns is eliminated from the Newton system
        out = broja(tables.transpose(1, 2), tol)
        return out._replace(joint=out.joint.transpose(1, 2))

    upper = p.new_full((len(p),), torch.inf)
    lower = p.new_full((len(p),), -torch.inf)
    joint = p.clone()
    for trust in _TRUST:
        index = (~(upper - lower < tol)).nonzero()[:, 0]  # of the unsolved tables
        if len(index) == 0:
            break
        program = _Program(p[index], trust)
        for step in range(MAX_STEPS + 1):
            q, value = program.primal()
            better = value < upper[index]
            upper[index[better]] = value[better]
            joint[index[better]] = program.support.dense(q[better])
            lower[index] = torch.maximum(lower[index], program.dual())
            keep = ~(upper[index] - lower[index] < tol)
            if not bool(keep.any()) or step == MAX_STEPS:
                break
            if not bool(keep.all()):
                index = index[keep]
                program.select(keep)
            program.step()
    entropy = -_xlogx(p.sum(dim=(1, 2))).sum(dim=1)
    return Broja(upper + entropy, (upper - lower).clamp(min=0), joint)


class _Support:
    r"""The outcomes with mass in the marginals of some table, and two layouts of values over them:
    ``[B, n1, n2, Y]`` or ``[B, n1, Y]`` over the :math:`Y \leq n_y` outcomes of the target that
    occur with some :math:`x_1`, and ``[B, L]`` over the pairs :math:`(x_2, y)` that occur, with a
    last one for all others.
    """

    def __init__(self, p: Tensor) -> None:
        with_y1, with_y2 = (p.sum(dim=2) > 0).any(dim=0), (p.sum(dim=1) > 0).any(dim=0)
        self.sizes, self.num_columns = p.shape[1:], int(with_y2.sum()) + 1
        order = torch.argsort(with_y1.int(), dim=1, descending=True, stable=True)
        self.y = order[:, : int(with_y1.sum(dim=1).max())]  # [n1, Y]
        self.column_of = torch.full_like(with_y2, self.num_columns - 1, dtype=torch.long)
        self.column_of[with_y2] = torch.arange(self.num_columns - 1, device=p.device)
        self.column = self.column_of[:, self.y].transpose(0, 1)  # [n1, n2, Y]

    def rows(self, marginal: Tensor) -> Tensor:
        r"""Takes a marginal ``[B, n1, ny]`` to ``[B, n1, Y]``."""
        return marginal.gather(2, self.y.expand(len(marginal), -1, -1))

    def columns(self, marginal: Tensor) -> Tensor:
        r"""Takes a marginal ``[B, n2, ny]`` to ``[B, L]``."""
        out = marginal.new_zeros(len(marginal), self.num_columns)
        out[:, self.column_of] = marginal
        return out

    def spread(self, values: Tensor) -> Tensor:
        r"""Takes ``[B, L]`` to ``[B, n1, n2, Y]``."""
        return values[:, self.column]

    def column_sums(self, values: Tensor) -> Tensor:
        r"""Sums ``[B, n1, n2, Y]`` over :math:`x_1` to ``[B, L]``."""
        return _scatter_add(values, self.column, self.num_columns)

    def dense(self, values: Tensor) -> Tensor:
        r"""Takes ``[B, n1, n2, Y]`` to ``[B, n1, n2, ny]``."""
        out = values.new_zeros(len(values), *self.sizes)
        return out.scatter_(3, self.y[:, None].expand_as(values), values)


class _Program:
    r"""The iterates of the interior-point method: :obj:`lam`, :obj:`mu`, and the mass and slack of
    each cell :math:`(x_1, x_2)`. :obj:`log_sum` and :obj:`cond` follow from :obj:`lam` and
    :obj:`mu`."""

    # The share of the way to the boundary that a step goes. Larger steps stall on nearly
    # deterministic tables.
    BOUNDARY = 0.9
    # The most that a step lowers a log-probability. It also raises none so far that the error of
    # the linearisation exceeds the possible mass of the outcome. Without both limits, outcomes
    # whose mass must grow from almost none overshoot repeatedly.
    DECREASE = 3.0
    MIN_CENTERING = 1e-3

    def __init__(self, p: Tensor, trust: float = 1.0) -> None:
        self.trust = trust
        self.support = support = _Support(p)
        p1, p2 = p.sum(dim=2), p.sum(dim=1)
        self.p1, self.p2 = support.rows(p1), support.columns(p2)
        # The most that each outcome can have.
        self.most = torch.minimum(self.p1[:, :, None], support.spread(self.p2))
        self.mask = self.most > 0
        self.cell = self.mask.any(dim=-1)
        # The start is feasible in both programs: sources that are independent given the target.
        self.lam = support.rows(_log(p1) - _log(p1.sum(dim=1, keepdim=True)) - 1)
        self.mu = _log(self.p2)
        self.log_sum, self.cond = self.softmax(self.lam, self.mu)
        self.mass = torch.where(self.cell, (self.log_sum + 1).exp(), 0.0)
        self.slack = -self.log_sum
        # The central path has mass times slack in proportion to the most that a cell can hold.
        weight = self.most.sum(dim=-1)
        self.weight = weight / weight.sum(dim=(1, 2), keepdim=True)

    def select(self, keep: Tensor) -> None:
        r"""Keeps only some of the tables."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[keep])

    def softmax(self, lam: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        r"""The log-sum-exp over :math:`y`, and the share of each :math:`y`."""
        logits = (lam[:, :, None] + self.support.spread(mu)).masked_fill(~self.mask, -torch.inf)
        log_sum = torch.where(self.cell, logits.logsumexp(dim=-1), -1.0)
        return log_sum, (logits - log_sum[..., None]).exp()

    def primal(self) -> tuple[Tensor, Tensor]:
        r""":math:`Q` with exact marginals, and its objective."""
        spread, column_sums = self.support.spread, self.support.column_sums
        q = self.mass[..., None] * self.cond
        q = q * _shrink(q.sum(dim=2), self.p1)[:, :, None]
        q = q * spread(_shrink(column_sums(q), self.p2))
        rest1 = (self.p1 - q.sum(dim=2)).clamp(min=0)
        rest2 = spread((self.p2 - column_sums(q)).clamp(min=0))
        rest2 = rest2 / rest2.sum(dim=2, keepdim=True).clamp(min=1e-300)
        q = q + rest1[:, :, None] * rest2
        return q, (_xlogx(q).sum(dim=-1) - _xlogx(q.sum(dim=-1))).sum(dim=(1, 2))

    def dual(self) -> Tensor:
        r"""The objective of the dual program at a feasible point below the iterate."""
        value = (self.p1 * self.lam).sum(dim=(1, 2)) + (self.p2 * self.mu).sum(dim=1)
        excess = self.log_sum.clamp(min=0)
        by_row = (self.p1.sum(dim=-1) * excess.amax(dim=2)).sum(dim=1)
        of_x2 = self.p2[:, self.support.column_of].sum(dim=-1)
        by_column = (of_x2 * excess.amax(dim=1)).sum(dim=1)
        return value - torch.minimum(by_row, by_column)

    def step(self) -> None:
        r"""Takes one step of the method."""
        system = _NewtonSystem(self.support, self.mass, self.slack, self.cond)
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
        target = _like(centering * gap, self.weight) * self.weight
        target = target - _like(size.square(), target) * step[2] * step[3]
        after = self.residuals(mass, slack, *self.softmax(lam, mu))
        residuals = [now + then - _like(1 - size, now) * now for now, then in zip(residuals, after)]
        step = system.solve(target, *residuals)
        self.lam, self.mu, self.mass, self.slack = self.moved(
            step, self.length(step, self.BOUNDARY)
        )
        self.log_sum, self.cond = self.softmax(self.lam, self.mu)

    def residuals(self, mass: Tensor, slack: Tensor, log_sum: Tensor, cond: Tensor) -> list[Tensor]:
        r"""The violations of the marginals and the constraints."""
        q = mass[..., None] * cond
        wrong = torch.where(self.cell, -log_sum - slack, 0.0)
        return [self.p1 - q.sum(dim=2), self.p2 - self.support.column_sums(q), wrong]

    def length(self, step: tuple[Tensor, ...], boundary: float) -> Tensor:
        r"""The step length that keeps mass and slack positive and the linearisation accurate."""
        lam, mu, mass, slack = step
        room = torch.minimum(_room(self.mass, mass), _room(self.slack, slack))
        # q (e^d - 1 - d), the error of a change by d, stays below the most that q can be.
        ratio = self.trust * self.most / (self.mass[..., None] * self.cond).clamp(min=1e-300)
        increase = (ratio + ratio.log1p()).log1p()
        change = torch.where(self.mask, lam[:, :, None] + self.support.spread(mu), 0.0)
        limit = torch.where(change > 0, increase, self.trust * self.DECREASE)
        trust = torch.where(change == 0, torch.inf, limit / change.abs()).amin(dim=(1, 2, 3))
        return torch.minimum(boundary * room, trust).clamp(max=1)

    def moved(self, step: tuple[Tensor, ...], size: Tensor) -> list[Tensor]:
        r"""The iterates after a step."""
        now = (self.lam, self.mu, self.mass, self.slack)
        return [x + _like(size, x) * d for x, d in zip(now, step)]


class _NewtonSystem:
    r"""The linear system of a Newton step, factorised.

    With :math:`m = Q(x_1, x_2)`, :math:`r = Q(y|x_1, x_2)` and the slack :math:`s` of each cell,
    the unknowns are the changes of :math:`\lambda, \mu, m, s` in

    .. math::
        \sum_{x_2} \left( r \, \delta m + m (\mathrm{diag}(r) - r r^\top) \, \delta\theta \right)
        &= e_1, \quad \sum_{x_1} \left( \ldots \right) = e_2, \qquad
        \delta\theta_y = \delta\lambda_y(x_1) + \delta\mu_y(x_2), \\
        -r^\top \delta\theta - \delta s &= e, \qquad m s + s \, \delta m + m \, \delta s = t .

    Masses and slacks are eliminated, then :math:`\lambda`, whose block is diagonal in
    :math:`x_1`. The rest is positive definite in the :math:`L` unknowns :math:`\mu`.
    """

    def __init__(self, support: _Support, mass: Tensor, slack: Tensor, cond: Tensor) -> None:
        self.support, self.mass, self.slack, self.cond = support, mass, slack, cond
        size = support.num_columns
        q = mass[..., None] * cond
        scaled = (mass / slack - mass)[..., None] * cond  # q and this make up the Hessian
        blocks = cond[..., :, None] * scaled[..., None, :]  # [B, n1, n2, Y, Y]
        blocks.diagonal(dim1=-2, dim2=-1).add_(q)

        rows = blocks.sum(dim=2)
        place = support.column[..., :, None] * size + support.column[..., None, :]
        columns = _scatter_add(blocks, place, size * size).view(-1, size, size)
        mixed = q.new_zeros(*rows.shape[:3], size)  # [B, n1, Y, L]
        blocks = blocks.transpose(2, 3).flatten(3)
        mixed.scatter_(3, support.column.flatten(1)[:, None].expand_as(blocks), blocks)
        mixed[..., -1] = 0

        # Unknowns without an equation are scaled by zero. So is one mu of each y: lambda + c and
        # mu - c are the same solution.
        diagonal = columns.diagonal(dim1=-2, dim2=-1)
        self.scale1 = _inverse_root(rows.diagonal(dim1=-2, dim2=-1))
        self.scale2 = _inverse_root(diagonal)
        largest = diagonal[:, support.column_of].argmax(dim=1, keepdim=True)  # [B, 1, ny]
        fixed = support.column_of.expand(len(q), -1, -1).gather(1, largest)[:, 0]
        self.scale2.scatter_(1, fixed, 0.0)

        self.factor1 = _cholesky(_scaled(rows, self.scale1))
        mixed = mixed * self.scale1[..., None] * self.scale2[:, None, None]
        mixed = torch.linalg.solve_triangular(self.factor1, mixed, upper=False)
        self.mixed = mixed.flatten(1, 2)  # [B, n1 * Y, L]
        self.factor2 = _cholesky(_scaled(columns, self.scale2) - self.mixed.mT @ self.mixed)

    def solve(
        self, target: Tensor, residual1: Tensor, residual2: Tensor, residual: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""The changes of :math:`\lambda, \mu`, masses and slacks, for the products :math:`t` of
        mass and slack and the right-hand sides :math:`e_1`, :math:`e_2` and :math:`e`.
        """
        direct = (target - self.mass * residual) / self.slack - self.mass
        q = direct[..., None] * self.cond
        right1 = (residual1 - q.sum(dim=2)) * self.scale1
        right2 = (residual2 - self.support.column_sums(q)) * self.scale2

        right1 = torch.linalg.solve_triangular(self.factor1, right1[..., None], upper=False)
        right2 = right2[..., None] - self.mixed.mT @ right1.flatten(1, 2)
        mu = torch.cholesky_solve(right2, self.factor2)
        right1 = right1 - (self.mixed @ mu).view_as(right1)
        lam = torch.linalg.solve_triangular(self.factor1.mT, right1, upper=True)
        lam, mu = lam[..., 0] * self.scale1, mu[..., 0] * self.scale2

        change = (self.cond * (lam[:, :, None] + self.support.spread(mu))).sum(dim=-1)
        mass = direct + self.mass * change / self.slack
        return lam, mu, mass, residual - change


def _scatter_add(values: Tensor, place: Tensor, size: int) -> Tensor:
    r"""Sums values ``[B, ...]`` by their places ``[...]`` to ``[B, size]``."""
    values = values.flatten(1)
    out = values.new_zeros(len(values), size)
    return out.scatter_add_(1, place.flatten().expand_as(values), values)


def _inverse_root(diagonal: Tensor) -> Tensor:
    return torch.where(diagonal > 0, diagonal, torch.inf).rsqrt()


def _scaled(blocks: Tensor, scale: Tensor) -> Tensor:
    out = blocks * scale[..., None] * scale[..., None, :]
    out.diagonal(dim1=-2, dim2=-1).fill_(1)
    return out


def _cholesky(matrices: Tensor) -> Tensor:
    for ridge in _RIDGES:
        ridged = matrices.clone()
        ridged.diagonal(dim1=-2, dim2=-1).add_(ridge)
        factor, info = torch.linalg.cholesky_ex(ridged)
        if not bool(info.any()):
            break
        matrices = torch.where((info > 0)[..., None, None], ridged, matrices)
    return factor


def _log(p: Tensor) -> Tensor:
    return torch.where(p > 0, p, 1.0).log()


def _xlogx(p: Tensor) -> Tensor:
    return torch.special.xlogy(p, p)


def _shrink(now: Tensor, limit: Tensor) -> Tensor:
    return torch.where(now > limit, limit / now, 1.0)


def _room(x: Tensor, step: Tensor) -> Tensor:
    r"""The multiple of a step at which the first entry reaches zero."""
    return torch.where(step < 0, x / -step, torch.inf).amin(dim=(1, 2))


def _like(values: Tensor, other: Tensor) -> Tensor:
    r"""Values ``[B]`` with the dimensions of another tensor."""
    return values.view(-1, *[1] * (other.dim() - 1))
