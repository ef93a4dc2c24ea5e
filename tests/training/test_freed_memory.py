import subprocess
import sys

import pytest

from mrdib_pyg.training import _freed_memory as freed_memory
from mrdib_pyg.training._freed_memory import keep_freed_memory

FAULTS = """
import resource
import sys
import torch
from mrdib_pyg.training._freed_memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    tensors = [torch.ones(2**20) for _ in range(75)]  # 300 MiB in blocks of 4 MiB
    del tensors

is_set = keep_freed_memory() if sys.argv[1] == 'keep' else False
for _ in range(4):
    work()
before = faults()
for _ in range(4):
    work()
print(is_set, faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='mallopt is of glibc')
def test_freed_blocks_are_not_mapped_anew():
    def measure(how):
        command = [sys.executable, '-c', FAULTS, how]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return out[0] == 'True', int(out[1])

    is_set, kept = measure('keep')
    if not is_set:
        pytest.skip('this C library has no mallopt')
    _, default = measure('default')
    assert kept < 1_000  # pages of 4 KiB; all of it would be 307,200
    # Without it none are mapped anew only if something happens to lie behind them in the heap.
    assert kept < default or default == 0


def test_elsewhere_nothing_is_set(monkeypatch):
    monkeypatch.setattr(freed_memory.sys, 'platform', 'darwin')
    assert keep_freed_memory() is False


def test_a_library_without_it(monkeypatch):
    monkeypatch.setattr(freed_memory.sys, 'platform', 'linux')
    monkeypatch.setattr(freed_memory.ctypes, 'CDLL', lambda name: object())
    assert keep_freed_memory() is False
