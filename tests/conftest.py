"""Fixtures shared by all tests."""

import os
import random
import signal
import sys
from pathlib import Path

import pytest

# Matrices are small here: with more threads any other process on the machine makes them wait for
# each other, which slows the tests many times over. Processes that tests start inherit it.
os.environ.setdefault('OMP_NUM_THREADS', '1')

# A shell that is no terminal's ignores interrupts in what it starts in the background; tests send
# them to their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# ogb asks a package index for newer releases of itself when `outdated` can be imported.
sys.modules['outdated'] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same random state, in whatever order they run."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def data_root() -> Path:
    """The folder of the real data sets; tests that need it are skipped where it is absent."""
    path = (ROOT / os.environ.get('MRDIB_DATA', '../shared/data')).resolve()
    if not path.is_dir():
        pytest.skip(f'no data sets in {path}; set MRDIB_DATA to the folder that holds them')
    return path
