import torch
import torch.nn.functional as F
from torch import Tensor

# Norms that the squares and the epsilon of `F.normalize` can deal with, in single precision.
_SMALLEST, _LARGEST = 1e-9, 1e15


def normalize_rows(x: Tensor) -> Tensor:
    r"""Scales each row to unit Euclidean norm, whatever its scale; a row of zeros stays.

    As :func:`torch.nn.functional.normalize`, which leaves very small rows small and takes the norm
    of very large ones for infinite.
    """
    if x.numel() == 0:
        return x
    largest = torch.linalg.vector_norm(x, float('inf'), dim=-1, keepdim=True)  # makes no copy
    is_extreme = (largest > _LARGEST) | ((largest < _SMALLEST) & (largest > 0))
    if bool(is_extreme.any()):
        x = torch.where(is_extreme, x / largest, x)
    return F.normalize(x, dim=-1)
