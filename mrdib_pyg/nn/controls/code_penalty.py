from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mrdib_pyg.nn.bottleneck import Posterior
from mrdib_pyg.nn.codes import Codes, Rows, encode, make_all_sides, mean_over_batch
from mrdib_pyg.nn.pid_terms import PIDTerms


class CodePenalty(nn.Module):
    r"""A control for :class:`~mrdib_pyg.nn.MRdIB`: plain shrinkage of the codes, without noise and
    without any parameter,

    .. math::
        \tfrac{1}{2} \sum_m \| \mathbf{x}_m \|_2^2

    as a mean over the rows of the batch: the part of the bottleneck's rate that is an L2 penalty.
    It takes the place of MRdIB in a model and is weighted as :obj:`bottleneck`; the other terms
    are zero.

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

    def forward(self, x: Mapping[str, Rows]) -> dict[str, Codes]:
        r"""Returns every representation as it is."""
        return {name: encode(None, rows) for name, rows in x.items()}

    def loss(
        self,
        codes: Mapping[str, Codes],
        src_index: Tensor,
        dst_pos_index: Tensor,
        dst_neg_index: Tensor,
        **kwargs: Any,
    ) -> PIDTerms:
        r"""Returns half the squared norm of the codes as :obj:`bottleneck`; further arguments are
        those of :meth:`MRdIB.loss <mrdib_pyg.nn.MRdIB.loss>`.
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
