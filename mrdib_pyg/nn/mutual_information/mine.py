import math

import torch
from torch import Tensor

from mrdib_pyg.nn.mutual_information.base import MutualInformation
from mrdib_pyg.nn.mutual_information.critic import Critic
from mrdib_pyg.nn.mutual_information.materialize import materialize


class MINE(MutualInformation):
    r"""The Donsker-Varadhan lower bound of mutual information from `"Mutual Information Neural
    Estimation" <https://arxiv.org/abs/1801.04062>`_,

    .. math::
        I(Z_1; Z_2) \ge \mathbb{E}_{p(\mathbf{z}_1, \mathbf{z}_2)} f(\mathbf{z}_1, \mathbf{z}_2)
        - \log \mathbb{E}_{p(\mathbf{z}_1) p(\mathbf{z}_2)} \exp f(\mathbf{z}_1, \mathbf{z}_2)

    with a learned critic :math:`f`. The product of the marginals is sampled by derangements of the
    batch: cyclic shifts of small blocks of rows, in a random order in training mode.

    In training mode the gradient of the second term is corrected as in the paper: its denominator
    is a moving average of :math:`\mathbb{E} \exp f` over batches, which takes away most of the
    bias that the mean of a single batch has inside a logarithm. The value is always that of the
    plain bound, and so is the gradient in evaluation mode.

    Args:
        in_channels_1 (int): Size of each row of the first code.
        in_channels_2 (int): Size of each row of the second code.
        hidden_channels (int, optional): Size of the hidden layers of the critic.
            (default: :obj:`64`)
        num_derangements (int, optional): Number of derangements that sample the product of the
            marginals; at most :math:`N - 1` are used. (default: :obj:`7`)
        momentum (float, optional): Weight of a new batch in the moving average.
            (default: :obj:`0.1`)

    Shapes:
        - **input:** first code :math:`(N, C_1)`, second code :math:`(N, C_2)`
        - **output:** a scalar in nats
    """

    log_average: Tensor
    num_batches: Tensor

    def __init__(
        self,
        in_channels_1: int,
        in_channels_2: int,
        hidden_channels: int = 64,
        num_derangements: int = 7,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(in_channels_1, in_channels_2, hidden_channels)
        if num_derangements < 1:
            raise ValueError(f"'num_derangements' must be positive (got {num_derangements})")
        if not 0 < momentum <= 1:
            raise ValueError(f"'momentum' must be in (0, 1] (got {momentum})")
        self.num_derangements = num_derangements
        self.momentum = momentum
        self.critic = Critic(in_channels_1, in_channels_2, hidden_channels)
        self.register_buffer('log_average', torch.zeros(1))
        self.register_buffer('num_batches', torch.zeros((), dtype=torch.long))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets the critic and forgets the moving average."""
        self.critic.reset_parameters()
        self.log_average.zero_()
        self.num_batches.zero_()

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:  # noqa: D102
        self._check(z1, z2)
        if z1.size(0) < 2:
            return self._zero(z1, z2)
        joint, product = self.critic(z1, z2, self.num_derangements)
        log_mean = torch.logsumexp(product, dim=0) - math.log(product.numel())
        if self.training:
            # d log_mean becomes d (mean exp f) / average; the value stays.
            ratio = self._update(log_mean.detach())
            log_mean = log_mean.detach() + ratio * (log_mean - log_mean.detach())
        return joint.mean() - log_mean

    @torch.no_grad()
    def _update(self, log_mean: Tensor) -> Tensor:
        # Returns the batch's mean over the moving average, which includes it.
        # Kept as a logarithm, because exp f may overflow. Equal weights until the average is
        # 1 / momentum batches long; the weight of the first batch is one.
        weight = (1 / (self.num_batches + 1)).clamp(min=self.momentum).to(log_mean.dtype)
        average = torch.logaddexp(torch.log1p(-weight) + self.log_average, weight.log() + log_mean)
        is_finite = average.isfinite()  # a batch that is not must not stay here for good
        self.num_batches += is_finite.squeeze()
        self.log_average.copy_(average.where(is_finite, self.log_average))
        return materialize((log_mean - average).exp()).squeeze()
