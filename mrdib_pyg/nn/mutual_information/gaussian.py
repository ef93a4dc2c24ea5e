import torch
from torch import Tensor

from mrdib_pyg.nn.mutual_information.base import MutualInformation


class Gaussian(MutualInformation):
    r"""The mutual information of jointly Gaussian codes, from the covariance of the batch,

    .. math::
        I(Z_1; Z_2) = \frac{1}{2} \left( \log |\Sigma_{11}| + \log |\Sigma_{22}| - \log |\Sigma|
        \right),

    without a critic: there is nothing to learn, and :meth:`learning_loss` is zero. It sees linear
    dependence only: the estimate is that of a Gaussian of the same covariance.

    The log-determinant of the sample covariance of :math:`C` coordinates is biased by
    :math:`\sum_{i=1}^{C} \psi(\frac{N - i}{2}) - C \log \frac{N - 1}{2}` (`"Entropy Expressions
    and Their Estimators for Multivariate Distributions"
    <https://doi.org/10.1109/18.30996>`_). The remainder of the three is subtracted: for Gaussian
    codes the estimate is unbiased, and may therefore be slightly negative.

    With :math:`N - 1 < 2 (C_1 + C_2)` the covariance is nearly singular, and the gradient contains
    its inverse. All correlations are then shrunk by the share of their mean square that independent
    coordinates would show (:math:`1 / (N - 1)`, a constant to the gradient), and no bias is
    subtracted. Such an estimate is near zero for independent codes and far too low for dependent
    ones.

    Args:
        in_channels_1, in_channels_2, hidden_channels: See :class:`MutualInformation`.
        ridge (float, optional): Added to the diagonal of the correlation matrix, so that linearly
            dependent coordinates, such as those of equal codes, give a finite value: at most
            :math:`-\frac{1}{2} \ln (2 \cdot \mathrm{ridge})` per coordinate.
            (default: :obj:`1e-5`)

    Constant coordinates carry no information and are left out. Computed in :obj:`torch.float64`.
    """

    subsample = False  # the bias of a covariance falls with the rows, and rows are cheap here

    def __init__(
        self,
        in_channels_1: int,
        in_channels_2: int,
        hidden_channels: int = 64,
        ridge: float = 1e-5,
    ) -> None:
        super().__init__(in_channels_1, in_channels_2, hidden_channels)
        if not ridge > 0:
            raise ValueError(f"'ridge' must be positive (got {ridge})")
        self.ridge = ridge

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        self._check(z1, z2)
        if z1.size(0) < 2:
            return self._zero(z1, z2)
        z = torch.cat([z1.double(), z2.double()], dim=1)
        mean = z.mean(dim=0)
        z = z - mean
        var = z.square().sum(dim=0)
        # A constant column is not exactly zero after its mean was rounded.
        varies = var > (1e-12 * mean).square() * z.size(0)
        z = z * torch.where(varies, var, torch.inf).rsqrt()

        corr = z.t() @ z
        df = z.size(0) - 1
        is_small = df < 2 * z.size(1)
        if is_small:
            corr = corr * (1 - self._shrinkage(corr.detach(), df))
        # A column left out has zeros here, and a determinant of one.
        eye = torch.eye(len(corr), dtype=corr.dtype, device=corr.device)
        corr = corr - corr.diagonal().diag() + (1 + self.ridge) * eye

        c1 = self.in_channels_1
        out = self._logdet(corr[:c1, :c1]) + self._logdet(corr[c1:, c1:]) - self._logdet(corr)
        if not is_small:
            rank_1, rank_2 = varies[:c1].sum(), varies[c1:].sum()
            out = out - self._bias(df, rank_1, rank_2)
        dtype = torch.promote_types(torch.promote_types(z1.dtype, z2.dtype), torch.float32)
        return 0.5 * out.to(dtype)

    def learning_loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        r"""Returns zero: there is nothing to learn."""
        self._check(z1, z2)
        return self._zero(z1, z2)

    def penalty(self, z1: Tensor, z2: Tensor) -> Tensor:
        return self(z1, z2)

    @staticmethod
    def _logdet(corr: Tensor) -> Tensor:
        # `cholesky_ex` does not raise (nor wait for the device) where a code is not finite.
        return 2 * torch.linalg.cholesky_ex(corr).L.diagonal().log().sum()

    def _bias(self, df: int, rank_1: Tensor, rank_2: Tensor) -> Tensor:
        # Of log|S_11| + log|S_22| - log|S|, where the logarithms of the degrees of freedom cancel.
        i = torch.arange(self.in_channels_1 + self.in_channels_2, device=rank_1.device)
        psi = torch.digamma(0.5 * (df - i).double())
        sign = (i < rank_1).double() + (i < rank_2).double() - (i < rank_1 + rank_2).double()
        return (psi * sign).sum()

    @staticmethod
    def _shrinkage(corr: Tensor, df: int) -> Tensor:
        # A correlation of independent coordinates has the mean square 1 / df.
        num = len(corr) * (len(corr) - 1)
        square = corr.square().sum() - corr.diagonal().square().sum()
        return (num / (df * square)).clamp(max=1)
