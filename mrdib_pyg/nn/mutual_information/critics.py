import math

import torch
from torch import Tensor, nn

from mrdib_pyg.nn.mutual_information.base import (
    LinearPerceptron,
    MutualInformation,
    RunningStandardization,
    materialize,
)


class _Encoder(LinearPerceptron):
    r"""One side of a :class:`Critic`: the encodings of standardized rows and their offsets."""

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__(in_channels, hidden_channels, hidden_channels, num_extra=1)
        self.norm = RunningStandardization(in_channels)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.norm.reset_parameters()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        g, offset = super().forward(self.norm(z.to(self.linear.weight.dtype)))
        return g, offset.squeeze(1)


class Critic(nn.Module):
    r"""Scores pairs by :math:`a(\mathbf{z}_1) + b(\mathbf{z}_2) - \frac{1}{2 \sqrt{h}} \|
    g_1(\mathbf{z}_1) - g_2(\mathbf{z}_2) \|^2`, each side encoded once. The upper bound of a score
    keeps :math:`\exp f` moderate on unseen pairs.
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
        r"""Returns the scores of the given pairs ``[N]`` (the joint distribution) and of re-paired
        rows, about ``[num_derangements * N]`` (the product of the marginals). Rows, shuffled in
        training mode, are cut into blocks; each meets all others of its block. Left-over rows meet
        none.
        """
        num_rows = z1.size(0)
        if self.training:
            # torch 2.13 cannot compile indexing by `randperm`.
            index = torch.rand(num_rows, device=z1.device).argsort()
            z1, z2 = z1.index_select(0, index), z2.index_select(0, index)
        (g1, a), (g2, b) = self._encode(z1, z2)
        joint = self.scale * (g1 * g2).sum(dim=-1) + a + b

        num_blocks = max(num_rows // (num_derangements + 1), 1)
        size = num_rows // num_blocks
        used = num_blocks * size
        g1, g2 = (g[:used].view(num_blocks, size, -1) for g in (g1, g2))
        offset = a[:used].view(num_blocks, size, 1) + b[:used].view(num_blocks, 1, size)
        with _full_precision(g1):
            scores = torch.baddbmm(offset, g1, g2.transpose(1, 2), alpha=self.scale)
        # Drop the first entry: the diagonal of each block is then every (size + 1)-th.
        product = scores.flatten(1)[:, 1:].view(num_blocks, size - 1, size + 1)[:, :, :-1]
        return joint, product.flatten()

    def all_pairs(self, z1: Tensor, z2: Tensor) -> Tensor:
        r"""Returns the scores of all pairs ``[N, N]``, with the given pairs on the diagonal."""
        (g1, a), (g2, b) = self._encode(z1, z2)
        with _full_precision(g1):
            return self.scale * g1 @ g2.t() + a.unsqueeze(1) + b

    def _encode(self, z1: Tensor, z2: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        # The squared norms of the distance belong to one row each.
        (g1, a), (g2, b) = self.encoder_1(z1), self.encoder_2(z2)
        a = a - 0.5 * self.scale * g1.square().sum(dim=-1)
        b = b - 0.5 * self.scale * g2.square().sum(dim=-1)
        return (g1, a), (g2, b)


def _full_precision(x: Tensor) -> torch.autocast:
    # Scores are differences of large terms in an exponential: autocast must not round them.
    return torch.autocast(x.device.type, enabled=False)


class _CriticBound(MutualInformation):
    r"""A lower bound with a critic."""

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
        self.critic.reset_parameters()

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        self._check(z1, z2)
        return self._zero(z1, z2) if z1.size(0) < 2 else self._bound(z1, z2)

    def _bound(self, z1: Tensor, z2: Tensor) -> Tensor:
        raise NotImplementedError


class MINE(_CriticBound):
    r"""The Donsker-Varadhan lower bound of mutual information from `"Mutual Information Neural
    Estimation" <https://arxiv.org/abs/1801.04062>`_,

    .. math::
        I(Z_1; Z_2) \ge \mathbb{E}_{p(\mathbf{z}_1, \mathbf{z}_2)} f(\mathbf{z}_1, \mathbf{z}_2)
        - \log \mathbb{E}_{p(\mathbf{z}_1) p(\mathbf{z}_2)} \exp f(\mathbf{z}_1, \mathbf{z}_2)

    with a learned critic :math:`f`. Derangements of the batch sample the product of the marginals:
    cyclic shifts of small blocks of rows, shuffled in training mode.

    In training mode the gradient of the second term is corrected as in the paper: its denominator
    is a moving average of :math:`\mathbb{E} \exp f` over batches, which removes most of the bias
    of a batch mean inside a logarithm. The value, and the gradient in evaluation mode, are those of
    the plain bound.

    Args:
        in_channels_1, in_channels_2, hidden_channels: See :class:`MutualInformation`.
        num_derangements (int, optional): Number of derangements that sample the product of the
            marginals; at most :math:`N - 1` are used. (default: :obj:`7`)
        momentum (float, optional): Weight of a new batch in the moving average.
            (default: :obj:`0.1`)
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
        if not 0 < momentum <= 1:
            raise ValueError(f"'momentum' must be in (0, 1] (got {momentum})")
        super().__init__(in_channels_1, in_channels_2, hidden_channels, num_derangements)
        self.momentum = momentum
        self.register_buffer('log_average', torch.zeros(1))
        self.register_buffer('num_batches', torch.zeros((), dtype=torch.long))

    def reset_parameters(self) -> None:
        r"""Resets the critic and forgets the moving average."""
        super().reset_parameters()
        if hasattr(self, 'log_average'):  # not yet where the base class calls this
            self.log_average.zero_()
            self.num_batches.zero_()

    def _bound(self, z1: Tensor, z2: Tensor) -> Tensor:
        joint, product = self.critic(z1, z2, self.num_derangements)
        log_mean = torch.logsumexp(product, dim=0) - math.log(product.numel())
        if self.training:
            # d log_mean becomes d (mean exp f) / average, at the same value.
            ratio = self._update(log_mean.detach())
            log_mean = log_mean.detach() + ratio * (log_mean - log_mean.detach())
        return joint.mean() - log_mean

    @torch.no_grad()
    def _update(self, log_mean: Tensor) -> Tensor:
        # Returns the batch's mean over the moving average, which includes it. The average is a
        # logarithm, because exp f may overflow, and has equal weights for 1 / momentum batches.
        weight = (1 / (self.num_batches + 1)).clamp(min=self.momentum).to(log_mean.dtype)
        average = torch.logaddexp(torch.log1p(-weight) + self.log_average, weight.log() + log_mean)
        is_finite = average.isfinite()  # a batch that is not must leave no trace
        self.num_batches += is_finite.squeeze()
        self.log_average.copy_(average.where(is_finite, self.log_average))
        return materialize((log_mean - average).exp()).squeeze()


