import math
import sys

import pytest
import torch

from benchmarks.schema import CAPTURED
from benchmarks.timer import (
    Captured,
    CpuClock,
    copy_bandwidth,
    describe,
    in_process,
    make_clock,
    measure_once,
    peak_of,
    peak_rss,
    summarize,
    time_rivals,
    with_captured,
)


class FakeClock:
    """A clock in which every call takes what its rival says."""

    name = 'cpu'

    def __init__(self):
        self.order = []

    def __call__(self, fn):
        name, seconds = fn()
        self.order.append(name)
        return seconds, 2 * seconds


def rival(name, *seconds):
    times = list(seconds)
    return lambda: (name, times.pop(0) if len(times) > 1 else times[0])


def test_median_and_quartiles():
    timing = summarize([(t, 10 * t) for t in (4.0, 1.0, 3.0, 2.0, 5.0)], 'cpu')
    assert timing == ('cpu', 3.0, 2.0, 4.0, 1.0, 30.0, 5)
    assert summarize([(2.0, 3.0)], 'cuda') == ('cuda', 2.0, 2.0, 2.0, 2.0, 3.0, 1)


def test_warm_up_is_not_counted():
    timings, errors = time_rivals(
        {'a': rival('a', 100.0, 100.0, 1.0)}, FakeClock(), warmup=2, min_runs=3, min_seconds=0
    )
    assert (timings['a'].median, timings['a'].runs, errors) == (1.0, 3, {})


def test_rivals_take_turns_in_changing_order():
    clock = FakeClock()
    rivals = {name: rival(name, 1.0) for name in 'abc'}
    time_rivals(rivals, clock, warmup=0, min_runs=20, min_seconds=0)
    rounds = [clock.order[i : i + 3] for i in range(0, 60, 3)]
    assert all(sorted(r) == ['a', 'b', 'c'] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 2


def test_rounds_go_on_until_the_fastest_has_run_long_enough():
    rivals = {'fast': rival('fast', 0.1), 'slow': rival('slow', 1.0)}
    timings, _ = time_rivals(rivals, FakeClock(), min_runs=1, min_seconds=0.95)
    assert timings['fast'].runs == timings['slow'].runs == 10


def test_the_number_of_rounds_is_bounded():
    rivals = {'a': rival('a', 0.0)}
    timings, _ = time_rivals(rivals, FakeClock(), max_runs=7, min_seconds=math.inf)
    assert timings['a'].runs == 7
    timings, _ = time_rivals(rivals, FakeClock(), max_seconds=0.0, min_runs=5)
    assert timings['a'].runs == 1  # one always runs


def test_times_are_divided_by_repeats():
    timings, _ = time_rivals({'a': rival('a', 6.0)}, FakeClock(), min_runs=1, repeats=3)
    assert (timings['a'].median, timings['a'].wall) == (2.0, 4.0)


def test_a_rival_that_fails_does_not_take_the_others_with_it():
    def broken():
        raise RuntimeError('no\nsuch kernel')

    def breaks_later(state=[]):  # noqa: B006
        state.append(0)
        if len(state) > 2:
            raise ValueError('late')
        return 'late', 1.0

    rivals = {'broken': broken, 'late': breaks_later, 'good': rival('good', 1.0)}
    timings, errors = time_rivals(rivals, FakeClock(), min_runs=4, min_seconds=0)
    assert errors == {'broken': 'RuntimeError: no', 'late': 'ValueError: late'}
    assert list(timings) == ['good'] and timings['good'].runs == 4


def test_no_rival_at_all():
    assert time_rivals({}, FakeClock()) == ({}, {})


def test_cpu_clock_takes_differences():
    cpu, wall = iter([1.0, 1.5]), iter([10.0, 12.0])
    calls = []
    clock = CpuClock(lambda: next(cpu), lambda: next(wall))
    assert clock(lambda: calls.append(0)) == (0.5, 2.0)
    assert calls == [0]


def test_clock_of_the_cpu_measures_its_work():
    clock = make_clock('cpu')
    seconds, wall = clock(lambda: torch.randn(100, 100) @ torch.randn(100, 100))
    assert clock.name == 'cpu' and seconds > 0 and wall > 0


def test_errors_are_described_in_one_short_line():
    assert describe(ValueError('a\nb')) == 'ValueError: a'
    assert describe(KeyError()) == 'KeyError: '
    assert len(describe(ValueError('x' * 1000))) == 300


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_clock_of_cuda():
    clock = make_clock('cuda')
    x = torch.randn(1000, 1000, device='cuda')
    seconds, wall = clock(lambda: x @ x)
    assert clock.name == 'cuda' and 0 < seconds and 0 < wall


def test_which_calls_are_captured():
    calls = {'a': lambda: 1, 'b': lambda: 2}
    found = with_captured(calls, 'b', 'not there')
    assert list(found) == ['a', 'b', f'b{CAPTURED}']
    assert isinstance(found[f'b{CAPTURED}'], Captured) and found[f'b{CAPTURED}'].fn is calls['b']
    assert with_captured(calls) == calls


# -- memory ----------------------------------------------------------------------------------------

NAME = 'benchmarks_memory_targets'


@pytest.fixture
def targets(tmp_path, monkeypatch):
    """A module that a new process can import."""
    (tmp_path / f'{NAME}.py').write_text(
        'import os, torch\n'
        'from benchmarks.timer import peak_of\n'
        'def double(x): return 2 * x, torch.get_num_threads()\n'
        'def fail(): raise ValueError("bad input")\n'
        'def die(): os._exit(3)\n'
        'def allocate(n): return peak_of(lambda: torch.ones(n // 8, dtype=torch.float64).sum())\n'
    )
    monkeypatch.syspath_prepend(tmp_path)  # which new processes inherit
    return NAME


def test_calls_in_a_process_of_their_own(targets):
    assert in_process(f'{targets}:double', 21) == (42, 1)
    with pytest.raises(RuntimeError, match='ValueError: bad input'):
        in_process(f'{targets}:fail')
    with pytest.raises(RuntimeError, match='3'):
        in_process(f'{targets}:die')


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_peak_is_that_of_the_process_and_not_of_its_parent(targets):
    ballast = torch.ones(2**26)  # 256 MiB, which the new process has not
    out = in_process(f'{targets}:allocate', 2**27)
    extra = out['peak_bytes'] - out['before_bytes']
    assert 0.9 * 2**27 < extra < 1.5 * 2**27
    assert out['peak_bytes'] < peak_rss() + 2**20
    assert ballast.numel() == 2**26


def test_peak_of_a_call():
    out = peak_of(lambda: torch.ones(2**23, dtype=torch.float64).sum())
    assert out['peak_bytes'] >= out['before_bytes'] > 0
    assert out['how'] == 'peak RSS of a process'


def test_one_run_with_its_memory():
    out = measure_once(lambda: torch.ones(2**20).sum())
    assert out['time'].runs == 1 and out['time'].median > 0
    assert out['memory']['peak_bytes'] >= out['memory']['before_bytes'] > 0


def test_bandwidth_is_positive():
    assert copy_bandwidth('cpu', num_bytes=2**16, runs=2) > 0
