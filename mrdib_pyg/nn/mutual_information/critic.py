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
        re-paired rows, about ``[num_derangements * N]``, drawn from the product of the marginals.

        The rows, in a random order in training mode, are cut into blocks of
        :obj:`num_derangements + 1` or a few more, and each meets all others of its block: the
        cyclic shifts of the block, so that no row ever meets its own partner. Fewer rows than
        there are blocks may be left over, which meet none. The global random number
        generator is used.
        """
        num_rows = z1.size(0)
        if self.training:
            # Not `randperm`, whose use as an index torch 2.13 cannot compile.
            index = torch.rand(num_rows, device=z1.device).argsort()
            z1, z2 = z1.index_select(0, index), z2.index_select(0, index)
        (g1, a), (g2, b) = self._encode(z1, z2)
        joint = self.scale * (g1 * g2).sum(dim=-1) + a + b

        num_blocks = max(num_rows // (num_derangements + 1), 1)
        size = num_rows // num_blocks
        used = num_blocks * size
        g1, g2 = (g[:used].view(num_blocks, size, -1) for g in (g1, g2))
        scores = torch.baddbmm(
            a[:used].view(num_blocks, size, 1) + b[:used].view(num_blocks, 1, size),
            g1,
            g2.transpose(1, 2),
            alpha=self.scale,
        )
        # Without the first entry, the diagonal of each block is every (size + 1)-th.
        product = scores.flatten(1)[:, 1:].view(num_blocks, size - 1, size + 1)[:, :, :-1]
        return joint, product.flatten()

    def all_pairs(self, z1: Tensor, z2: Tensor) -> Tensor:
        r"""Returns the scores of all pairs ``[N, N]``; those of the joint distribution are on the
        diagonal.
        """
        (g1, a), (g2, b) = self._encode(z1, z2)
        return self.scale * g1 @ g2.t() + a.unsqueeze(1) + b

    def _encode(self, z1: Tensor, z2: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        # The squared norms of the distance belong to one row each.
        (g1, a), (g2, b) = self.encoder_1(z1), self.encoder_2(z2)
        a = a - 0.5 * self.scale * g1.square().sum(dim=-1)
        b = b - 0.5 * self.scale * g2.square().sum(dim=-1)
        return (g1, a), (g2, b)