class NWJ(_CriticBound):
    r"""The lower bound of mutual information from `"Estimating Divergence Functionals and the
    Likelihood Ratio by Convex Risk Minimization" <https://arxiv.org/abs/0809.0853>`_, also known
    as the f-GAN or MINE-f bound,

    .. math::
        I(Z_1; Z_2) \ge 1 + \mathbb{E}_{p(\mathbf{z}_1, \mathbf{z}_2)} f(\mathbf{z}_1, \mathbf{z}_2)
        - \mathbb{E}_{p(\mathbf{z}_1) p(\mathbf{z}_2)} \exp f(\mathbf{z}_1, \mathbf{z}_2)

    with a learned critic :math:`f`, the usual one shifted by one nat. It is linear in both
    expectations: batches give unbiased values and gradients, at a higher variance than
    :class:`MINE`. Derangements sample the product of the marginals as in :class:`MINE`.

    Args:
        in_channels_1, in_channels_2, hidden_channels: See :class:`MutualInformation`.
        num_derangements (int, optional): Number of derangements that sample the product of the
            marginals; at most :math:`N - 1` are used. (default: :obj:`7`)
    """

    def _bound(self, z1: Tensor, z2: Tensor) -> Tensor:
        joint, product = self.critic(z1, z2, self.num_derangements)
        return 1 + joint.mean() - product.exp().mean()


class InfoNCE(_CriticBound):
    r"""The contrastive lower bound of mutual information from `"Representation Learning with
    Contrastive Predictive Coding" <https://arxiv.org/abs/1807.03748>`_,

    .. math::
        I(Z_1; Z_2) \ge \ln N + \frac{1}{N} \sum_{i=1}^{N} \log
        \frac{\exp f(\mathbf{z}_{1,i}, \mathbf{z}_{2,i})}
        {\sum_{j=1}^{N} \exp f(\mathbf{z}_{1,i}, \mathbf{z}_{2,j})}

    averaged with the same bound from the second code to the first, with a learned critic
    :math:`f`. Its variance is low, and it never exceeds :math:`\ln N`. One matrix product scores
    all :math:`N^2` pairs of the batch.

    Args:
        in_channels_1, in_channels_2, hidden_channels: See :class:`MutualInformation`.
    """

    def __init__(self, in_channels_1: int, in_channels_2: int, hidden_channels: int = 64) -> None:
        super().__init__(in_channels_1, in_channels_2, hidden_channels)

    def _bound(self, z1: Tensor, z2: Tensor) -> Tensor:
        score = self.critic.all_pairs(z1, z2)
        log_sum = 0.5 * (torch.logsumexp(score, dim=1) + torch.logsumexp(score, dim=0))
        return math.log(z1.size(0)) + (score.diagonal() - log_sum).mean()
