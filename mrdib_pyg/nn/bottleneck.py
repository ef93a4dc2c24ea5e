"""Gaussian posteriors. The row-wise functions have backward passes of their own, because a chain of
element-wise operations goes through memory several times as often. A compiled graph takes their
plain references: the compiler fuses such a chain itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MIN_LOGSTD, MAX_LOGSTD = -10.0, 2.0


def encode_rows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    log_scale: Tensor,
    noise: Tensor | None,
    residual: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    r"""Returns the sample, the mean and the log standard deviation of Gaussian posteriors, ``[N,
    C]`` each, and the KL divergence ``[N]`` in nats where it comes cheaper here than by
    :func:`kl_of_rows`, else :obj:`None`. :func:`encode_rows_reference` is the formula.
    """
    if torch.compiler.is_compiling():
        return *encode_rows_reference(x, weight, bias, log_scale, noise, residual), None
    # In half precision a sum over C loses too many bits.
    with_kl = noise is not None and x.dtype.itemsize >= 4
    z, mu, logstd, kl = _Encode.apply(x, weight, bias, log_scale, noise, residual, with_kl)
    return (mu if noise is None else z), mu, logstd, kl


def encode_rows_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    log_scale: Tensor,
    noise: Tensor | None,
    residual: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The mean is :math:`\mathbf{x} + r (\mathbf{x} W + b)`, without :obj:`residual` :math:`r` the
    linear map alone; the sample is the mean without :obj:`noise`. :obj:`weight` holds the map of
    the mean first, then that of the log standard deviation.
    """
    mu, logstd = F.linear(x, weight, bias).chunk(2, dim=-1)
    mu = mu if residual is None else x + residual * mu
    logstd = (logstd + log_scale.to(logstd.dtype)).clamp(MIN_LOGSTD, MAX_LOGSTD)
    return (mu if noise is None else mu + logstd.exp() * noise), mu, logstd


def kl_of_rows(mu: Tensor, logstd: Tensor) -> Tensor:
    r"""Computes :math:`\mathrm{KL}(\mathcal{N}(\mu, \sigma^2) \,\|\, \mathcal{N}(0, I))` of each
    row in nats, ``[N, C]`` to ``[N]``.
    """
    if torch.compiler.is_compiling():
        return kl_of_rows_reference(mu, logstd)
    return _KL.apply(mu, logstd)


def kl_of_rows_reference(mu: Tensor, logstd: Tensor) -> Tensor:
    r"""The reference of :func:`kl_of_rows`."""
    return 0.5 * (mu.square() + (2 * logstd).expm1() - 2 * logstd).sum(dim=-1)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        log_scale: Tensor,
        noise: Tensor | None,
        residual: float | None,
        with_kl: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        heads = F.linear(x, weight, bias)
        mu, logstd = heads.chunk(2, dim=-1)
        mu = mu.contiguous() if residual is None else torch.add(x, mu, alpha=residual)
        logstd = logstd + log_scale.to(logstd.dtype)
        outside = _outside(logstd)
        logstd.clamp_(MIN_LOGSTD, MAX_LOGSTD)
        z = shift = kl = excess = None
        if noise is not None:
            std = logstd.exp()
            shift = std * noise
            z = mu + shift
            if with_kl:
                excess = _excess(logstd, std)
                kl = _kl(mu, logstd, excess)
        ctx.save_for_backward(x, weight, outside, shift, mu if with_kl else None, excess)
        ctx.residual = residual
        ctx.set_materialize_grads(False)
        return z, mu, logstd, kl

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_z: Tensor | None,
        grad_mu: Tensor | None,
        grad: Tensor | None,
        grad_kl: Tensor | None,
    ):
        x, weight, outside, shift, mu, excess = ctx.saved_tensors
        channels = weight.size(0) // 2
        heads = torch.empty(x.size(0), 2 * channels, dtype=x.dtype, device=x.device)
        total = grad_z if grad_mu is None else grad_mu if grad_z is None else grad_z + grad_mu
        if grad_kl is not None:
            grad_kl = grad_kl.unsqueeze(-1)
            total = mu * grad_kl if total is None else torch.addcmul(total, mu, grad_kl)
        scale = 1.0 if ctx.residual is None else ctx.residual
        if total is None:
            heads[:, :channels] = 0
        else:
            torch.mul(total, scale, out=heads[:, :channels])
        slope = heads[:, channels:]
        if grad_z is None or shift is None:
            slope.zero_()
        else:
            torch.mul(grad_z, shift, out=slope)
        if grad is not None:
            slope += grad
        if grad_kl is not None:
            slope.addcmul_(excess, grad_kl)
        if outside is not None:  # a clamped value passes no gradient
            slope.masked_fill_(outside, 0)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = heads @ weight.to(heads.dtype)
            if ctx.residual is not None and total is not None:
                grad_x += total
        if ctx.needs_input_grad[1]:
            grad_weight = heads.t() @ x
        if ctx.needs_input_grad[2]:
            grad_bias = heads.sum(dim=0)
        return grad_x, grad_weight, grad_bias, None, None, None, None


