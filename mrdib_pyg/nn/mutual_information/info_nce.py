import math

import torch
from torch import Tensor

from mrdib_pyg.nn.mutual_information.base import MutualInformation
from mrdib_pyg.nn.mutual_information.critic import Critic


class InfoNCE(MutualInformation):
    r"""The contrastive lower bound of mutual information from `"Representation Learning with
    Contrastive Predictive Coding" <https://arxiv.org/abs/1807.03748>`_,

    .. math::
        I(Z_1; Z_2) \ge \ln N + \frac{1}{N} \sum_{i=1}^{N} \log
        \frac{\exp f(\mathbf{z}_{1,i}, \mathbf{z}_{2,i})}
        {\sum_{j=1}^{N} \exp f(\mathbf{z}_{1,i}, \mathbf{z}_{2,j})}

    averaged with the same bound from the second code to the first, with a learned critic
    :math:`f`. It has a low variance, and can never exceed :math:`\ln N`. All :math:`N^2` pairs of
    the batch are scored, by one matrix product.

    Args:
        in_channels_1 (int): Size of each row of the first code.
        in_channels_2 (int): Size of each row of the second code.
        hidden_channels (int, optional): Size of the hidden layers of the critic.
            (default: :obj:`64`)

    Shapes:
        - **input:** first code :math:`(N, C_1)`, second code :math:`(N, C_2)`
        - **output:** a scalar in nats
    """

    def __init__(self, in_channels_1: int, in_channels_2: int, hidden_channels: int = 64) -> None:
        super().__init__(in_channels_1, in_channels_2, hidden_channels)
        self.critic = Critic(in_channels_1, in_channels_2, hidden_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets the critic."""
        self.critic.reset_parameters()

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:  # noqa: D102
        self._check(z1, z2)
        if z1.size(0) < 2:
            return self._zero(z1, z2)
        score = self.critic.all_pairs(z1, z2)
        log_sum = 0.5 * (torch.logsumexp(score, dim=1) + torch.logsumexp(score, dim=0))
        return math.log(z1.size(0)) + (score.diagonal() - log_sum).mean()
