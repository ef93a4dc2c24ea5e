"""What of CUDA graphs needs no GPU: which calls are captured, and what the targets make of them."""

from benchmarks import targets
from benchmarks.captured import CAPTURED, Captured, with_captured


def test_which_calls_are_captured():
    calls = {'a': lambda: 1, 'b': lambda: 2}
    found = with_captured(calls, 'b', 'not there')
    assert list(found) == ['a', 'b', f'b{CAPTURED}']
    assert isinstance(found[f'b{CAPTURED}'], Captured) and found[f'b{CAPTURED}'].fn is calls['b']
    assert with_captured(calls) == calls


def result(task, times, **case):
    """The rows of one case, by method: the role and the time."""
    case = {'task': task, **case}
    rows = [
        {'case': case, 'method': method, 'role': role, 'time': {'median': seconds}}
        for method, (role, seconds) in times.items()
    ]
    return {'device': 'cuda', 'rows': rows}


def test_captured_calls_are_compared_with_captured_ones():
    times = {
        'gathered rows': ('baseline', 8.0), 'pid_loss': ('ours', 4.0),
        f'gathered rows{CAPTURED}': ('rival', 6.0), f'pid_loss{CAPTURED}': ('ours', 1.0),
    }  # fmt: skip
    rows = targets._pid_rows(result('all edges, forward+backward', times))
    speeds = {what: (text, met) for what, _, text, met in rows if 'gathers' in what}
    assert speeds == {
        'PID loss over all edges, against gathers': ('2.00 to 2.00 x, 0 of 1 rows', False),
        'PID loss over all edges, as CUDA graphs, against gathers': (
            '6.00 to 6.00 x, 1 of 1 rows', True,
        ),
    }  # fmt: skip


def test_propagation_is_judged_by_the_fastest_other():
    times = {
        'torch COO sparse.mm': ('baseline', 9.0), 'EdgeIndex.matmul': ('rival', 2.0),
        'propagate_mean': ('ours', 3.0), 'propagate_mean, square': ('ours', 1.0),
        f'propagate_mean{CAPTURED}': ('ours', 0.5),
    }  # fmt: skip
    case = {'dtype': 'float32', 'channels': 64}
    launched, captured = targets._peer_rows(result('forward+backward', times, **case))
    assert launched[2:] == ('1.50 to 1.50', False)
    assert captured[2:] == (targets.NOT_MEASURED, None)


def test_steps_are_compared_as_cuda_graphs():
    times = {
        targets.COMMON_NAME: ('baseline', 6.0), targets.OURS: ('ours', 8.0),
        targets.OURS_COMPILED: ('ours', 2.0),
    }  # fmt: skip
    (row,) = targets._step_rows(result('step', times, model='vbpr'))
    assert row[2:] == ('3.0 x (launched one by one 0.8 x)', True)
