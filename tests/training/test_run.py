"""Trainings as a whole, their results, and the memory they keep."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from mrdib_pyg.datasets import data_hash
from mrdib_pyg.evaluation import average_metrics, evaluate
from mrdib_pyg.nn.models import MODELS, VBPR, Recommender
from mrdib_pyg.training import CheckpointError, load_model, train_model
from mrdib_pyg.training import _freed_memory as freed_memory
from mrdib_pyg.training._freed_memory import keep_freed_memory
from mrdib_pyg.training._run import provenance
from mrdib_pyg.training.checkpoint import load_checkpoint

FIT = {'epochs': 2, 'batch_size': 64, 'progress': False}


def test_run(data, tmp_path):
    mrdib, weights = {'redundancy': 'gaussian'}, {'unique': 0.1}
    results = train_model(
        data, 'multimodal_lightgcn', settings={'channels': 8}, mrdib=mrdib, seed=3,
        weights=weights, out=tmp_path, dataset='small', **FIT,
    )  # fmt: skip
    assert json.loads((tmp_path / 'results.json').read_text()) == results
    config = json.loads((tmp_path / 'config.json').read_text())
    for name in ('dataset', 'data_hash', 'model', 'settings', 'seed', 'fit', 'versions', 'machine'):
        assert config[name] == results[name], name
    assert results['dataset'] == 'small' and results['data_hash'] == data_hash(data)
    assert results['seed'] == 3 and results['settings'] == {'channels': 8, 'mrdib': mrdib}
    assert results['fit'] == {
        'epochs': 2, 'batch_size': 64, 'weights': weights, 'lr': 1e-3, 'critic_steps': 0,
        'modality_dropout': 0.0, 'patience': 20, 'monitor': 'recall@20', 'compile': False,
    }  # fmt: skip
    assert results['num_epochs'] == 2 and results['best_epoch'] in (1, 2)
    assert {'task', 'bottleneck', 'redundant', 'unique', 'synergistic'} < set(results['terms'])
    model, _ = load_model(tmp_path / 'best.pt', data)
    for split in ('val', 'test'):
        assert results[split] == evaluate(model, data, split, k=(5, 10, 20, 50))
    assert results['num_parameters'] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('mrdib', [None, {}], ids=['plain', 'mrdib'])
@pytest.mark.parametrize('name', MODELS)
def test_run_of_every_model(data, tmp_path, name, mrdib):
    if mrdib is not None and not MODELS[name].multimodal:
        pytest.skip('has no modality for MRdIB to encode')
    kwargs = {'settings': {'channels': 8}, 'mrdib': mrdib, 'test': False}
    whole = train_model(data, name, **kwargs, **FIT)
    for epochs in (1, 2):
        settings = {**kwargs, **FIT, 'epochs': epochs, 'resume': True}
        out = train_model(data, name, out=tmp_path, **settings)
    assert out['val'] == whole['val'] and out['terms'] == whole['terms']  # interrupted, or not
    model, _ = load_model(tmp_path / 'best.pt', data)
    assert evaluate(model, data, 'val', k=(5, 10, 20, 50)) == whole['val']


class Mine(VBPR):
    pass


class WithoutLayer(Recommender):
    def __init__(self, data, channels=8):
        super().__init__(data, channels)


def test_run_of_a_class(data, tmp_path):
    results = train_model(data, Mine, mrdib={}, out=tmp_path, **FIT)
    assert results['model'] == f'{__name__}:Mine'
    assert results['test'] == train_model(data, results['model'], mrdib={}, **FIT)['test']
    model, _ = load_model(tmp_path / 'best.pt', data, cls=Mine)
    assert evaluate(model, data, 'test', k=(5, 10, 20, 50)) == results['test']
    with pytest.raises(ValueError, match="WithoutLayer' takes no 'mrdib'; give it that argument"):
        train_model(data, WithoutLayer, mrdib={}, **FIT)
    with pytest.raises(ValueError, match='must be a subclass of mrdib_pyg.nn.models.Recommender'):
        train_model(data, dict, **FIT)
    with pytest.raises(ValueError, match='LightGCN reads no modality, so there is nothing'):
        train_model(data, 'lightgcn', mrdib={}, **FIT)


class Forgot(Recommender):
    def __init__(self, data, channels=8, mrdib=None):
        super().__init__(data, channels)


class Halved(VBPR):
    def __init__(self, data, alpha=1.0, mrdib=None):
        super().__init__(data, mrdib=mrdib)
        self.alpha = alpha / 2


class Kwargs(Recommender):
    def __init__(self, data, width=8, **kwargs):
        super().__init__(data, channels=width, **kwargs)
        self.width = width


class Dropped(VBPR):
    def __init__(self, data, dropout=0.1, mrdib=None):
        super().__init__(data, mrdib=mrdib)
        self.dropout = torch.nn.Dropout(dropout)


@pytest.mark.parametrize(
    ('cls', 'settings', 'mrdib', 'message'),
    [
        (Forgot, {}, {}, "Forgot' takes 'mrdib' and does not hand it on: pass it to the constr"),
        (Halved, {'alpha': 0.5}, None, "must store its argument 'alpha' as it was given, 0.5 "),
        (Halved, {}, None, r"'alpha' as it was given, 1.0 \(self.alpha is 0.5\)"),
        (Kwargs, {}, None, "Kwargs' takes [*][*]kwargs, but sets 'channels' itself: write the"),
        (Dropped, {}, {}, r"'dropout' as it was given, 0.1 \(self.dropout is Dropout"),
    ],
)
def test_what_a_model_of_ones_own_may_forget(data, tmp_path, cls, settings, mrdib, message):
    with pytest.raises(ValueError, match=message):
        train_model(data, cls, settings=settings, mrdib=mrdib, out=tmp_path / 'run', **FIT)
    assert not (tmp_path / 'run').exists()


def test_the_data_are_hashed_once(data, tmp_path, monkeypatch):
    hashed = []

    def spy(data):
        hashed.append(data)
        return data_hash(data)

    for module in ('_run', 'checkpoint'):
        monkeypatch.setattr(f'mrdib_pyg.training.{module}.data_hash', spy)
    train_model(data, 'vbpr', out=tmp_path, **FIT)
    identity = load_checkpoint(tmp_path / 'last.pt')['identity']
    assert len(hashed) == 1 and identity['data_hash'] == data_hash(data)


def test_run_with_numbers_of_numpy(data, tmp_path):
    fit = {'epochs': np.int64(2), 'batch_size': np.int64(64), 'lr': np.float32(0.5)}
    settings = {'reg_weight': np.float64(0.1)}
    given = {'seed': np.int64(3), 'settings': settings, 'progress': False, 'out': tmp_path}
    results = train_model(data, 'vbpr', **given, **fit)
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['fit'] | {'epochs': 2, 'batch_size': 64, 'lr': 0.5} == config['fit']
    assert config['seed'] == 3
    plain = {'epochs': 2, 'batch_size': 64, 'lr': 0.5, 'seed': 3, 'progress': False}
    again = train_model(data, 'vbpr', settings={'reg_weight': 0.1}, **plain)
    assert results['test'] == again['test']


def test_a_folder_is_not_made_of_what_cannot_be_recorded(data, tmp_path):
    with pytest.raises(TypeError, match='not JSON serializable'):
        train_model(data, 'vbpr', out=tmp_path / 'run', dataset=object(), **FIT)
    assert not (tmp_path / 'run').exists()


def test_run_is_reproducible(data):
    runs = [train_model(data, 'vbpr', seed=seed, **FIT) for seed in (0, 0, 1)]
    assert runs[0]['test'] == runs[1]['test'] != runs[2]['test']
    assert runs[0]['terms'] == runs[1]['terms']


def test_run_does_not_read_the_test_edges(data, monkeypatch):
    del data['user', 'test', 'item']
    assert 'test' not in train_model(data, 'vbpr', test=False, **FIT)
    assert 'test' not in train_model(data, 'vbpr', **FIT)


def test_run_without_held_out_edges(data):
    del data['user', 'val', 'item'], data['user', 'test', 'item']
    results = train_model(data, 'vbpr', **FIT)
    assert results['best_epoch'] == 2 and 'val' not in results


def test_run_in_a_small_catalogue(data):
    results = train_model(data, 'vbpr', k=(5, 20, 100), **FIT)
    assert {key.split('@')[1] for key in results['test']} == {'5', '20'}
    results = train_model(data, 'vbpr', k=(100,), **FIT)
    assert {key.split('@')[1] for key in results['test']} == {'50'}


def test_run_per_user(data, tmp_path):
    results = train_model(data, 'vbpr', per_user=True, out=tmp_path, **FIT)
    users = results.pop('per_user')
    assert json.loads((tmp_path / 'results.json').read_text()) == results
    assert users['user'].tolist() == list(range(40)) and average_metrics(users) == results['test']
    assert results['test'] == train_model(data, 'vbpr', **FIT)['test']
    assert 'per_user' not in train_model(data, 'vbpr', per_user=True, test=False, **FIT)


def test_run_resumed(data, tmp_path):
    whole = train_model(data, 'vbpr', out=tmp_path / 'a', **{**FIT, 'epochs': 4})
    train_model(data, 'vbpr', out=tmp_path / 'b', **FIT)
    resumed = train_model(data, 'vbpr', out=tmp_path / 'b', resume=True, **{**FIT, 'epochs': 4})
    for name in ('best_epoch', 'num_epochs', 'terms', 'val', 'test'):
        assert whole[name] == resumed[name]
    # Resumed for fewer epochs than it has, it says what it is.
    shorter = train_model(data, 'vbpr', out=tmp_path / 'b', resume=True, **FIT)
    assert shorter['num_epochs'] == 4
    assert json.loads((tmp_path / 'b' / 'config.json').read_text())['fit']['epochs'] == 4
    before = {p.name: p.read_bytes() for p in (tmp_path / 'b').iterdir()}
    with pytest.raises(CheckpointError):
        train_model(data, 'vbpr', out=tmp_path / 'b', resume=True, seed=1, **FIT)
    assert {p.name: p.read_bytes() for p in (tmp_path / 'b').iterdir()} == before


def test_results_of_fewer_epochs_do_not_outlive_them(data, tmp_path, monkeypatch):
    train_model(data, 'vbpr', out=tmp_path, **FIT)
    (tmp_path / 'pid.json').write_text('{}')
    train_model(data, 'vbpr', out=tmp_path, resume=True, **FIT)  # nothing is left to train
    assert (tmp_path / 'results.json').exists() and (tmp_path / 'pid.json').exists()

    train_epoch = sys.modules['mrdib_pyg.training._fit']._train_epoch

    def stop(state, *args):
        if state.epoch == last:
            raise KeyboardInterrupt
        return train_epoch(state, *args)

    monkeypatch.setattr(sys.modules['mrdib_pyg.training._fit'], '_train_epoch', stop)
    for last in (2, 3):  # before and after a further epoch is done
        with pytest.raises(KeyboardInterrupt):
            train_model(data, 'vbpr', out=tmp_path, resume=True, **{**FIT, 'epochs': 9})
        assert (tmp_path / 'results.json').exists() == (last == 2)
    monkeypatch.undo()
    results = train_model(data, 'vbpr', out=tmp_path, resume=True, **{**FIT, 'epochs': 9})
    assert (tmp_path / 'results.json').exists()
    assert (tmp_path / 'pid.json').exists() == (results['best_epoch'] <= 2)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'model': 'nothing'}, r"no model 'nothing'; known are "),
        ({'settings': {'depth': 3}}, r"no settings \['depth'\]; it has \['channels'"),
        ({'settings': {'mrdib': {}}}, r"no settings \['mrdib'\]"),
        ({'settings': {'data': 1}}, r"no settings \['data'\]"),
        ({'settings': {'channels': 'wide'}}, "'channels' must be an integer .got 'wide'."),
        ({'settings': {'channels': None}}, "'channels' must be an integer .got None."),
        ({'settings': {'channels': 0}}, "'channels' must be positive"),
        ({'settings': {'reg_weight': 'much'}}, "'reg_weight' must be a number .got 'much'."),
        ({'settings': {'feature_scaling': 1}}, "'feature_scaling' must be a word or none"),
        ({'mrdib': {'strength': 1}}, r"unknown setting 'strength'; MRdIB has \['redundancy'"),
        ({'mrdib': {'redundancy': 'shannon'}}, "'redundancy' must be one of"),
        ({'seed': -1}, "'seed' must lie in"),
        ({'model': 'multimodal_lightgcn', 'settings': {'id_channel': 'no'}}, 'true or false'),
        ({'weights': {'task': 0.0, 'reg': 0.0}}, 'zero for every term of the loss'),
        ({'weights': {'task': 0, 'reg': 0, 'unique': 1}}, 'has neither MRdIB nor a control'),
        ({'epochs': 0}, "'epochs' must be at least 1"),
    ],
)
def test_run_refuses(data, tmp_path, kwargs, message):
    kwargs = {'model': 'vbpr', **FIT, **kwargs}
    with pytest.raises(ValueError, match=message):
        train_model(data, out=tmp_path / 'run', **kwargs)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('split', ['val', 'test'])
def test_run_refuses_what_it_could_not_evaluate(data, tmp_path, split):
    data['user'].num_nodes = 41
    data['user', split, 'item'].edge_label_index = torch.tensor([[40], [0]])
    with pytest.raises(ValueError, match=f"no user with held-out edges in split '{split}'"):
        train_model(data, 'vbpr', out=tmp_path / 'run', **FIT)
    assert not (tmp_path / 'run').exists()


def test_provenance():
    out = provenance()
    assert json.loads(json.dumps(out)) == out
    assert out['versions']['torch'] == torch.__version__
    assert out['machine']['threads'] == torch.get_num_threads()


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
