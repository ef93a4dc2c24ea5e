import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mrdib_pyg.nn.bottleneck import Codes, ModalityRows, Posterior, encode
from mrdib_pyg.nn.mrdib import PIDTerms
from mrdib_pyg.nn.sides import make_all_sides, mean_over_batch


class CodeNoise(nn.Module):
    r"""A control for :class:`~mrdib_pyg.nn.MRdIB`: Gaussian noise on the codes in training, with
    neither a rate nor parameters,

    .. math::
        \mathbf{z}_m = \mathbf{x}_m + s \cdot \mathrm{RMS}(\mathbf{x}_m) \, \epsilon, \quad
        \epsilon \sim \mathcal{N}(0, I)

    It takes the place of MRdIB in a model. All its terms are zero. The noise follows the scale of
    the representation, because a fixed level would vanish as embeddings grow.

    Args:
        channels (Dict[str, int]): The width of each modality's representation, by its name.
        noise_scale (float, optional): The standard deviation :math:`s` as a fraction of the root
            mean square of the rows. (default: :obj:`0.1`)

    Raises:
        ValueError: If :obj:`noise_scale` is negative or not finite.
    """

    def __init__(self, channels: Mapping[str, int], noise_scale: float = 0.1) -> None:
        super().__init__()
        if not 0 <= noise_scale < math.inf:
            raise ValueError(f"'noise_scale' must be finite and not negative (got {noise_scale})")
        self.channels = dict(channels)
        self.noise_scale = noise_scale

    @property
    def config(self) -> dict[str, Any]:
        r"""The settings as keyword arguments, with the name of the control."""
        return {'control': 'noise', 'noise_scale': self.noise_scale}

    def reset_parameters(self) -> None:
        r"""There is no parameter to reset."""

    def forward(self, x: Mapping[str, ModalityRows]) -> dict[str, Codes]:
        r"""Returns every representation, with noise in training mode."""
        return {name: encode(self._add_noise, rows) for name, rows in x.items()}

    def _add_noise(self, x: Tensor) -> Posterior:
        if not self.training or x.numel() == 0:
            return Posterior(x, x)
        # Squares of small or large rows leave the range of half precision.
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        std = self.noise_scale * wide.square().mean().sqrt()
        return Posterior(x + std.to(x.dtype) * torch.randn_like(x), x)

    def loss(
        self,
        codes: Mapping[str, Codes],
        src_index: Tensor,
        dst_pos_index: Tensor,
        dst_neg_index: Tensor,
        **kwargs: Any,
    ) -> PIDTerms:
        r"""Returns terms of zero; takes the arguments of :meth:`MRdIB.loss
        <mrdib_pyg.nn.MRdIB.loss>`.
        """
        code = next(iter(codes.values()))
        posterior = code if isinstance(code, Posterior) else code[1]
        zero = posterior.mu.new_zeros(())
        return PIDTerms(zero, zero, zero)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.channels}, noise_scale={self.noise_scale})'


class CodePenalty(nn.Module):
    r"""A control for :class:`~mrdib_pyg.nn.MRdIB`: plain shrinkage of the codes, with neither noise
    nor parameters,

    .. math::
        \tfrac{1}{2} \sum_m \| \mathbf{x}_m \|_2^2

    as a mean over the rows of the batch: the L2 part of the bottleneck's rate. It takes the place
    of MRdIB in a model and has the weight of :obj:`bottleneck`. The other terms are zero.

    Args:
        channels (Dict[str, int]): The width of each modality's representation, by its name.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)

    @property
    def config(self) -> dict[str, Any]:
        r"""The settings as keyword arguments, with the name of the control."""
        return {'control': 'l2'}

    def reset_parameters(self) -> None:
        r"""There is no parameter to reset."""

    def forward(self, x: Mapping[str, ModalityRows]) -> dict[str, Codes]:
        r"""Returns every representation unchanged."""
        return {name: encode(None, rows) for name, rows in x.items()}

    def loss(
        self,
        codes: Mapping[str, Codes],
        src_index: Tensor,
        dst_pos_index: Tensor,
        dst_neg_index: Tensor,
        **kwargs: Any,
    ) -> PIDTerms:
        r"""Returns half the squared norm of the codes as :obj:`bottleneck`; takes the arguments of
        :meth:`MRdIB.loss <mrdib_pyg.nn.MRdIB.loss>`.
        """
        triplet = (src_index, dst_pos_index, dst_neg_index)
        sides = make_all_sides(
            codes, kwargs.get('user_embedding'), kwargs.get('present'), triplet
        ).values()
        zero = next(iter(sides)).item.mu.new_zeros(())
        penalty = zero
        for side in sides:
            penalty = penalty + mean_over_batch(_half_square, side, triplet)
        return PIDTerms(penalty, zero, zero)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.channels})'


def _half_square(code: Posterior) -> Tensor:
    return 0.5 * code.z.square().sum(dim=-1)
