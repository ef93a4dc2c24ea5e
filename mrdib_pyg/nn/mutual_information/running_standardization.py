import torch
from torch import Tensor, nn

from mrdib_pyg.nn.mutual_information.materialize import materialize

# The variance of what is constant but for rounding, over the square of its mean.
_RELATIVE_VARIANCE = 1e-10


class RunningStandardization(nn.Module):
    r"""Standardizes each column by running statistics, which are constants to the gradient.

    Mutual information does not change under such a map, but a network reads it only from inputs of
    a common scale, and embeddings start near :math:`\pm 0.02`. Unlike batch normalization, the
    output of a row depends on no other row of the batch, also in training. A column that does not
    vary, within rounding, becomes zero. A batch that is not finite leaves the statistics alone.

    Args:
        channels (int): Size of each row.
        momentum (float, optional): Weight of a new batch in the running statistics. The first
            :obj:`1 / momentum` batches are averaged with equal weights. (default: :obj:`0.1`)

    Shapes:
        - **input:** rows :math:`(N, C)`
        - **output:** rows :math:`(N, C)`
    """

    mean: Tensor
    var: Tensor
    num_batches: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer('mean', torch.zeros(channels))
        self.register_buffer('var', torch.ones(channels))
        self.register_buffer('num_batches', torch.zeros((), dtype=torch.long))

    def reset_parameters(self) -> None:
        r"""Forgets the running statistics."""
        self.mean.zero_()
        self.var.fill_(1.0)
        self.num_batches.zero_()

    def forward(self, x: Tensor) -> Tensor:
        r"""Returns the standardized rows; in training mode the statistics are updated first.

        Args:
            x (torch.Tensor): The rows, ``[N, channels]``.
        """
        if self.training and x.size(0) > 1:
            self._update(x)
        # The squares of small codes are no numbers of half precision.
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean, var = self.mean.to(dtype), self.var.to(dtype)
        scale = (var + 1e-12).rsqrt().masked_fill(var <= _RELATIVE_VARIANCE * mean.square(), 0.0)
        return ((x.to(dtype) - materialize(mean)) * materialize(scale)).to(x.dtype)

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        weight = (1 / (self.num_batches + 1)).clamp(min=self.momentum).to(self.mean.dtype)
        mean = self.mean.lerp(x.mean(dim=0).to(self.mean.dtype), weight)
        # The spread around the running mean: a batch that moved is not cut down.
        var = self.var.lerp((x - mean).square().mean(dim=0).to(self.var.dtype), weight)
        # A batch that overflowed, whose step a training skips, must not stay here for good.
        is_finite = var.sum() * 0 == 0  # of NaN and infinity it is NaN
        self.num_batches += is_finite
        self.mean.copy_(mean.where(is_finite, self.mean))
        self.var.copy_(var.where(is_finite, self.var))

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.mean.numel()})'
