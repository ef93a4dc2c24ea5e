"""Spoiled files either load, or are refused with the documented error; none hangs, fills the memory
or runs code.

``python tests/fuzz/run.py`` tries a thousand for each reader; its counts are in
``benchmarks/results/fuzz.json``.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import battery  # noqa: E402
import reader as reading  # noqa: E402
from reader import Reader, attempt  # noqa: E402
from readers import READERS  # noqa: E402
from run import describe, main, parse  # noqa: E402
from run_readers import DATA, make_checkpoint, make_run, resume  # noqa: E402

from benchmarks import schema  # noqa: E402
from mrdib_pyg.datasets._read import read_array  # noqa: E402
from mrdib_pyg.training import CheckpointError, load_model
from mrdib_pyg.training.checkpoint import load_checkpoint, save_checkpoint

EXAMPLES = int(os.environ.get('MRDIB_FUZZ_EXAMPLES', '30'))
pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs SIGALRM')


@pytest.fixture(scope='module')
def rows():
    """The counts of every reader: of one process, whose memory is limited."""
    ready = [name for name in READERS if not battery.missing(name)]
    return {row['reader']: row for row in battery.run(ready, EXAMPLES)}


@pytest.mark.parametrize('name', READERS)
def test_reader(rows, name):
    if missing := battery.missing(name):
        pytest.skip(f'needs {missing}')
    row = rows[name]
    assert row['undocumented'] == {}
    assert row['hangs'] == 0
    assert row['inputs'] >= EXAMPLES
    assert row['loaded'] + sum(row['refused'].values()) == row['inputs']
    assert READERS[name].tolerant or sum(row['refused'].values()) > 0


def test_counts_have_the_form_of_a_result(rows):
    value = describe(list(rows.values()), parse([]), complete=True)
    assert schema.validate(value) == 'fuzz'
    assert value['total']['readers'] == len(rows)
    value['total']['loaded'] += 1
    with pytest.raises(ValueError, match='total is not that of the readers'):
        schema.validate(value)
    value['readers'][0]['loaded'] += 1
    with pytest.raises(ValueError, match='do not add up'):
        schema.validate(value)


def refuse():
    raise ValueError('the file is torn')


@pytest.mark.parametrize(
    ('read', 'kind', 'what'),
    [
        (lambda f: None, 'loaded', ''),
        (lambda f: load_checkpoint(f / 'x'), 'refused', 'CheckpointError'),
        (lambda f: load_checkpoint(f / 'y'), 'refused', 'FileNotFoundError'),
        (lambda f: {}['x'], 'undocumented', 'of no documented type'),
        (lambda f: int('x'), 'undocumented', 'raised by accident'),
        (lambda f: refuse(), 'undocumented', 'not by this package'),
        (lambda f: b'x'.decode('utf-16'), 'undocumented', 'of no documented type'),
        (lambda f: bytearray(1 << 60), 'undocumented', 'MemoryError'),
    ],
)
def test_what_became_of_a_file(tmp_path, read, kind, what):
    outcome = attempt(Reader('x', lambda f: None, read), tmp_path, b'x')
    assert outcome.kind == kind and what in outcome.what


def test_a_hanging_reader_is_told_from_one_that_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, 'PATIENCE', 1)

    def read(folder):
        try:
            while True:
                pass
        except Exception as e:
            raise ValueError('as of a torn file') from e

    assert attempt(Reader('x', lambda f: None, read), tmp_path, b'').kind == 'hang'


def test_counts_of_other_readers_stay_in_the_file(tmp_path, monkeypatch):
    path, worker = tmp_path / 'counts.json', tmp_path / 'worker.py'
    monkeypatch.setattr(battery, '__file__', str(worker))
    row = {
        'file': 'x', 'inputs': 3, 'loaded': 2, 'refused': {'ValueError': 1}, 'undocumented': {},
        'hangs': 0, 'peak_mib': 0.0, 'seconds': 0.0, 'longest_seconds': 0.0, 'finished': True,
    }  # fmt: skip

    def count(readers, *examples):
        rows = [json.dumps({**row, 'reader': name}) for name in readers]
        worker.write_text(f'print({chr(10).join(rows)!r})')
        args = ['run.py', '--readers', ';'.join(readers), '--json', str(path), *examples]
        monkeypatch.setattr(sys, 'argv', args)
        assert main() == 0
        value = schema.load(path)
        assert schema.validate(value) == 'fuzz' and not value['complete']
        return [row['reader'] for row in value['readers']]

    assert count(['literals', 'ids']) == ['ids', 'literals']  # in the order of READERS
    assert count(['mask .npy', 'ids']) == ['mask .npy', 'ids', 'literals']
    assert count(['ids'], '--examples', '3') == ['ids']  # the others were of other settings


WORKER = """
import json, os, signal, sys
for name in json.loads(sys.argv[1])['readers']:
    row = {'reader': name, 'inputs': 1, 'loaded': 1, 'refused': {}, 'undocumented': {}, 'hangs': 0}
    print(json.dumps({**row, 'finished': False}), flush=True)
    if name == 'crash':
        os.kill(os.getpid(), signal.SIGKILL)
    if name == 'hang':
        print('Timeout (0:01:00)!', file=sys.stderr)
        sys.exit(1)
    print(json.dumps({**row, 'finished': True}), flush=True)
