"""The row-wise mathematics of a Gaussian posterior. Each function has a backward pass of its own,
because a chain of element-wise operations passes through memory several times as often, and a plain
reference, which is what a compiled graph takes: the compiler fuses such a chain itself.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
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
    r"""Computes the sample, the mean and the log standard deviation of Gaussian posteriors,

    .. math::
        \mu = \mathbf{x} + r (\mathbf{x} W_\mu + b_\mu), \quad \log \sigma = \mathrm{clamp}
        (\mathbf{x} W_\sigma + b_\sigma + s), \quad \mathbf{z} = \mu + \sigma \odot \epsilon .

    Args:
        x (torch.Tensor): The rows, ``[N, C_in]``.
        weight (torch.Tensor): Both linear maps, ``[2 C, C_in]``, that of the mean first.
        bias (torch.Tensor): Their biases, ``[2 C]``.
        log_scale (torch.Tensor): The offset :math:`s`, a scalar without a gradient.
        noise (torch.Tensor, optional): The noise :math:`\epsilon`, ``[N, C]``; without it the
            sample is the mean.
        residual (float, optional): The factor :math:`r`. Without it the mean is the linear map
            alone.

    Returns:
        tuple: The sample, the mean and the log standard deviation, ``[N, C]`` each, and, where it
        comes along with a sample for less than :func:`kl_of_rows` takes, the KL divergence in nats
        ``[N]``, else :obj:`None`.
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
    r"""The reference of :func:`encode_rows`."""
    mu, logstd = F.linear(x, weight, bias).chunk(2, dim=-1)
    mu = mu if residual is None else x + residual * mu
    logstd = (logstd + log_scale.to(logstd.dtype)).clamp(MIN_LOGSTD, MAX_LOGSTD)
    return (mu if noise is None else mu + logstd.exp() * noise), mu, logstd


def kl_of_rows(mu: Tensor, logstd: Tensor) -> Tensor:
    r"""Computes :math:`\mathrm{KL}(\mathcal{N}(\mu, \sigma^2) \,\|\, \mathcal{N}(0, I))` in nats,
    summed over dimensions, ``[N, C]`` and ``[N, C]`` to ``[N]``.
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
    # Of the variance over one. `expm1` takes twice as long as `exp`, and is as exact where no
    # digits cancel. The standard deviation, if it is known, is overwritten.
    if not _is_below(logstd, -0.5):
        return (2 * logstd).expm1_()
    variance = (2 * logstd).exp_() if std is None else std.square_()
    return variance.sub_(1)


def _kl(mu: Tensor, logstd: Tensor, excess: Tensor) -> Tensor:
    return torch.addcmul(excess, mu, mu).sub_(logstd, alpha=2).sum(dim=-1).mul_(0.5)


def _is_below(x: Tensor, bound: float) -> bool:
    # A GPU would have to be waited for.
    return x.device.type == 'cpu' and x.numel() > 0 and float(x.max()) < bound


def _outside(logstd: Tensor) -> Tensor | None:
    # What the clamp will change; a value on a bound it leaves. Rarely is there any, and to look
    # costs less than to mask; a GPU would have to be waited for.
    if logstd.device.type == 'cpu' and logstd.numel() > 0:
        low, high = logstd.aminmax()
        if MIN_LOGSTD <= float(low) and float(high) <= MAX_LOGSTD:
            return None
    return (logstd < MIN_LOGSTD) | (logstd > MAX_LOGSTD)
