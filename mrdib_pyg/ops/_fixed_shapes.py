import contextlib
from collections.abc import Iterator

import torch

_DEPTH = 0


@contextlib.contextmanager
def fixed_shapes() -> Iterator[None]:
    r"""Makes operators choose, while it is entered, a way whose shapes do not depend on the values
    of tensors, and that never waits for a device: for the capture of a CUDA graph. It holds for all
    threads, as that of a backward pass.
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
