import torch
from torch import Tensor, nn


@torch.library.custom_op('mrdib_pyg::materialize', mutates_args=())
def _materialize(x: Tensor) -> Tensor:
    return x.clone()


@_materialize.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def materialize(x: Tensor) -> Tensor:
    r"""Returns :obj:`x`, which needs no gradient. When compiled, PyTorch (at least up to 2.13)
    would recompute values of a running statistic in the backward pass, after its update in place: a
    silently wrong gradient. This saves them.
    """
    return _materialize(x) if torch.compiler.is_compiling() else x


# The variance of a constant but for rounding, over the square of its mean.
_RELATIVE_VARIANCE = 1e-10


class RunningStandardization(nn.Module):
    r"""Standardizes each column of rows ``[N, C]`` by running statistics, constants to the
    gradient. Mutual information stays the same, but a network needs a common scale. A row's output
    depends on no other row; constant columns become zero; batches that are not finite leave the
    statistics alone.
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
        r"""Returns the standardized rows; training updates the statistics first."""
        if self.training and x.size(0) > 1:
            self._update(x)
        # Squares of small codes leave the range of half precision.
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean, var = self.mean.to(dtype), self.var.to(dtype)
        scale = (var + 1e-12).rsqrt().masked_fill(var <= _RELATIVE_VARIANCE * mean.square(), 0.0)
        return ((x.to(dtype) - materialize(mean)) * materialize(scale)).to(x.dtype)

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        weight = (1 / (self.num_batches + 1)).clamp(min=self.momentum).to(self.mean.dtype)
        mean = self.mean.lerp(x.mean(dim=0).to(self.mean.dtype), weight)
        # The spread around the running mean, which keeps the shift of a batch.
        var = self.var.lerp((x - mean).square().mean(dim=0).to(self.var.dtype), weight)
        # Training skips the step of a batch that overflowed: it must leave no trace here either.
        is_finite = var.sum() * 0 == 0  # NaN for NaN and infinity
        self.num_batches += is_finite
        self.mean.copy_(mean.where(is_finite, self.mean))
        self.var.copy_(var.where(is_finite, self.var))

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.mean.numel()})'


class LinearPerceptron(nn.Module):
    r"""A linear map plus a two-layer perceptron, and the perceptron's last :obj:`num_extra` columns
    apart, at least in single precision: they enter exponentials.
    """

    def __init__(
        self, in_channels: int, out_channels: int, hidden_channels: int, num_extra: int
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=False)
        self.lin_1 = nn.Linear(in_channels, hidden_channels)
        self.lin_2 = nn.Linear(hidden_channels, out_channels + num_extra)

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()
        self.lin_1.reset_parameters()
        self.lin_2.reset_parameters()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        out = self.lin_2(self.lin_1(z).relu())
        num = self.linear.out_features
        out, extra = out.split([num, out.size(1) - num], dim=1)
        out = self.linear(z) + out
        dtype = torch.promote_types(out.dtype, torch.float32)
        return out.to(dtype), extra.to(dtype)


class MutualInformation(nn.Module):
    r"""The interface of all estimators of the mutual information :math:`I(Z_1; Z_2)` between two
    codes, from :math:`N` paired rows.

    A subclass implements :meth:`forward`. The defaults of :meth:`learning_loss` and :meth:`penalty`
    fit a lower bound that a critic maximizes.

    Args:
        in_channels_1 (int): Size of each row of the first code.
        in_channels_2 (int): Size of each row of the second code.
        hidden_channels (int, optional): Size of the hidden layers of the critic, if there is one.
            (default: :obj:`64`)

    Shapes:
        - **input:** first code :math:`(N, C_1)`, second code :math:`(N, C_2)`
        - **output:** a scalar in nats, at least :obj:`torch.float32`

    Rows are cast to the type of the parameters. With fewer than two rows every method returns a
    zero that is connected to the inputs and the parameters.

    Raises:
        ValueError: If a size is not positive, or if the codes have the wrong rank or width, or
            differ in their number of rows.
    """

    #: Whether the estimate from some of the rows has the expectation of that from all.
    subsample: bool = True

    def __init__(self, in_channels_1: int, in_channels_2: int, hidden_channels: int = 64) -> None:
        super().__init__()
        for name, value in [
            ('in_channels_1', in_channels_1),
            ('in_channels_2', in_channels_2),
            ('hidden_channels', hidden_channels),
        ]:
            if value < 1:
                raise ValueError(f"'{name}' must be positive (got {value})")
        self.in_channels_1 = in_channels_1
        self.in_channels_2 = in_channels_2
        self.hidden_channels = hidden_channels

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters and running statistics of the module."""

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        r"""Returns the estimate in nats. In evaluation mode it is deterministic. In training mode
        it may draw from the global random number generator and update running statistics.

        Args:
            z1 (torch.Tensor): The first code, ``[N, in_channels_1]``.
            z2 (torch.Tensor): The second code, ``[N, in_channels_2]``, row by row with
                :obj:`z1`.
        """
        raise NotImplementedError

    def learning_loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        r"""Returns the scalar that the parameters of the estimator minimize, in nats: the negative
        of a lower bound.

        Args:
            z1 (torch.Tensor): The first code, ``[N, in_channels_1]``.
            z2 (torch.Tensor): The second code, ``[N, in_channels_2]``.
        """
        return -self(z1, z2)

    def penalty(self, z1: Tensor, z2: Tensor) -> Tensor:
        r"""Returns the estimate as a loss for the encoders of the codes. Its value and its gradient
        to the codes are those of :meth:`forward`. Its gradient to the parameters of the estimator
        is that of :meth:`learning_loss`. By this gradient reversal, one backward pass and one
        optimizer train both sides.

        Args:
            z1 (torch.Tensor): The first code, ``[N, in_channels_1]``.
            z2 (torch.Tensor): The second code, ``[N, in_channels_2]``.
        """
        # `2 z - z` is `z` bit for bit, with the derivative -1: it flips the sign for the codes. The
        # loss flips it once more, for codes and critic alike.
        loss = self.learning_loss(2 * z1.detach() - z1, 2 * z2.detach() - z2)
        return loss - 2 * loss.detach()

    def _check(self, z1: Tensor, z2: Tensor) -> None:
        for name, z, channels in [('z1', z1, self.in_channels_1), ('z2', z2, self.in_channels_2)]:
            if z.dim() != 2 or z.size(1) != channels:
                raise ValueError(
                    f"'{name}' must have shape [N, {channels}] (got {list(z.shape)}); set "
                    f"'in_channels_{name[1]}' to the width of the code"
                )
        if z1.size(0) != z2.size(0):
            raise ValueError(
                f"'z1' and 'z2' must be paired row by row (got {z1.size(0)} and {z2.size(0)} rows)"
            )

    def _zero(self, z1: Tensor, z2: Tensor) -> Tensor:
        # Connected to everything, so that the backward pass of a tiny batch finds a graph.
        out = (z1.sum() + z2.sum()) * 0
        for param in self.parameters():
            out = out + param.sum() * 0
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.in_channels_1}, {self.in_channels_2}, '
            f'hidden_channels={self.hidden_channels})'
        )
