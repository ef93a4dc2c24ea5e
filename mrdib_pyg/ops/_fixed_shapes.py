"""The one flag of fixed shapes, and the question whether values may be looked at."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_DEPTH = 0


@contextlib.contextmanager
def fixed_shapes() -> Iterator[None]:
    r"""Makes operators and models compute, while it is entered, in shapes that do not depend on the
    values of tensors, and without waiting for a device, as the capture of a CUDA graph needs. It
    holds for all threads, that of a backward pass among them.
    """
    global _DEPTH
    _DEPTH += 1
    try:
        yield
    finally:
        _DEPTH -= 1


def has_fixed_shapes() -> bool:
    r"""Whether shapes must not depend on the values of tensors: within :func:`fixed_shapes`, and in
    a compiled graph.
    """
    return _DEPTH > 0 or torch.compiler.is_compiling()


def can_read(x: Tensor) -> bool:
    r"""Whether code may branch on the values of a tensor, or hand it to NumPy: it lies on the CPU,
    where nothing has to be waited for, and no graph is compiled.
    """
    return x.device.type == 'cpu' and not torch.compiler.is_compiling()
