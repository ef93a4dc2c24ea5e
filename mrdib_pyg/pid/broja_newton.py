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
