import math

import torch
from torch import Tensor

from mrdib_pyg.pid._decompose import BASES, PID, check_base

# Relative to the variance: asymmetry and negative eigenvalues due to rounding, directions that
# count as constant, and the share of the target that must remain for finite information.
_ROUNDING, _CONSTANT, _DETERMINED = 1e-6, 1e-12, 1e-12


def gaussian_pid(covariance: Tensor, sizes: tuple[int, int] = (1, 1), base: str = 'nats') -> PID:
    r"""Decomposes the information of two jointly Gaussian sources about a scalar Gaussian target in
    closed form (`"Exploration of synergistic and redundant information sharing in
    static and dynamical Gaussian systems" <https://arxiv.org/abs/1411.2832>`_),

    .. math::
        R = \min_m I(X_m; Y), \qquad I(X; Y) = - \frac{1}{2} \log \left( 1 - \Sigma_{yx}
        \Sigma_{xx}^{-1} \Sigma_{xy} / \Sigma_{yy} \right) .

    For a scalar Gaussian target, every measure that depends only on the joint distributions of each
    source and the target agrees with it, such as BROJA. So the weaker source has no unique
    information, and two symmetric, independent, additive sources appear as redundancy and synergy,
    see :func:`decompose`.

    Args:
        covariance (torch.Tensor): The covariance of the first source, the second source and the
            target, in this order. Correlations give the same result. A constant coordinate has no
            information.
        sizes (Tuple[int, int], optional): The number of coordinates of the sources.
            (default: :obj:`(1, 1)`)
        base (str, optional): The unit of the result, :obj:`"nats"` or :obj:`"bits"`.
            (default: :obj:`"nats"`)

    Shapes:
        - **input:** covariance :math:`(d_1 + d_2 + 1, d_1 + d_2 + 1)`

    Returns:
        PID: The atoms, and their sum :math:`I(X_1, X_2; Y)`.

    Raises:
        TypeError: If the covariance is not a tensor of real numbers.
        ValueError: If the shape does not fit :obj:`sizes`, the covariance is not finite, symmetric
            and positive semi-definite, the target is constant, the sources determine it (their
            information is infinite), or the base is unknown.
    """
    check_base(base)
    corr = _correlation(covariance, sizes)
    num_first, num_sources = sizes[0], sizes[0] + sizes[1]
    i1 = _information(corr, slice(0, num_first))
    i2 = _information(corr, slice(num_first, num_sources))
    total = max(_information(corr, slice(0, num_sources)), i1, i2)
    redundant = min(i1, i2)
    unique1, unique2, synergistic = i1 - redundant, i2 - redundant, total - max(i1, i2)
    unit = BASES[base]
    return PID(redundant / unit, (unique1 / unit, unique2 / unit), synergistic / unit, total / unit)


def _correlation(covariance: Tensor, sizes: tuple[int, int]) -> Tensor:
    if not isinstance(covariance, Tensor) or covariance.is_complex():
        raise TypeError(
            f"'covariance' must be a tensor of real numbers (got {type(covariance).__name__})"
        )
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"'sizes' must be two positive numbers of coordinates (got {sizes})")
    size = sum(sizes) + 1
    if list(covariance.shape) != [size, size]:
        raise ValueError(
            f"'covariance' must have the shape {[size, size]}: the coordinates of both sources, "
            f"'sizes' {sizes}, and the target (got {list(covariance.shape)})"
        )
    cov = covariance.detach().to('cpu', torch.float64)
    if not bool(cov.isfinite().all()):
        raise ValueError("'covariance' must be finite (got NaN or infinity)")
    var = cov.diagonal()
    if bool((var < 0).any()):
        raise ValueError(f"'covariance' must have variances >= 0 (got {float(var.min()):g})")
    if var[-1] == 0:
        raise ValueError("'covariance' must have a target that varies (got the last variance 0)")
    scale = torch.where(var > 0, var, torch.inf).rsqrt()
    corr = cov * scale * scale[:, None]
    off = float((corr - corr.t()).abs().max())
    if off > _ROUNDING or bool((cov[var == 0] != 0).any()):
        raise ValueError(
            f"'covariance' must be symmetric, with zeros in the rows of constant coordinates (got "
            f'correlations that differ by {off:g})'
        )
    corr = (corr + corr.t()) / 2
    smallest = float(torch.linalg.eigvalsh(corr)[0])
    if smallest < -_ROUNDING:
        raise ValueError(
            f"'covariance' must be positive semi-definite (got correlations of the eigenvalue "
            f'{smallest:g})'
        )
    return corr


def _information(corr: Tensor, source: slice) -> float:
    inverse = torch.linalg.pinv(corr[source, source], rtol=_CONSTANT, hermitian=True)
    explained = float(corr[-1, source] @ inverse @ corr[source, -1])
    if explained > 1 - _DETERMINED:
        raise ValueError(
            "'covariance' must leave some variance of the target unexplained, else the information "
            'is infinite; add the variance of its noise to the last entry'
        )
    return -0.5 * math.log1p(-max(explained, 0.0))
