"""A run that was stopped and resumed ends with the bits of an unbroken one."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch_geometric import seed_everything

from mrdib_pyg.nn.models import FREEDOM, MGCN, VBPR, MultimodalLightGCN
from mrdib_pyg.training import CheckpointError, fit, load_model
from mrdib_pyg.training.checkpoint import _load_optimizer, load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])  # of killing.py
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': PATHS}
WEIGHTS = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}


def train(
    data, out, epochs, cls=MultimodalLightGCN, mrdib=None, channels=8, resume=False, **kwargs
):
    seed_everything(0)
    mrdib = {'redundancy': 'mine'} if mrdib is None else mrdib
    model = cls(data, channels=channels, mrdib=mrdib)
    settings = {'batch_size': 64, 'lr': 0.02, 'weights': WEIGHTS, 'patience': 100, **kwargs}
    result = fit(model, data, epochs=epochs, out=out, resume=resume, progress=False, **settings)
    return model, result


def assert_equal(x, y, where=''):
    assert type(x) is type(y), where
    if isinstance(x, dict):
        assert list(x) == list(y), where
        for key in x:
            assert_equal(x[key], y[key], f'{where}.{key}')
    elif isinstance(x, (list, tuple)):
        assert len(x) == len(y), where
        for i, pair in enumerate(zip(x, y)):
            assert_equal(*pair, f'{where}[{i}]')
    elif isinstance(x, torch.Tensor):
        assert torch.equal(x, y), where
    else:
        assert x == y or (x != x and y != y), where  # equal, or NaN both


def read_history(folder):
    rows = [json.loads(line) for line in (folder / 'history.jsonl').read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != 'seconds'} for row in rows]


def assert_same_run(a, b):
    for name in ('last.pt', 'best.pt'):
        assert_equal(load_checkpoint(a / name), load_checkpoint(b / name), name)
    assert read_history(a) == read_history(b)
    assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir())


@pytest.mark.parametrize('redundancy', ['mine', 'club', None])
def test_resume_after_any_epoch(data, tmp_path, redundancy):
    mrdib = {'redundancy': redundancy}
    reference, unbroken = train(data, tmp_path / 'a', 4, mrdib=mrdib)
    for n in (1, 3):
        out = tmp_path / f'b{n}'
        train(data, out, n, mrdib=mrdib)
        model, result = train(data, out, 4, mrdib=mrdib, resume=True)
        assert_same_run(tmp_path / 'a', out)
        assert_equal(dict(model.state_dict()), dict(reference.state_dict()))
        assert result[:2] == unbroken[:2] and len(result.history) == 4


@pytest.mark.parametrize(
    'kwargs',
    [
        {'cls': VBPR},
        {'cls': FREEDOM},  # draws a graph in each epoch
        {'cls': MGCN, 'critic_steps': 1},  # whose learning rate decays
        {'critic_steps': 2},
        {'mrdib': {'control': 'noise'}},
        {'mrdib': {'bottleneck': 'complete'}},
        {'mrdib': {'redundancy': None, 'decoder': 'nce', 'num_negatives': 8}},
        {'cls': partial(MultimodalLightGCN, task='ssm', num_negatives=8)},
        {'modality_dropout': 0.4, 'critic_steps': 1},
        {'patience': 1},
    ],
    ids=[
        'vbpr',
        'freedom',
        'mgcn',
        'critic_steps',
        'noise',
        'complete',
        'nce',
        'ssm',
        'dropout',
        'patience',
    ],
)
def test_resume_epoch_by_epoch(data, tmp_path, kwargs):
    if kwargs.get('mrdib', {}).get('control'):
        kwargs = {**kwargs, 'weights': {}}
    train(data, tmp_path / 'a', 4, **kwargs)
    for n in range(1, 5):
        train(data, tmp_path / 'b', n, resume=True, **kwargs)
    assert_same_run(tmp_path / 'a', tmp_path / 'b')


def test_a_run_of_an_older_version(data, tmp_path):
    """Which knew neither the task nor the decoder: it did as the defaults do."""
    train(data, tmp_path / 'a', 3)
    train(data, tmp_path / 'b', 2)
    for name in ('best.pt', 'last.pt'):
        state = load_checkpoint(tmp_path / 'b' / name)
        config = state['identity']['config']
        for known, names in (
            (config, ('task', 'num_negatives')),
            (config['mrdib'], ('decoder', 'num_negatives')),
        ):
            for key in names:
                del known[key]
        save_checkpoint(tmp_path / 'b' / name, state)
    model, _ = load_model(tmp_path / 'b' / 'best.pt', data)
    assert model.task == 'bpr' and model.mrdib.decoder == 'bpr'
    train(data, tmp_path / 'b', 3, resume=True)
    assert_same_run(tmp_path / 'a', tmp_path / 'b')
    with pytest.raises(CheckpointError, match=r"config.mrdib.decoder 'bpr' but .* 'nce'"):
        train(data, tmp_path / 'b', 4, mrdib={'decoder': 'nce'}, resume=True)


def test_resume_a_finished_run(data, tmp_path):
    first, a = train(data, tmp_path, 4)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    second, b = train(data, tmp_path, 4, resume=True)
    assert_equal(dict(first.state_dict()), dict(second.state_dict()))
    assert a == b and not second.training
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_resume_an_early_stopped_run(data, tmp_path):
    _, a = train(data, tmp_path, 200, patience=0)
    assert len(a.history) < 200
    _, b = train(data, tmp_path, 200, patience=0, resume=True)
    assert a == b


def test_resume_without_a_run_starts_one(data, tmp_path):
    _, result = train(data, tmp_path / 'run', 2, resume=True)
    assert len(result.history) == 2


def test_resume_where_best_lags_behind_last(data, tmp_path):
    """Killed between the two checkpoints of an epoch."""
    del data['user', 'val', 'item']  # so that every epoch is the best
    train(data, tmp_path, 1)
    best = (tmp_path / 'best.pt').read_bytes()
    train(data, tmp_path, 2, resume=True)
    assert load_checkpoint(tmp_path / 'last.pt')['best_epoch'] == 2
    wanted = load_checkpoint(tmp_path / 'best.pt')
    (tmp_path / 'best.pt').write_bytes(best)
    model, result = train(data, tmp_path, 2, resume=True)
    assert result.best_epoch == 2
    assert_equal(dict(model.state_dict()), dict(wanted['model']))
    assert_equal(load_checkpoint(tmp_path / 'best.pt'), wanted)


def test_resume_with_a_failing_disk(data, tmp_path, monkeypatch):
    train(data, tmp_path / 'a', 4)
    train(data, tmp_path / 'b', 2)
    before = (tmp_path / 'b' / 'last.pt').read_bytes()

    def full(state, name):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', full)
        with pytest.raises(OSError, match='No space left'):
            train(data, tmp_path / 'b', 4, resume=True)
    assert (tmp_path / 'b' / 'last.pt').read_bytes() == before
    train(data, tmp_path / 'b', 4, resume=True)
    assert_same_run(tmp_path / 'a', tmp_path / 'b')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'lr': 0.01}, 'settings.lr 0.02 but this run has 0.01'),
        ({'batch_size': 32}, 'settings.batch_size 64 but this run has 32'),
        ({'seed': 1}, 'settings.seed 0 but this run has 1'),
        ({'monitor': 'ndcg@20'}, 'settings.monitor'),
        ({'patience': 3}, 'settings.patience'),
        ({'critic_steps': 1}, 'settings.critic_steps'),
        ({'modality_dropout': 0.1}, 'settings.modality_dropout'),
        ({'weights': {}}, 'settings.weights.bottleneck 0.001 but this run has 0.0'),
        ({'channels': 16}, 'config.channels 8 but this run has 16'),
        ({'mrdib': {'redundancy': 'nwj'}}, "config.mrdib.redundancy 'mine'"),
        ({'cls': VBPR}, "model 'multimodal_lightgcn' but this run has 'vbpr'"),
    ],
)
def test_resume_refuses_another_run(data, tmp_path, change, message):
    train(data, tmp_path, 1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=message):
        train(data, tmp_path, 2, resume=True, **change)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_resume_refuses_other_data(data, tmp_path):
    train(data, tmp_path, 1)
    data['item'].x_image[0, 0] += 1
    with pytest.raises(CheckpointError, match='made with data_hash'):
        train(data, tmp_path, 2, resume=True)


def test_resume_refuses_another_precision(data, tmp_path):
    train(data, tmp_path, 1)
    before = (tmp_path / 'last.pt').read_bytes()
    model = MultimodalLightGCN(data, channels=8, mrdib={'redundancy': 'mine'}).double()
    settings = {'batch_size': 64, 'lr': 0.02, 'weights': WEIGHTS, 'patience': 100}
    message = r'of torch.float32, but .* torch.float64; cast the model by `.to\(torch.float32\)`'
    with pytest.raises(CheckpointError, match=message):
        fit(model, data, epochs=2, out=tmp_path, resume=True, progress=False, **settings)
    assert (tmp_path / 'last.pt').read_bytes() == before


@pytest.mark.parametrize('name', ['last.pt', 'best.pt'])
def test_resume_refuses_a_torn_file(data, tmp_path, name):
    train(data, tmp_path, 2)
    if name == 'best.pt':  # needed only where an earlier epoch was the best
        state = load_checkpoint(tmp_path / 'last.pt')
        del state['version']
        torch.save({'version': 1, **state, 'best_epoch': 1}, tmp_path / 'last.pt')
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=rf'{name}.*is torn'):
        train(data, tmp_path, 3, resume=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_resume_refuses_best_in_the_place_of_last(data, tmp_path):
    train(data, tmp_path, 1)
    (tmp_path / 'best.pt').replace(tmp_path / 'last.pt')
    with pytest.raises(CheckpointError, match=r"lacks \['num_bad', 'optimizer'\]"):
        train(data, tmp_path, 2, resume=True)


def test_resume_refuses_a_lost_history(data, tmp_path):
    train(data, tmp_path, 2)
    (tmp_path / 'history.jsonl').unlink()
    with pytest.raises(CheckpointError, match='holds 0 of the 2 epochs'):
        train(data, tmp_path, 3, resume=True)


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from killing import die_at_call, fork
from mrdib_pyg.datasets import Planted
from mrdib_pyg.nn.models import MultimodalLightGCN
from torch_geometric import seed_everything
from mrdib_pyg.training import fit

torch.set_num_threads(1)
how, folder = sys.argv[1], Path(sys.argv[2])
data = Planted(num_users=40, num_items=50, num_interactions=10)[0]

def train(out):
    seed_everything(0)
    model = MultimodalLightGCN(data, channels=8, mrdib={})
    weights = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}
    fit(model, data, epochs=6, batch_size=64, lr=0.02, weights=weights, patience=100, out=out,
        resume=True, progress=False, config={'dataset': 'planted'})

def attempt(prepare):
    def work():
        prepare()
        train(folder / 'killed')
    return fork(work)

WRITING = ((os, 'fsync'), (os, 'replace'), (torch, 'save'))
train(folder / 'unbroken')
random.seed(0)
num_killed, leftovers = 0, 0
while True:
    # Later attempts live longer, so that the run comes to its end.
    if how == 'random':
        pid = attempt(lambda: None)
        time.sleep(random.uniform(0.0, 0.01 * (1 + num_killed)))
        os.kill(pid, signal.SIGKILL)
    else:
        pid = attempt(lambda: die_at_call(num_killed + 1, *WRITING))
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        break
    num_killed += 1
    if (folder / 'killed').exists():
        leftovers += any(p.suffix == '.tmp' for p in (folder / 'killed').iterdir())
print(os.waitstatus_to_exitcode(status), num_killed, leftovers)
"""