class _KL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mu: Tensor, logstd: Tensor) -> Tensor:
        excess = _excess(logstd)
        ctx.save_for_backward(mu, excess)
        return _kl(mu, logstd, excess)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        mu, excess = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        return mu * grad, excess * grad


def _excess(logstd: Tensor, std: Tensor | None = None) -> Tensor:
    # The variance minus one; overwrites the standard deviation if given. `exp` takes half the time
    # of `expm1` and is as exact where no digits cancel.
    if not _is_below(logstd, -0.5):
        return (2 * logstd).expm1_()
    variance = (2 * logstd).exp_() if std is None else std.square_()
    return variance.sub_(1)


def _kl(mu: Tensor, logstd: Tensor, excess: Tensor) -> Tensor:
    return torch.addcmul(excess, mu, mu).sub_(logstd, alpha=2).sum(dim=-1).mul_(0.5)


def _is_below(x: Tensor, bound: float) -> bool:
    # Not on a GPU, which this would wait for.
    return x.device.type == 'cpu' and x.numel() > 0 and float(x.max()) < bound


def _outside(logstd: Tensor) -> Tensor | None:
    # The entries that the clamp changes, rarely any: looking costs less than masking, except on a
    # GPU, which this would wait for.
    if logstd.device.type == 'cpu' and logstd.numel() > 0:
        low, high = logstd.aminmax()
        if MIN_LOGSTD <= float(low) and float(high) <= MAX_LOGSTD:
            return None
    return (logstd < MIN_LOGSTD) | (logstd > MAX_LOGSTD)


# How far inside its bounds the log standard deviation starts: beyond one it has no gradient.
_MARGIN = 0.5


class Posterior(NamedTuple):
    r"""A diagonal Gaussian posterior :math:`q(\mathbf{z}|\mathbf{x}) = \mathcal{N}(\mu, \sigma^2)`
    together with the code that was drawn from it.

    Args:
        z (torch.Tensor): The code, a sample in training and the mean in evaluation, ``[N, C]``.
        mu (torch.Tensor): The mean, ``[N, C]``.
        logstd (torch.Tensor, optional): The natural logarithm of the standard deviation,
            ``[N, C]``, or :obj:`None` for a deterministic code.
    """

    z: Tensor
    mu: Tensor
    logstd: Tensor | None = None

    def kl(self) -> Tensor:
        r"""Returns :math:`\mathrm{KL}(q(\mathbf{z}|\mathbf{x}) \,\|\, \mathcal{N}(0, I))` in nats,
        summed over dimensions, ``[N]``. It is zero for a deterministic code, which has no rate.
        """
        if self.logstd is None:
            return self.mu.new_zeros(self.mu.size(0))
        mu, logstd = self.mu, self.logstd
        if mu.dtype in (torch.float16, torch.bfloat16):  # a sum over C loses too many bits there
            mu, logstd = mu.float(), logstd.float()
        return kl_of_rows(mu, logstd)


class EncodedPosterior(Posterior):
    r"""A posterior with :attr:`rate`, the KL divergence of each row in nats, ``[N]``, that its
    bottleneck has computed. Its gradient bypasses :attr:`mu` and :attr:`logstd`, unlike that of
    :meth:`kl`, which has the same value.
    """

    rate: Tensor | None = None

    @classmethod
    def wrap(cls, posterior: Posterior, rate: Tensor) -> 'EncodedPosterior':
        r"""Adds the rate to a posterior."""
        out = cls(*posterior)
        out.rate = rate
        return out


def rate_of(posterior: Posterior) -> Tensor:
    r"""Returns the KL divergence of each row in nats, ``[N]``: that of the bottleneck if it has
    computed one, which saves a pass over the codes.
    """
    rate = getattr(posterior, 'rate', None)  # `_replace` drops it, as it should
    return posterior.kl() if rate is None else rate


#: The rows of one modality: one tensor, or one for users (if they have any) and one for items.
ModalityRows = Tensor | tuple[Tensor | None, Tensor]

Codes = Posterior | tuple[Posterior | None, Posterior]