"""


def test_a_reader_that_ends_the_process_is_counted_and_the_others_go_on(tmp_path, monkeypatch):
    (tmp_path / 'worker.py').write_text(WORKER)
    monkeypatch.setattr(battery, '__file__', str(tmp_path / 'worker.py'))
    a, crash, hang, z = battery.run(['a', 'crash', 'hang', 'z'], 1)
    assert [row['reader'] for row in (a, crash, hang, z)] == ['a', 'crash', 'hang', 'z']
    assert a['undocumented'] == z['undocumented'] == hang['undocumented'] == {}
    assert crash['undocumented'] == {'the process ended with -9': 1} and crash['hangs'] == 0
    assert hang['hangs'] == 1 and z['hangs'] == 0
    assert [row['inputs'] for row in (a, crash, hang, z)] == [1, 2, 2, 1]
    (tmp_path / 'worker.py').write_text('1 / 0')
    with pytest.raises(RuntimeError, match='does not start: (.|\n)*ZeroDivisionError'):
        battery.run(['a'], 1)


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
    make_checkpoint(tmp_path)
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
        load_model(tmp_path / 'best.pt', DATA)


def _moment(state):
    state['optimizer']['state'][0]['exp_avg'] = torch.zeros(3)


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('last.pt', lambda s: s.update(epoch=torch.ones(2))),
        ('last.pt', lambda s: s.update(best_epoch='1')),
        ('last.pt', lambda s: s.update(num_bad=-1)),
        ('last.pt', lambda s: s.update(best_metric=None)),
        ('last.pt', lambda s: s.pop('best_metric')),
        ('last.pt', lambda s: s.update(version=torch.ones(2))),
        ('last.pt', lambda s: s['identity'].update(model=torch.ones(2))),
        ('last.pt', lambda s: s['model'].popitem()),
        ('last.pt', lambda s: s.update(optimizer={})),
        ('last.pt', lambda s: s['optimizer']['param_groups'][0].update(betas=(0.5, 0.5))),
        ('last.pt', lambda s: s['optimizer']['state'][0].update(step=None)),
        ('last.pt', _moment),
        ('best.pt', lambda s: s.pop('model')),
        ('best.pt', lambda s: s['model'].popitem()),
        ('best.pt', lambda s: s.update(epoch=torch.ones(2))),
    ],
)
def test_a_run_whose_checkpoints_do_not_fit_is_not_continued(tmp_path, name, change):
    make_run(tmp_path)
    last = load_checkpoint(tmp_path / 'last.pt')
    assert last['best_epoch'] < last['epoch']  # both files count
    state = load_checkpoint(tmp_path / name)
    change(state)
    save_checkpoint(tmp_path / name, state)
    history = (tmp_path / 'history.jsonl').read_bytes()
    with pytest.raises(CheckpointError):
        resume(tmp_path)
    assert (tmp_path / 'run' / 'history.jsonl').read_bytes() == history
