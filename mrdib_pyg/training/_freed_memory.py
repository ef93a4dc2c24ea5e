import ctypes
import sys

# Of <malloc.h>, and the largest values that they take.
_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD = -3, 32 * 2**20

_M_TRIM_THRESHOLD, _MAX_INT = -1, 2**31 - 1


def keep_freed_memory() -> bool:
    r"""Makes the C library keep freed blocks of up to 32 MiB for what is allocated next, rather
    than hand them back to the operating system: a training step on a CPU frees and allocates the
    same tensors over and over, and would have their pages mapped anew each time.

    It is a setting of the whole process, whose resident memory then stays at its peak: for programs
    that mainly train, so that ``mrdib train`` and ``mrdib experiment`` call it and
    :func:`~mrdib_pyg.training.fit` does not. Results do not depend on it.

    Returns:
        bool: Whether it was set; only glibc, the C library of most Linux systems, has it.
    """
    if not sys.platform.startswith('linux'):
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _MAX_INT)
    )