def encode(bottleneck: Callable[[Tensor], Posterior] | None, rows: ModalityRows) -> Codes:
    r"""Applies a bottleneck to one tensor or a pair; :obj:`None` is the deterministic identity."""
    if isinstance(rows, Tensor):
        return Posterior(rows, rows) if bottleneck is None else bottleneck(rows)
    user, item = rows
    if bottleneck is None:
        return None if user is None else Posterior(user, user), Posterior(item, item)
    if user is None:
        return None, bottleneck(item)
    if user.dim() != 2 or item.dim() != 2 or user.size(1) != item.size(1):
        raise ValueError(
            f'the users and items of a modality must be matrices of one width (got '
            f'{list(user.shape)} and {list(item.shape)})'
        )
    # One call for both sides, which share the space, the parameters and the noise level.
    posterior = bottleneck(torch.cat([user, item]))
    size = [user.size(0), item.size(0)]
    parts = [(None, None) if x is None else x.split(size) for x in posterior]
    out = [Posterior(*part) for part in zip(*parts)]
    rate = getattr(posterior, 'rate', None)
    if rate is not None:
        out = [EncodedPosterior.wrap(*pair) for pair in zip(out, rate.split(size))]
    return out[0], out[1]


def module_key(name: str) -> str:
    r"""Returns a modality's key in a :class:`~torch.nn.ModuleDict`, which refuses the names of its
    own attributes, such as ``'type'``.
    """
    return f'modality_{name}'


