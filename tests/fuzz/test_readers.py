"""Spoiled files either load, or are refused with the documented error; none hangs, fills the memory
or runs code.

``python tests/fuzz/run.py --examples 5000`` tries thousands and prints the counts.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from readers import EDITS, NEEDS, READERS, attempt, spoil  # noqa: E402

from mrdib_pyg.datasets._read import read_array  # noqa: E402
from mrdib_pyg.training import load_checkpoint, save_checkpoint  # noqa: E402

EXAMPLES = int(os.environ.get('MRDIB_FUZZ_EXAMPLES', '60'))


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='a hanging reader is stopped by SIGALRM')
@pytest.mark.parametrize('name', READERS)
def test_reader(tmp_path, name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    reader = READERS[name]
    reader.make(tmp_path)
    content = (tmp_path / reader.name).read_bytes()
    assert attempt(reader, tmp_path, content) == 'loaded'
    outcomes = set()
    shape = [reader.inside] if reader.inside else []

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(EDITS, st.sampled_from([spoil, *shape]))
    def run(edits, how):
        outcomes.add(attempt(reader, tmp_path, how(content, edits)))

    run()
    assert name == 'report' or 'refused' in outcomes
    assert not list(tmp_path.glob('*.part'))


@pytest.mark.parametrize('shape', ['(999999999999999, 2)', '(2, 999999999999999)', '(' * 90 + '1'])
def test_an_array_that_claims_more_than_its_file_holds(tmp_path, shape):
    np.save(tmp_path / 'x.npy', np.zeros((3, 2)))
    content = (tmp_path / 'x.npy').read_bytes()
    length = len(content) - 48
    header = content[10:length].replace(b'(3, 2)', shape.encode()).rstrip()
    (tmp_path / 'x.npy').write_bytes(content[:10] + header.ljust(length - 11)[: length - 11] + b'\n'
                                     + content[length:])  # fmt: skip
    with pytest.raises(ValueError, match='not a complete .npy array'):
        read_array(tmp_path / 'x.npy')


@pytest.mark.parametrize(
    'change',
    [
        {'model': None}, {'model': {}}, {'model': {'x': 1}}, {'model': [1]},
        {'identity': None}, {'identity': {}}, {'data_hash': 5}, {'data_hash': None},
        {'config': None}, {'config': [1]}, {'config': {'channels': 'x'}}, {'config': {1: 2}},
        {'config': {'channels': -1}}, {'config': {'nonsense': 1}}, {'config': {'mrdib': [1]}},
        {'name': 5}, {'name': 'Popen'},
    ],
)  # fmt: skip
def test_a_checkpoint_that_says_something_else(tmp_path, change):
    """What a checkpoint of the right form says is not trusted either."""
    reader = READERS['model']
    reader.make(tmp_path)
    state = load_checkpoint(tmp_path / 'best.pt')
    for key, value in change.items():
        if key in ('data_hash', 'config'):
            state['identity'][key] = value
        elif key == 'name':
            state['identity']['model'] = value
        else:
            state[key] = value
    save_checkpoint(tmp_path / 'best.pt', state)
    with pytest.raises(ValueError):
        reader.read(tmp_path)
