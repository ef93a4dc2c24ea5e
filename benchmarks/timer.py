r"""The one timer of all benchmarks: warm-up, rivals in turn, medians and quartiles.

Rivals run in rounds, each once a round, in an order drawn anew: whatever disturbs the machine meets
all of them, and none always follows the same other. On CPU the figure is the process time, which
another process on the machine cannot stretch; on CUDA it is the time between two events, after the
L2 cache has been flushed.
"""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch


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
    rivals: Mapping[str, Callable[[], Any]],
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
