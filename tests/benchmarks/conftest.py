import pytest

from benchmarks.run import Part


@pytest.fixture
def make_part(tmp_path):
    """A part that runs its smallest sizes once and writes to a folder of its own."""

    def make(name='toy', **kwargs):
        return Part(name, out=tmp_path, smallest=True, **kwargs)

    return make
