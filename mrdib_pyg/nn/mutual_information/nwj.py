from torch import Tensor

from mrdib_pyg.nn.mutual_information.base import MutualInformation
from mrdib_pyg.nn.mutual_information.critic import Critic


class NWJ(MutualInformation):
    r"""The lower bound of mutual information from `"Estimating Divergence Functionals and the
    Likelihood Ratio by Convex Risk Minimization" <https://arxiv.org/abs/0809.0853>`_, also known
    as the f-GAN or MINE-f bound,

    .. math::
        I(Z_1; Z_2) \ge 1 + \mathbb{E}_{p(\mathbf{z}_1, \mathbf{z}_2)} f(\mathbf{z}_1, \mathbf{z}_2)
        - \mathbb{E}_{p(\mathbf{z}_1) p(\mathbf{z}_2)} \exp f(\mathbf{z}_1, \mathbf{z}_2)

    with a learned critic :math:`f`, which is the usual one shifted by one nat. It is linear in both
    expectations: batches give unbiased values and gradients, at a higher variance than
    :class:`MINE`. The product of the marginals is sampled by derangements of the batch: cyclic
    shifts of small blocks of rows, in a random order in training mode.

    Args:
        in_channels_1 (int): Size of each row of the first code.
        in_channels_2 (int): Size of each row of the second code.
        hidden_channels (int, optional): Size of the hidden layers of the critic.
            (default: :obj:`64`)
        num_derangements (int, optional): Number of derangements that sample the product of the
            marginals; at most :math:`N - 1` are used. (default: :obj:`7`)

    Shapes:
        - **input:** first code :math:`(N, C_1)`, second code :math:`(N, C_2)`
        - **output:** a scalar in nats
    """

    def __init__(
        self,
        in_channels_1: int,
        in_channels_2: int,
        hidden_channels: int = 64,
        num_derangements: int = 7,
    ) -> None:
        super().__init__(in_channels_1, in_channels_2, hidden_channels)
        if num_derangements < 1:
            raise ValueError(f"'num_derangements' must be positive (got {num_derangements})")
        self.num_derangements = num_derangements
        self.critic = Critic(in_channels_1, in_channels_2, hidden_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets the critic."""
        self.critic.reset_parameters()

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:  # noqa: D102
        self._check(z1, z2)
        if z1.size(0) < 2:
            return self._zero(z1, z2)
        joint, product = self.critic(z1, z2, self.num_derangements)
        return 1 + joint.mean() - product.exp().mean()