class VariationalBottleneck(nn.Module):
    r"""The variational information bottleneck of `"Deep Variational Information Bottleneck"
    <https://arxiv.org/abs/1612.00410>`_ as used per modality by MRdIB (`arXiv:2509.20225
    <https://arxiv.org/abs/2509.20225>`_),

    .. math::
        q(\mathbf{z}|\mathbf{x}) = \mathcal{N}(\mu(\mathbf{x}), \mathrm{diag}\,
        \sigma(\mathbf{x})^2), \quad \mathbf{z} = \mu + \sigma \odot \epsilon

    with a residual mean :math:`\mu = \mathbf{x} + \mathbf{x} W + b`. :math:`W` and :math:`b` start
    at zero: in evaluation mode a fresh bottleneck returns its input bit for bit. The layer stores
    them times :math:`C`, so that they learn no faster than the layers below. The standard deviation
    starts at a tenth of the root mean square of the first input in training (kept as a buffer):
    embedding tables start small, and a fixed start would drown them in noise.

    Args:
        in_channels (int): Size of each input row.
        out_channels (int, optional): Size of each code. If it differs from
            :obj:`in_channels` there is no residual and the mean is a plain linear map.
            (default: :obj:`None`, the same as :obj:`in_channels`)
        noise_scale (float, optional): The initial standard deviation as a fraction of the root
            mean square of the input. (default: :obj:`0.1`)

    The log standard deviation is clamped to ``[-10, 2]``, and starts in ``[-9.5, 1.5]``.

    Shapes:
        - **input:** rows :math:`(N, C_{in})`
        - **output:** :class:`Posterior` of three :math:`(N, C_{out})` tensors
    """

    log_scale: Tensor
    is_initialized: Tensor

    def __init__(
        self, in_channels: int, out_channels: int | None = None, noise_scale: float = 0.1
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        if in_channels < 1 or out_channels < 1:
            raise ValueError(
                f"'in_channels' and 'out_channels' must be positive (got {in_channels} and "
                f'{out_channels})'
            )
        if not 0 < noise_scale < math.inf:
            raise ValueError(f"'noise_scale' must be positive and finite (got {noise_scale})")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.noise_scale = noise_scale
        # One layer for both heads: a single matrix product per call.
        self.lin = nn.Linear(in_channels, 2 * out_channels)
        self.register_buffer('log_scale', torch.zeros(()))
        self.register_buffer('is_initialized', torch.zeros((), dtype=torch.bool))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters and forgets the initial noise level."""
        nn.init.zeros_(self.lin.weight)
        nn.init.zeros_(self.lin.bias)
        if self.in_channels != self.out_channels:
            nn.init.xavier_uniform_(self.lin.weight[: self.out_channels])
        self.log_scale.zero_()
        self.is_initialized.zero_()

    def _initial_logstd(self, x: Tensor) -> Tensor:
        # A branch on the buffer's value would synchronize a GPU and break a compiled graph.
        if x.device.type == 'cpu' and not torch.compiler.is_compiling() and self.is_initialized:
            return self.log_scale.to(x.dtype)
        rms = x.detach().float().square().mean().sqrt()
        first = (self.noise_scale * rms).log()
        first = first.clamp(MIN_LOGSTD + _MARGIN, MAX_LOGSTD - _MARGIN)
        log_scale = torch.where(self.is_initialized, self.log_scale, first)
        if self.training:
            self.log_scale.copy_(log_scale)
            # Rows of zeros have no scale yet, and rows that overflow no usable one.
            self.is_initialized.logical_or_((rms > 0) & rms.isfinite())
        return log_scale.to(x.dtype)

    def forward(self, x: Tensor) -> Posterior:
        r"""Encodes rows.

        Args:
            x (torch.Tensor): The rows of one modality, ``[N, in_channels]``.

        Returns:
            Posterior: The code with its mean and log standard deviation; the code is a sample
            in training mode and the mean in evaluation mode.

        Raises:
            ValueError: If the width of :obj:`x` is not :obj:`in_channels`.
        """
        if x.dim() != 2 or x.size(-1) != self.in_channels:
            raise ValueError(
                f"'x' must have the shape [N, {self.in_channels}] (got {list(x.shape)}); set "
                f"'in_channels' to the width of the representation"
            )
        noise_level = x.new_zeros(())
        if x.size(0) > 0:  # the RMS of no rows is undefined
            noise_level = self._initial_logstd(x)
        noise = None
        if self.training:
            noise = torch.randn(x.size(0), self.out_channels, dtype=x.dtype, device=x.device)
        # Adam moves each weight by the learning rate. Divided by the width, the head moves a code
        # no farther than a step moves the input. Otherwise it outruns the embedding tables below,
        # its bias (a popularity) first.
        residual = 1 / self.in_channels if self.in_channels == self.out_channels else None
        *out, rate = encode_rows(x, self.lin.weight, self.lin.bias, noise_level, noise, residual)
        posterior = Posterior(*out)
        return posterior if rate is None else EncodedPosterior.wrap(posterior, rate)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.in_channels}, {self.out_channels})'


def product_of_experts(
    posteriors: Sequence[Posterior],
    masks: Sequence[Tensor | None] | None = None,
    training: bool = False,
) -> Posterior:
    r"""Multiplies a standard normal prior with the posteriors of the modalities that are present,

    .. math::
        q(\mathbf{z}|\mathbf{x}_1, \ldots, \mathbf{x}_M) \propto \mathcal{N}(0, I) \prod_m
        q(\mathbf{z}|\mathbf{x}_m)

    as in `"Multimodal Generative Models for Scalable Weakly-Supervised Learning"
    <https://arxiv.org/abs/1802.05335>`_. A missing modality drops out of the product. A row
    without any modality falls back to the prior.

    Args:
        posteriors (Sequence[Posterior]): One posterior per modality, all of the same shape. A
            deterministic one (:obj:`logstd=None`) counts as an expert of unit variance. Half
            precision is raised to single precision inside.
        masks (Sequence[torch.Tensor, optional], optional): Per modality a boolean ``[N]`` that is
            :obj:`True` where the modality is present, or :obj:`None` if it always is.
            (default: :obj:`None`)
        training (bool, optional): If set to :obj:`True` and any posterior is stochastic, the code
            is a sample of the product, else its mean. (default: :obj:`False`)

    Returns:
        Posterior: The product.

    Raises:
        ValueError: If there is no posterior, not one mask per posterior, or shapes differ.
    """
    if len(posteriors) == 0:
        raise ValueError("'posteriors' must hold at least one posterior (got none)")
    if masks is not None and len(masks) != len(posteriors):
        raise ValueError(
            f"'masks' must have one entry per posterior (got {len(masks)} for {len(posteriors)})"
        )
    shape, dtype = posteriors[0].mu.shape, posteriors[0].mu.dtype
    # The precision of a narrow expert is beyond half precision.
    wide = torch.promote_types(dtype, torch.float32)
    total = torch.ones_like(posteriors[0].mu, dtype=wide)
    weighted = torch.zeros_like(total)
    for i, posterior in enumerate(posteriors):
        mask = None if masks is None else masks[i]
        if posterior.mu.shape != shape or (mask is not None and mask.shape != shape[:1]):
            raise ValueError(
                f"'posteriors' must be of one shape, and each mask hold one value a row (got "
                f'{list(shape)}, {list(posterior.mu.shape)} and '
                f'{None if mask is None else list(mask.shape)})'
            )
        # The code of a deterministic posterior, with the noise of a control.
        mu, precision = posterior.z.to(wide), torch.ones_like(total)
        if posterior.logstd is not None:
            mu, precision = posterior.mu.to(wide), (-2 * posterior.logstd.to(wide)).exp()
        if mask is not None:  # rows without the modality may hold anything
            mask = mask.bool().unsqueeze(-1)
            mu, precision = mu.where(mask, 0.0), precision.where(mask, 0.0)
        total = total + precision
        weighted = weighted + precision * mu
    mu = weighted / total
    logstd = -0.5 * total.log()
    stochastic = any(posterior.logstd is not None for posterior in posteriors)
    z = mu + logstd.exp() * torch.randn_like(mu) if training and stochastic else mu
    return Posterior(z.to(dtype), mu.to(dtype), logstd.to(dtype))
