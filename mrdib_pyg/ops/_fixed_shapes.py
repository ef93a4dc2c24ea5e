"""The one flag of fixed shapes, and the question whether values may be looked at."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_DEPTH = 0


@contextlib.contextmanager
def fixed_shapes() -> Iterator[None]:
    r"""Makes operators and models compute in shapes that depend on no values, without waiting for a
    device, as the capture of a CUDA graph needs. It holds for all threads, backward passes
    included.
    """
    global _DEPTH
    _DEPTH += 1
    try:
        yield
    finally:
        _DEPTH -= 1


def has_fixed_shapes() -> bool:
    r"""Whether shapes must not depend on values: in :func:`fixed_shapes`, or compiled."""
    return _DEPTH > 0 or torch.compiler.is_compiling()


def can_read(x: Tensor) -> bool:
    r"""Whether code may branch on values or hand them to NumPy: on CPU and not compiled."""
    return x.device.type == 'cpu' and not torch.compiler.is_compiling()
