r"""How things are measured: time, peak memory and the bandwidth of a copy, on which machine.

Rivals run in rounds, each once a round, in an order drawn anew: whatever disturbs the machine meets
all of them, and none always follows the same other. On CPU the figure is the process time, which
another process on the machine cannot stretch; on CUDA it is the time between two events, after the
L2 cache has been flushed. Memory is the peak of a process of its own on CPU, and that of the
allocator on CUDA.
"""

import ctypes
import importlib
import math
import multiprocessing
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, NamedTuple

import torch

from benchmarks.schema import CAPTURED
from mrdib_pyg.training._run import provenance

#: Packages that a rival may come from; their versions are noted where they are installed.
OPTIONAL = ('triton', 'torch-sparse', 'torch-scatter', 'cornac', 'faiss-cpu', 'fastapi', 'uvicorn')

Call = Callable[[], Any]


class Timing(NamedTuple):
    r"""The times of one rival, in seconds.

    Args:
        clock (str): ``'cpu'`` (process time) or ``'cuda'`` (events).
        median, q1, q3, min (float): Of that clock.
        wall (float): The median of the wall time.
        runs (int): How many runs were timed.
    """

    clock: str
    median: float
    q1: float
    q3: float
    min: float
    wall: float
    runs: int


class CpuClock:
    r"""Times a call by the CPU time of the process and by the wall clock."""

    name = 'cpu'

    def __init__(
        self,
        cpu: Callable[[], float] = time.process_time,
        wall: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.cpu, self.wall = cpu, wall

    def __call__(self, fn: Callable[[], Any]) -> tuple[float, float]:
        wall, cpu = self.wall(), self.cpu()
        fn()
        return self.cpu() - cpu, self.wall() - wall


class CudaClock:
    r"""Times a call by two CUDA events, after a flush of the L2 cache that it does not count."""

    name = 'cuda'

    def __init__(self, device: torch.device | str = 'cuda') -> None:
        l2 = getattr(torch.cuda.get_device_properties(device), 'L2_cache_size', 0)
        self.flush = torch.empty(max(2 * l2, 2**27), dtype=torch.int8, device=device)

    def __call__(self, fn: Callable[[], Any]) -> tuple[float, float]:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        self.flush.zero_()  # still runs while the first kernel is launched, which hides the launch
        start.record()
        wall = time.perf_counter()
        fn()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3, time.perf_counter() - wall


def make_clock(device: str) -> CpuClock | CudaClock:
    return CudaClock(device) if torch.device(device).type == 'cuda' else CpuClock()


def time_rivals(
    rivals: Mapping[str, Call],
    clock: Callable[[Callable[[], Any]], tuple[float, float]],
    *,
    warmup: int = 1,
    min_runs: int = 5,
    max_runs: int = 200,
    min_seconds: float = 0.5,
    max_seconds: float = math.inf,
    repeats: int = 1,
    seed: int = 0,
) -> tuple[dict[str, Timing], dict[str, str]]:
    r"""Times calls against each other.

    Args:
        rivals (Dict[str, Callable]): What to time, by name.
        clock (Callable): Returns the seconds of a call, by its own clock and by the wall.
        warmup (int, optional): Calls of each that are not counted. (default: :obj:`1`)
        min_runs, max_runs (int, optional): The least and the largest number of rounds.
        min_seconds (float, optional): Rounds go on until the fastest rival has run for this long.
        max_seconds (float, optional): No round starts after this many seconds of wall time; one
            always runs.
        repeats (int, optional): How often a call does its work; times are divided by it.
        seed (int, optional): Seeds the order within the rounds.

    Returns:
        The timings, and the errors of rivals that failed: these are left out from then on.
    """
    errors: dict[str, str] = {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}

    def attempt(name: str, count: bool) -> None:
        try:
            seconds, wall = clock(rivals[name])
        except Exception as e:  # one that fails must not take the others with it
            errors[name] = describe(e)
            return
        if count:
            times[name].append((seconds / repeats, wall / repeats))

    begin = time.monotonic()
    for _ in range(warmup):
        for name in rivals:
            if name not in errors:
                attempt(name, count=False)
    order = random.Random(seed)
    for i in range(max_runs):
        left = [name for name in rivals if name not in errors]
        if len(left) == 0:
            break
        if i > 0 and time.monotonic() - begin > max_seconds:
            break
        if i >= min_runs and min(sum(t for t, _ in times[n]) for n in left) >= min_seconds:
            break
        order.shuffle(left)
        for name in left:
            attempt(name, count=True)
    kind = getattr(clock, 'name', 'cpu')
    done = {n: summarize(t, kind) for n, t in times.items() if n not in errors and len(t) > 0}
    return done, errors


def summarize(times: list[tuple[float, float]], clock: str) -> Timing:
    seconds = [t for t, _ in times]
    if len(seconds) == 1:
        q1 = median = q3 = seconds[0]
    else:
        q1, median, q3 = statistics.quantiles(seconds, n=4, method='inclusive')
    wall = statistics.median(w for _, w in times)
    return Timing(clock, median, q1, q3, min(seconds), wall, len(seconds))


def describe(error: BaseException) -> str:
    r"""An error in one short line, for a JSON file."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0] if lines else ""}'[:300]


class Captured:
    r"""A call that is captured when it is first made, and replayed from then on.

    Args:
        fn (Callable): What to capture; it must not wait for the device.
    """

    def __init__(self, fn: Call) -> None:
        self.fn = fn
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.graph is None:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.fn()  # what is made at first use cannot be captured
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                self.fn()
            self.graph = graph
        self.graph.replay()


def with_captured(rivals: Mapping[str, Call], *names: str) -> dict[str, Any]:
    r"""Returns the rivals, and those of the names that are among them once more as CUDA graphs."""
    captured = {f'{n}{CAPTURED}': Captured(rivals[n]) for n in names if n in rivals}
    return {**rivals, **captured}


# -- memory ----------------------------------------------------------------------------------------


def peak_rss() -> int:
    r"""Returns the largest resident size of this process in bytes.

    ``ru_maxrss`` of a process that a larger one has started begins at the size of that one. Where
    there is a ``/proc``, its high-water mark is read, which does not.
    """
    value = _proc('self/status', 'VmHWM')
    if value is not None:
        return value
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_rss() -> int:
    r"""Sets the mark of :func:`peak_rss` to the present size, where the system allows it, and
    returns the mark: what comes on top of it from now on belongs to what is measured.
    """
    try:
        with open('/proc/self/clear_refs', 'w') as f:
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
    value = _proc('meminfo', 'MemAvailable')
    return float('inf') if value is None else value


def _proc(file: str, name: str) -> int | None:
    try:
        with open(f'/proc/{file}') as f:
            return next((1024 * int(x.split()[1]) for x in f if x.startswith(f'{name}:')), None)
    except OSError:
        return None


def peak_of(fn: Call, device: str = 'cpu') -> dict[str, Any]:
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


def measure_once(fn: Call) -> dict[str, Any]:
    r"""Calls :obj:`fn` and returns its ``time``, of one run on CPU, and its ``memory``."""
    clock = CpuClock()
    times: list[tuple[float, float]] = []
    memory = peak_of(lambda: times.append(clock(fn)))
    return {'time': summarize(times, clock.name), 'memory': memory}


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


# -- the machine -----------------------------------------------------------------------------------


def copy_bandwidth(device: str, num_bytes: int = 2**28, runs: int = 7) -> float:
    r"""Returns the bytes per second, read and written, of a copy from one large tensor to another,
    as the median of some runs.
    """
    source = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    times, errors = time_rivals(
        {'copy': lambda: target.copy_(source)},
        make_clock(device),
        warmup=2,
        min_runs=runs,
        max_runs=runs,
    )
    if errors:
        raise RuntimeError(errors['copy'])
    return 2 * num_bytes / times['copy'].median


def describe_machine(device: str) -> dict[str, Any]:
    r"""Returns ``versions`` and ``machine``, as those of a training run, and the accelerator."""
    out = provenance()
    for name in OPTIONAL:
        try:
            out['versions'][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    out['machine']['architecture'] = platform.machine()
    out['machine']['accelerator'] = None
    if torch.device(device).type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        out['machine']['accelerator'] = {
            'name': properties.name,
            'compute_capability': f'{properties.major}.{properties.minor}',
            'memory_bytes': properties.total_memory,
            'multiprocessors': properties.multi_processor_count,
            'l2_cache_bytes': getattr(properties, 'L2_cache_size', None),
            'cuda': torch.version.cuda,
            'driver': _driver(),
        }
    return out


def _driver() -> str | None:
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return text.stdout.strip().splitlines()[0] if text.stdout.strip() else None
