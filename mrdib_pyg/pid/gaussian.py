import math

import torch
from torch import Tensor

from mrdib_pyg.pid.discrete import BASES
from mrdib_pyg.pid.pid import PID


def gaussian_pid(
    covariance: Tensor, sizes: tuple[int, int] = (1, 1), base: str = 'nats'
) -> PID:
    r"""Decomposes the information that two Gaussian sources give about a scalar Gaussian target."""
    d1, d2 = sizes
    c = covariance.detach().to('cpu', torch.float64)
    scale = c.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    c = c / scale / scale[:, None]

    def info(idx: Tensor) -> float:
        r = c[idx, -1]
        r2 = float(r @ torch.linalg.pinv(c[idx][:, idx], hermitian=True) @ r)
        return -0.5 * math.log1p(-r2)

    all_ = torch.arange(d1 + d2)
    i1, i2, total = info(all_[:d1]), info(all_[d1:]), info(all_)
    total = max(total, i1, i2)
    r = min(i1, i2)
    unit = BASES[base]
    return PID(r / unit, ((i1 - r) / unit, (i2 - r) / unit),
               max(total - i1 - i2 + r, 0.) / unit, total / unit)
