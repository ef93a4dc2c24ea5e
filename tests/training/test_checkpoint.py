import errno
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from mrdib_pyg.files import write_atomic
from mrdib_pyg.training import CheckpointError, load_checkpoint, save_checkpoint

ENV = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}
STATE = {
    'epoch': 3,
    'best_metric': float('inf'),
    'identity': {'model': 'VBPR', 'config': {'channels': 8, 'mrdib': None}},
    'model': {'weight': torch.arange(600.0).view(20, 30), 'count': torch.tensor(7)},
    'optimizer': {'state': {0: {'step': torch.tensor(5.0)}}, 'param_groups': [{'lr': 1e-3}]},
}


def assert_equal(x, y):
    assert type(x) is type(y)
    if isinstance(x, dict):
        assert list(x) == list(y)
        for key in x:
            assert_equal(x[key], y[key])
    elif isinstance(x, torch.Tensor):
        assert x.dtype == y.dtype and torch.equal(x, y)
    else:
        assert x == y


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_checkpoint_round_trip(tmp_path):
    path = tmp_path / 'last.pt'
    save_checkpoint(path, STATE)
    assert_equal(load_checkpoint(path), {'version': 1, **STATE})
    assert_equal(torch.load(path, weights_only=True), {'version': 1, **STATE})
    assert names(tmp_path) == ['last.pt']


def test_write_atomic(tmp_path):
    path = tmp_path / 'a.json'
    write_atomic(path, b'old')
    write_atomic(str(path), b'new')
    assert path.read_bytes() == b'new' and names(tmp_path) == ['a.json']


@pytest.mark.parametrize('step', ['fsync', 'replace', 'chmod'])
@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'),
                                   KeyboardInterrupt()], ids=['full', 'interrupt'])  # fmt: skip
def test_failing_write_keeps_the_old_file(tmp_path, monkeypatch, step, error):
    def fail(*args, **kwargs):
        raise error

    save_checkpoint(tmp_path / 'last.pt', STATE)
    write_atomic(tmp_path / 'a.json', b'old')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        save_checkpoint(tmp_path / 'last.pt', {'epoch': 4})
    with pytest.raises(type(error)):
        write_atomic(tmp_path / 'a.json', b'new')
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'),
                                   RuntimeError('file write failed\nframe #0')])  # fmt: skip
def test_failing_save_names_the_file(tmp_path, monkeypatch, error):
    def fail(state, name):
        with open(name, 'wb') as f:
            f.write(b'torn')
        raise error

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match=r"cannot write '.*last\.pt' \(.*\); if the disk is full"):
        save_checkpoint(tmp_path / 'last.pt', STATE)
    assert names(tmp_path) == []


def test_full_disk(tmp_path):
    """PyTorch's own writer runs into a limit of the size of files."""
    script = (
        'import resource, sys, torch\n'
        'from mrdib_pyg.training import save_checkpoint\n'
        'path = sys.argv[1]\n'
        "save_checkpoint(path, {'x': torch.zeros(10)})\n"
        'resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n'
        'try:\n'
        "    save_checkpoint(path, {'x': torch.ones(100_000)})\n"
        'except OSError as e:\n'
        '    print(e)\n'
    )
    out = subprocess.run(
        [sys.executable, '-c', script, str(tmp_path / 'last.pt')],
        capture_output=True, text=True, env=ENV,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert f"cannot write '{tmp_path / 'last.pt'}'" in out.stdout
    assert names(tmp_path) == ['last.pt']
    assert torch.equal(load_checkpoint(tmp_path / 'last.pt')['x'], torch.zeros(10))


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint '.*last\.pt'"):
        load_checkpoint(tmp_path / 'last.pt')


def test_truncated_anywhere(tmp_path):
    path = tmp_path / 'last.pt'
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    for size in [*range(0, 40), *range(40, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match='is torn or not a checkpoint'):
            load_checkpoint(path)


def test_flipped_bit_anywhere(tmp_path):
    path = tmp_path / 'last.pt'
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    num_refused = 0
    for position in torch.randint(8 * len(content), (300,), generator=generator).tolist():
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            state = load_checkpoint(path)
        except CheckpointError:
            num_refused += 1
        else:  # a bit of the container that carries no content
            assert_equal(state, {'version': 1, **STATE})
    assert num_refused > 100


def test_flipped_bit_in_a_tensor(tmp_path):
    path = tmp_path / 'last.pt'
    save_checkpoint(path, STATE)
    content = bytearray(path.read_bytes())
    position = content.index(STATE['model']['weight'].numpy().tobytes())
    content[position + 1000] ^= 1
    path.write_bytes(content)
    assert isinstance(torch.load(path, weights_only=True), dict)  # PyTorch would not notice
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize(
    'content',
    [b'', b'x' * 1000, pickle.dumps({'version': 1}), b'PK\x05\x06' + bytes(18)],
    ids=['empty', 'text', 'pickle', 'empty_zip'],
)
def test_not_a_checkpoint(tmp_path, content):
    path = tmp_path / 'last.pt'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='is torn or not a checkpoint'):
        load_checkpoint(path)


@pytest.mark.parametrize('state', [{}, {'version': 2}, {'weight': torch.ones(2)}, [1, 2]])
def test_other_version(tmp_path, state):
    torch.save(state, tmp_path / 'last.pt')
    with pytest.raises(CheckpointError, match='not a checkpoint of version 1'):
        load_checkpoint(tmp_path / 'last.pt')


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'in_place'])
def test_pickle_bomb_is_not_run(tmp_path, kind):
    path, mark = tmp_path / 'last.pt', tmp_path / 'exploded'
    if kind == 'in_place':  # a good checkpoint whose pickle was exchanged, checksums and all
        save_checkpoint(path, STATE)
        buffer = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, 'w') as new:
            for name in old.namelist():
                is_pickle = name.endswith('data.pkl')
                new.writestr(name, pickle.dumps(Bomb(mark)) if is_pickle else old.read(name))
        path.write_bytes(buffer.getvalue())
    else:
        torch.save({'version': 1, 'x': Bomb(mark)}, path,
                   _use_new_zipfile_serialization=kind == 'zip')  # fmt: skip
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not mark.exists()
    if kind == 'zip':  # the bomb is a live one
        torch.load(path, weights_only=False)['x'].close()
        assert mark.exists()
