import sys
from pathlib import Path

import pytest

from benchmarks.part import Part

# So that tests can import what they share.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def make_part(tmp_path):
    """A part that runs its smallest sizes once and writes to a folder of its own."""

    def make(name='toy', **kwargs):
        return Part(name, out=tmp_path, smallest=True, **kwargs)

    return make
