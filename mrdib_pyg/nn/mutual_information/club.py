import math

from torch import Tensor
from torch.func import functional_call

from mrdib_pyg.nn.mutual_information.base import (
    LinearPerceptron,
    MutualInformation,
    RunningStandardization,
)

MIN_LOGSTD, MAX_LOGSTD = -5.0, 3.0


class _GaussianRegression(LinearPerceptron):
    r"""Returns the mean and the log standard deviation of :math:`q(\mathbf{z}_2 | \mathbf{z}_1)` of
    :class:`CLUB`, a diagonal Gaussian.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int) -> None:
        super().__init__(in_channels, out_channels, hidden_channels, num_extra=out_channels)

    def forward(self, z1: Tensor) -> tuple[Tensor, Tensor]:
        mu, logstd = super().forward(z1)
        return mu, logstd.clamp(MIN_LOGSTD, MAX_LOGSTD)


class CLUB(MutualInformation):
    r"""The variational contrastive log-ratio upper bound of mutual information from `"CLUB: A
    Contrastive Log-ratio Upper Bound of Mutual Information" <https://arxiv.org/abs/2006.12013>`_,

    .. math::
        I(Z_1; Z_2) \le \mathbb{E}_{p(\mathbf{z}_1, \mathbf{z}_2)} \log q(\mathbf{z}_2 |
        \mathbf{z}_1) - \mathbb{E}_{p(\mathbf{z}_1) p(\mathbf{z}_2)} \log q(\mathbf{z}_2 |
        \mathbf{z}_1)

    where :math:`q` is a diagonal Gaussian, learned by maximum likelihood. It is an upper bound once
    :math:`q` is close to the conditional, but not a tight one: Gaussian pairs of correlation
    :math:`\rho` read :math:`\rho^2 / (1 - \rho^2)` per coordinate.

    The second term is the mean over all :math:`N^2` pairs of the batch. It needs only the first two
    moments of :math:`\mathbf{z}_2`, at a cost of :math:`O(N C_2)`.

    Args:
        in_channels_1, in_channels_2, hidden_channels: See :class:`MutualInformation`.

    Running statistics standardize both codes, which does not change the estimate. On that scale the
    log standard deviation of :math:`q` is clamped to ``[-5, 3]``.
    """

    def __init__(self, in_channels_1: int, in_channels_2: int, hidden_channels: int = 64) -> None:
        super().__init__(in_channels_1, in_channels_2, hidden_channels)
        self.norm_1 = RunningStandardization(in_channels_1)
        self.norm_2 = RunningStandardization(in_channels_2)
        self.q = _GaussianRegression(in_channels_1, in_channels_2, hidden_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets :math:`q` and forgets the running statistics."""
        self.norm_1.reset_parameters()
        self.norm_2.reset_parameters()
        self.q.reset_parameters()

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        self._check(z1, z2)
        if z1.size(0) < 2:
            return self._zero(z1, z2)
        z1, z2 = self._standardize(z1, z2)
        mu, logstd = self.q(z1)
        return self._estimate(mu, logstd, z2)

    def learning_loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        r"""Returns the negative log-likelihood of :obj:`z2` given :obj:`z1` under :math:`q`, in
        nats per row, on the standardized scale.
        """
        self._check(z1, z2)
        if z1.size(0) < 2:
            return self._zero(z1, z2)
        z1, z2 = self._standardize(z1, z2)
        mu, logstd = self.q(z1)
        return self._nll(mu, logstd, z2)

    def penalty(self, z1: Tensor, z2: Tensor) -> Tensor:
        self._check(z1, z2)
        if z1.size(0) < 2:
            return self._zero(z1, z2)
        z1, z2 = self._standardize(z1, z2)
        # For the codes q is constant, and for q the codes are.
        frozen = {name: param.detach() for name, param in self.q.named_parameters()}
        mu, logstd = functional_call(self.q, frozen, (z1,))
        estimate = self._estimate(mu, logstd, z2)
        mu, logstd = self.q(z1.detach())
        nll = self._nll(mu, logstd, z2.detach())
        return estimate + (nll - nll.detach())

    def _standardize(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.q.linear.weight.dtype
        return self.norm_1(z1.to(dtype)), self.norm_2(z2.to(dtype))

    @staticmethod
    def _estimate(mu: Tensor, logstd: Tensor, z2: Tensor) -> Tensor:
        # mean_j (z2_j - mu)^2 = (mean z2 - mu)^2 + var z2. The normalizers of q cancel.
        z2 = z2.to(mu.dtype)
        mean = z2.mean(dim=0)
        product = (mean - mu).square() + (z2 - mean).square().mean(dim=0)
        joint = (z2 - mu).square()
        return 0.5 * ((product - joint) * (-2 * logstd).exp()).sum(dim=-1).mean()

    @staticmethod
    def _nll(mu: Tensor, logstd: Tensor, z2: Tensor) -> Tensor:
        error = (z2.to(mu.dtype) - mu).square() * (-2 * logstd).exp()
        return (0.5 * error + logstd + 0.5 * math.log(2 * math.pi)).sum(dim=-1).mean()