@pytest.mark.parametrize('how', ['random', 'write'])
def test_kill_at_any_moment(tmp_path, how):
    out = subprocess.run(
        [sys.executable, '-c', KILLER, how, str(tmp_path)],
        capture_output=True, text=True, env=ENV, timeout=300,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    code, num_killed, leftovers = map(int, out.stdout.split())
    assert code == 0, out.stderr
    assert num_killed >= 3
    if how == 'write':  # it did die between the two steps of a write
        assert num_killed > 15 and leftovers > 3
    assert len(read_history(tmp_path / 'killed')) == 6
    assert_same_run(tmp_path / 'unbroken', tmp_path / 'killed')


@pytest.mark.slow
def test_kill_the_command(tmp_path):
    def command(out):
        return [
            sys.executable, '-m', 'mrdib_pyg.cli', 'train', '--dataset', 'planted', '--mrdib',
            '--epochs', '8', '--out', str(out), '--resume', '--quiet',
        ]  # fmt: skip

    def num_epochs():
        path = tmp_path / 'b' / 'history.jsonl'
        return len(path.read_text().splitlines()) if path.exists() else 0

    subprocess.run(command(tmp_path / 'a'), check=True, env=ENV, stdout=subprocess.DEVNULL)
    for kill_at in (1, 3, None):  # by epochs and not by seconds: machines differ
        process = subprocess.Popen(command(tmp_path / 'b'), env=ENV, stdout=subprocess.DEVNULL)
        while kill_at is not None and process.poll() is None and num_epochs() < kill_at:
            time.sleep(0.01)
        if kill_at is not None:
            process.send_signal(signal.SIGKILL)
        assert process.wait() == (0 if kill_at is None else -signal.SIGKILL)
    assert_same_run(tmp_path / 'a', tmp_path / 'b')


def test_a_checkpoint_of_another_device():
    """Where steps can be captured is the device's matter, not the run's."""
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    old = torch.optim.Adam([param], lr=1e-3, fused=True)
    old.step()
    state = old.state_dict()
    state['param_groups'][0]['capturable'] = True
    new = torch.optim.Adam([param], lr=1e-3, fused=True)
    _load_optimizer(new, state)
    assert new.param_groups[0]['capturable'] is False
    new.step()
