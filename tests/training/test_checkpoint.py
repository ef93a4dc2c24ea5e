"""Checkpoints, the history of a run, and the models that are built of them."""

import copy
import errno
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch_geometric import seed_everything

from mrdib_pyg.datasets import Planted
from mrdib_pyg.files import write_atomic
from mrdib_pyg.nn.models import VBPR, MultimodalLightGCN
from mrdib_pyg.nn.models.registry import model_name
from mrdib_pyg.training import CheckpointError, fit, load_model
from mrdib_pyg.training.checkpoint import History, load_checkpoint, save_checkpoint

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
        'from mrdib_pyg.training.checkpoint import save_checkpoint\n'
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


ROWS = [{'epoch': n, 'train': {'task': 1 / n}} for n in (1, 2, 3)]


def write_history(path, rows, tail=''):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows) + tail)
    return History(path)


def read_history(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_history(tmp_path):
    history = History(tmp_path / 'history.jsonl')
    for n, row in enumerate(ROWS, start=1):
        history.append(row)
        assert read_history(history.path) == ROWS[:n]  # on disk at once
    assert history.epochs == ROWS and len(history) == 3
    assert str(history) == 'History(num_epochs=3)'


def test_history_in_memory():
    history = History()
    history.append(ROWS[0])
    assert history.epochs == ROWS[:1] and history.path is None


@pytest.mark.parametrize('num_epochs', [0, 1, 2, 3])
@pytest.mark.parametrize(
    'tail', ['', '{"epoch": 4, "tra', '{"epoch": 4}\n{"epo', '\0\0\0', '4', '[]\n', '\ud800'],
    ids=['none', 'torn', 'ahead', 'zeros', 'number', 'list', 'bytes'],
)  # fmt: skip
def test_history_restore(tmp_path, num_epochs, tail):
    history = write_history(tmp_path / 'history.jsonl', ROWS)
    with open(history.path, 'ab') as f:
        f.write(tail.encode('utf-8', 'surrogatepass'))
    history.restore(num_epochs)
    assert history.epochs == read_history(history.path) == ROWS[:num_epochs]
    history.append({'epoch': num_epochs + 1})
    assert len(read_history(history.path)) == num_epochs + 1
    assert [p.name for p in tmp_path.iterdir()] == ['history.jsonl']


def test_history_restore_nothing(tmp_path):
    history = History(tmp_path / 'history.jsonl')
    history.restore(0)
    assert history.epochs == [] and read_history(history.path) == []


@pytest.mark.parametrize(
    ('rows', 'found'), [([], 0), (ROWS[:1], 1), ([ROWS[0], ROWS[2]], 1), (ROWS[1:], 0)]
)
def test_history_with_a_gap(tmp_path, rows, found):
    history = write_history(tmp_path / 'history.jsonl', rows)
    before = history.path.read_bytes()
    with pytest.raises(CheckpointError, match=f'holds {found} of the 2 epochs'):
        history.restore(2)
    assert history.path.read_bytes() == before


class Mine(VBPR):
    """A model that this package does not know."""


@pytest.fixture
def folder(data, tmp_path):
    return train(data, tmp_path, VBPR)[0]


def train(data, folder, cls, **kwargs):
    seed_everything(0)
    model = cls(data, channels=8, **kwargs)
    fit(model, data, epochs=2, batch_size=64, out=folder, progress=False)
    return folder, model


def change(path, **changes):
    state = load_checkpoint(path)
    torch.save({**state, **changes}, path)


@pytest.mark.parametrize(
    ('cls', 'kwargs'),
    [
        (VBPR, {}),
        (VBPR, {'mrdib': {'redundancy': 'club'}, 'feature_scaling': 'row'}),
        (VBPR, {'mrdib': {'control': 'noise', 'noise_scale': 0.2}}),
        (VBPR, {'mrdib': {'control': 'l2'}}),
        (MultimodalLightGCN, {'fusion': 'mlp', 'num_layers': 1, 'id_channel': False}),
        (MultimodalLightGCN, {'fusion': 'product_of_experts', 'mrdib': {}}),
        (MultimodalLightGCN, {'fusion': 'attention', 'mrdib': {'bottleneck': 'complete'}}),
    ],
)
def test_load_model(data, tmp_path, cls, kwargs):
    _, model = train(data, tmp_path, cls, **kwargs)
    loaded, info = load_model(tmp_path / 'best.pt', data)
    assert type(loaded) is cls and not loaded.training
    assert loaded.config == model.config
    assert torch.equal(loaded.embed().user, model.embed().user)
    assert torch.equal(loaded.embed().item, model.embed().item)
    assert info['epoch'] in (1, 2) and info['identity']['model'] == model_name(cls)
    assert 'model' not in info


def test_load_last(data, folder):
    assert load_model(folder / 'last.pt', data)[1]['epoch'] == 2


def test_load_model_of_a_class_of_ones_own(data, tmp_path):
    train(data, tmp_path, Mine)
    message = f'holds the model {__name__}:Mine, which is not one of this package; pass its class'
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / 'best.pt', data)
    for wrong in (VBPR, 'vbpr'):
        with pytest.raises(CheckpointError, match=f'holds the model {__name__}:Mine, not vbpr'):
            load_model(tmp_path / 'best.pt', data, cls=wrong)
    for cls in (Mine, f'{__name__}:Mine'):
        assert type(load_model(tmp_path / 'best.pt', data, cls=cls)[0]) is Mine


