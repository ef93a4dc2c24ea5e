r"""Peak memory, measured: of a process of its own on CPU, of the allocator on CUDA."""

import ctypes
import importlib
import multiprocessing
import resource
import sys
from collections.abc import Callable
from typing import Any

import torch

_PROC = '/proc/self/'


def peak_rss() -> int:
    r"""Returns the largest resident size of this process in bytes.

    ``ru_maxrss`` of a process that a larger one has started begins at the size of that one. Where
    there is a ``/proc``, its high-water mark is read, which does not.
    """
    value = _status('VmHWM')
    if value is not None:
        return value
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_rss() -> int:
    r"""Sets the mark of :func:`peak_rss` to the present size, where the system allows it, and
    returns the mark: what comes on top of it from now on belongs to what is measured.
    """
    try:
        with open(f'{_PROC}clear_refs', 'w') as f:
            f.write('5')
    except OSError:
        pass
    return peak_rss()


def return_freed_memory() -> None:
    r"""Lets the allocator give every larger block back as soon as it is freed, for the rest of this
    process: otherwise glibc keeps freed blocks of up to 32 MiB, and the peak of a small case is
    that of its fragments. Calls become slower: not for what is timed.
    """
    if sys.platform.startswith('linux'):
        mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
        if mallopt is not None:  # glibc
            mallopt(-3, 64 * 1024)  # M_MMAP_THRESHOLD, which no longer adapts itself
            mallopt(-1, 0)  # M_TRIM_THRESHOLD


def available_memory() -> float:
    r"""Returns the bytes that a new process may take, infinity where the system does not say."""
    try:
        with open('/proc/meminfo') as f:
            for line in f:
                if line.startswith('MemAvailable:'):
                    return float(line.split()[1]) * 1024
    except OSError:
        pass
    return float('inf')


def _status(name: str) -> int | None:
    try:
        with open(f'{_PROC}status') as f:
            for line in f:
                if line.startswith(f'{name}:'):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def peak_of(fn: Callable[[], Any], device: str = 'cpu') -> dict[str, Any]:
    r"""Calls :obj:`fn` and returns the peak memory and what there was before, in bytes.

    On CPU the difference is meaningful in a process in which nothing larger has been freed: see
    :func:`in_process`.
    """
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fn()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        return {'peak_bytes': peak, 'before_bytes': before, 'how': 'max_memory_allocated'}
    before = reset_peak_rss()
    fn()
    return {'peak_bytes': peak_rss(), 'before_bytes': before, 'how': 'peak RSS of a process'}


def in_process(target: str, *args: Any, timeout: float = 3600.0) -> Any:
    r"""Calls ``'module:function'`` in a process of its own, on one thread, and returns what it
    returns.

    Raises:
        RuntimeError: If the process fails, dies (for want of memory, say) or takes too long.
    """
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, target, args))
    process.start()
    sender.close()
    try:
        if not receiver.poll(timeout):
            raise RuntimeError(f'{target} took more than {timeout:.0f} s')
        ok, value = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f'{target} died with the exit code {process.exitcode}') from None
    finally:
        process.join(5)
        process.kill()  # one that has ended already is left alone
        process.join()
        receiver.close()
    if not ok:
        raise RuntimeError(value)
    return value


def _call(sender: Any, target: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    module, _, name = target.partition(':')
    try:
        out = (True, getattr(importlib.import_module(module), name)(*args))
    except Exception as e:
        out = (False, f'{type(e).__name__}: {e}')
    sender.send(out)
