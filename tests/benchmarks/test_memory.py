import sys

import pytest
import torch

from benchmarks.memory import in_process, peak_of, peak_rss

NAME = 'benchmarks_memory_targets'


@pytest.fixture
def targets(tmp_path, monkeypatch):
    """A module that a new process can import."""
    (tmp_path / f'{NAME}.py').write_text(
        'import os, torch\n'
        'from benchmarks.memory import peak_of\n'
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
    with pytest.raises(RuntimeError, match='exit code 3'):
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