def test_a_class_of_ones_own_with_a_name_of_this_package(data, tmp_path):
    own = type('VBPR', (VBPR,), {'__module__': 'elsewhere'})
    train(data, tmp_path / 'own', own)
    train(data, tmp_path / 'vbpr', VBPR)
    with pytest.raises(CheckpointError, match='holds the model elsewhere:VBPR, which is not one'):
        load_model(tmp_path / 'own' / 'best.pt', data)
    with pytest.raises(CheckpointError, match='holds the model vbpr, not elsewhere:VBPR.*leave th'):
        load_model(tmp_path / 'vbpr' / 'best.pt', data, cls=own)
    # Its file may have moved, and its script may have trained it.
    for module in ('moved', '__main__'):
        moved = type('VBPR', (VBPR,), {'__module__': module})
        assert type(load_model(tmp_path / 'own' / 'best.pt', data, cls=moved)[0]) is moved
    with pytest.raises(CheckpointError, match="made with model 'elsewhere:VBPR' but this run has"):
        fit(VBPR(data, channels=8), data, out=tmp_path / 'own', resume=True, progress=False)


def test_other_data(folder):
    other = Planted(num_users=40, num_items=50, num_interactions=10, noise=1.0)[0]
    with pytest.raises(CheckpointError, match='trained on other data'):
        load_model(folder / 'best.pt', other)


def test_no_checkpoint(data, tmp_path):
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        load_model(tmp_path / 'best.pt', data)


@pytest.mark.parametrize('identity', [None, {}, {'model': 'VBPR'}, 'VBPR'])
def test_no_identity(data, folder, identity):
    change(folder / 'best.pt', identity=identity)
    with pytest.raises(CheckpointError, match='not a checkpoint of a training run'):
        load_model(folder / 'best.pt', data)


def test_parameters_that_do_not_fit(data, folder):
    state = load_checkpoint(folder / 'best.pt')['model']
    change(folder / 'best.pt', model={**state, 'bias': torch.zeros(9)})
    with pytest.raises(CheckpointError, match='do not fit the model vbpr'):
        load_model(folder / 'best.pt', data)


def test_settings_that_are_gone(data, folder):
    identity = load_checkpoint(folder / 'best.pt')['identity']
    config = {**identity['config'], 'no_longer': 1}
    change(folder / 'best.pt', identity={**identity, 'config': config})
    with pytest.raises(CheckpointError, match='do not fit the model vbpr'):
        load_model(folder / 'best.pt', data)


@pytest.mark.parametrize('how', ['compressed', 'overlapping'])
def test_archives_that_are_larger_than_they_seem(tmp_path, how):
    """A small file must not fill the memory, nor take minutes to be checked."""
    path, packed = tmp_path / 'last.pt', tmp_path / 'packed.pt'
    save_checkpoint(path, {'x': torch.zeros(300_000)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, 'w') as new:
        for member in old.infolist():
            content = old.read(member)
            member.compress_type = zipfile.ZIP_STORED
            if how == 'compressed':
                member.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(member, content)
        if how == 'overlapping':  # names for one content
            large = max(new.filelist, key=lambda member: member.file_size)
            for i in range(1000):
                again = copy.copy(large)
                again.filename = f'last/data/{i + 10}'
                new.filelist.append(again)
    assert packed.stat().st_size < 3_000_000
    with pytest.raises(CheckpointError, match='packed.pt. is torn or not a checkpoint'):
        load_checkpoint(packed)


@pytest.mark.parametrize(
    'setting', [{'num_layers': 10**9}, {'channels': 10**9}, {'mrdib': {'hidden_channels': 10**9}}]
)
def test_sizes_that_would_never_end(data, tmp_path, setting):
    train(data, tmp_path, MultimodalLightGCN, mrdib={})
    identity = load_checkpoint(tmp_path / 'best.pt')['identity']
    config = {**identity['config'], **setting}
    change(tmp_path / 'best.pt', identity={**identity, 'config': config})
    with pytest.raises(CheckpointError, match=r'best.pt. must be at most \d+ .got 1000000000.'):
        load_model(tmp_path / 'best.pt', data)
