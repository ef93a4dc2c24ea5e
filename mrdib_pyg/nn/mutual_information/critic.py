import math

import torch
from torch import Tensor, nn

from mrdib_pyg.nn.mutual_information.running_standardization import RunningStandardization


class _Encoder(nn.Module):
    r"""One side of a :class:`Critic`: standardization, then a linear map plus a two-layer
    perceptron. The last column of the output is the offset of the row.
    """

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.norm = RunningStandardization(in_channels)
        self.linear = nn.Linear(in_channels, hidden_channels, bias=False)
        self.lin_1 = nn.Linear(in_channels, hidden_channels)
        self.lin_2 = nn.Linear(hidden_channels, hidden_channels + 1)

    def reset_parameters(self) -> None:
        self.norm.reset_parameters()
        self.linear.reset_parameters()
        self.lin_1.reset_parameters()
        self.lin_2.reset_parameters()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = self.norm(z.to(self.linear.weight.dtype))
        out = self.lin_2(self.lin_1(z).relu())
        out, offset = out.split([out.size(1) - 1, 1], dim=1)
        g, offset = self.linear(z) + out, offset.squeeze(1)
        # Scores are differences of large terms and enter an exponential.
        dtype = torch.promote_types(g.dtype, torch.float32)
        return g.to(dtype), offset.to(dtype)


class Critic(nn.Module):
    r"""A separable critic of pairs of rows,

    .. math::
        f(\mathbf{z}_1, \mathbf{z}_2) = a(\mathbf{z}_1) + b(\mathbf{z}_2) -
        \frac{1}{2 \sqrt{h}} {\| g_1(\mathbf{z}_1) - g_2(\mathbf{z}_2) \|}^2 .

    Each side is encoded once, whatever the number of pairs. The distance holds the inner product
    that tells partners from strangers and, unlike a bare inner product, is bounded above, which
    keeps :math:`\exp f` tame on pairs that were never seen.

    Args:
        in_channels_1 (int): Size of each row of the first code.
        in_channels_2 (int): Size of each row of the second code.
        hidden_channels (int): Size :math:`h` of the hidden layers and of the encodings.
    """

    def __init__(self, in_channels_1: int, in_channels_2: int, hidden_channels: int) -> None:
        super().__init__()
        self.encoder_1 = _Encoder(in_channels_1, hidden_channels)
        self.encoder_2 = _Encoder(in_channels_2, hidden_channels)
        self.scale = 1 / math.sqrt(hidden_channels)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters and running statistics of the module."""
        self.encoder_1.reset_parameters()
        self.encoder_2.reset_parameters()

    def forward(self, z1: Tensor, z2: Tensor, num_derangements: int) -> tuple[Tensor, Tensor]:
        r"""Returns the scores of the pairs ``[N]``, drawn from the joint distribution, and those of
        re-paired rows ``[num_derangements, N]``, drawn from the product of the marginals.

        Rows are re-paired by cyclic shifts, after a random permutation in training mode, so that
        no row ever meets its own partner. The global random number generator is used.
        """
        num_rows = z1.size(0)
        if self.training:
            # Not `randperm`, whose use as an index torch 2.13 cannot compile.
            index = torch.rand(num_rows, device=z1.device).argsort()
            z1, z2 = z1[index], z2[index]
        (g1, a), (g2, b) = self.encoder_1(z1), self.encoder_2(z2)

        def score(shift: int) -> Tensor:
            distance = (g1 - g2.roll(shift, 0)).square().sum(dim=-1)
            return a + b.roll(shift) - 0.5 * self.scale * distance

        num = min(num_derangements, num_rows - 1)
        shifts = [i * num_rows // (num + 1) for i in range(1, num + 1)]
        return score(0), torch.stack([score(shift) for shift in shifts])

    def all_pairs(self, z1: Tensor, z2: Tensor) -> Tensor:
        r"""Returns the scores of all pairs ``[N, N]``; those of the joint distribution are on the
        diagonal.
        """
        (g1, a), (g2, b) = self.encoder_1(z1), self.encoder_2(z2)
        a = a - 0.5 * self.scale * g1.square().sum(dim=-1)
        b = b - 0.5 * self.scale * g2.square().sum(dim=-1)
        return self.scale * g1 @ g2.t() + a.unsqueeze(1) + b
