import math

import pytest
import torch

from benchmarks.timer import CpuClock, describe, make_clock, summarize, time_rivals


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
