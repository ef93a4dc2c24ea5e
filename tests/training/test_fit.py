"""Training epoch by epoch, early stopping, and what is refused."""

import importlib
import json
import math

import numpy as np
import pytest
import torch
from torch_geometric import seed_everything

from mrdib_pyg.datasets import Planted
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn import MRdIB
from mrdib_pyg.nn.models import VBPR, LightGCN, MultimodalLightGCN
from mrdib_pyg.nn.mutual_information import MINE
from mrdib_pyg.training import CheckpointError, fit
from mrdib_pyg.training._fit import check_seed, epoch_generator
from mrdib_pyg.training.checkpoint import load_checkpoint

# The function hides the module of the same name.
fit_module = importlib.import_module('mrdib_pyg.training._fit')

WEIGHTS = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}
TERMS = ['task', 'l2', 'bottleneck', 'redundant', 'unique', 'synergistic']


def build(data, cls=MultimodalLightGCN, seed=0, **kwargs):
    seed_everything(seed)
    kwargs.setdefault('mrdib', {})
    return cls(data, channels=8, **kwargs)


def train(data, seed=0, model=None, **kwargs):
    model = build(data, seed=seed) if model is None else model
    settings = {'epochs': 3, 'batch_size': 64, 'lr': 0.01, 'weights': WEIGHTS, 'patience': 100}
    result = fit(model, data, seed=seed, progress=False, **{**settings, **kwargs})
    return model, result


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(first, second):
    assert list(first) == list(second)
    return all(torch.equal(first[name], second[name]) for name in first)


def without_seconds(history):
    return [{key: value for key, value in row.items() if key != 'seconds'} for row in history]


def script_validation(monkeypatch, values):
    """Makes the validation metric of epoch n the n-th of `values`."""
    values = iter(values)
    monkeypatch.setattr(fit_module, 'evaluate', lambda *args, **kwargs: {'recall@20': next(values)})


@pytest.mark.parametrize('redundancy', ['mine', 'nwj', 'infonce', 'club', 'gaussian', None])
def test_same_seed_same_bits(data, redundancy):
    runs = []
    for seed in (0, 0, 1):
        model = build(data, mrdib={'redundancy': redundancy}, seed=seed)
        runs.append(train(data, seed=seed, model=model))
    (first, a), (second, b), (third, _) = runs
    assert equal(state(first), state(second))
    assert without_seconds(a.history) == without_seconds(b.history)
    assert a[:2] == b[:2]
    assert not equal(state(first), state(third))


def test_seed_decides_over_the_draws_alone(data):
    initial = state(build(data))
    ends = []
    for seed in (0, 1):
        model = build(data)
        assert equal(state(model), initial)
        train(data, seed=seed, model=model)
        ends.append(state(model))
    assert not equal(*ends)


def test_random_state_of_the_caller_is_left(data):
    model = build(data)
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train(data, model=model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    first = state(model)
    torch.manual_seed(6)  # and does not enter
    model = build(data)
    torch.manual_seed(7)
    train(data, model=model)
    assert equal(state(model), first)


@pytest.mark.parametrize('mrdib', [None, {}])
def test_training_learns(mrdib):
    data = Planted(num_users=300, num_items=80, num_interactions=15, noise=0.5, case='v')[0]
    model = build(data, id_channel=False, num_layers=0, mrdib=mrdib)
    before = evaluate(model, data, 'test', k=10)['ndcg@10']
    weights = {} if mrdib is None else WEIGHTS
    _, result = train(data, model=model, weights=weights, epochs=12, batch_size=256)
    assert result.history[-1]['train']['task'] < 0.6 * result.history[0]['train']['task']
    assert evaluate(model, data, 'test', k=10)['ndcg@10'] > 2 * before


def test_history_holds_every_term(data, tmp_path):
    model, result = train(data, out=tmp_path / 'run')
    assert [row['epoch'] for row in result.history] == [1, 2, 3]
    for row in result.history:
        assert list(row['train']) == ['loss', *TERMS]
        assert list(row['val']) == ['recall@20', 'ndcg@20', 'precision@20', 'map@20']
        assert all(math.isfinite(value) for value in row['train'].values())
        assert row['seconds'] > 0
        weights = {**model.loss_weights, **WEIGHTS}
        total = sum(weights.get(name, 0.0) * row['train'][name] for name in TERMS)
        assert row['train']['loss'] == pytest.approx(total, rel=1e-5)
    lines = (tmp_path / 'run' / 'history.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history


def test_terms_are_means_over_triplets(data):
    """Unequal batches: 240 edges in batches of 100, 100 and 40."""
    losses = []

    class Recording(VBPR):
        def loss(self, batch):
            terms = super().loss(batch)
            losses.append((batch.src_index.numel(), float(terms['task'].detach())))
            return terms

    _, result = train(data, model=build(data, Recording), epochs=1, batch_size=100)
    assert [n for n, _ in losses] == [100, 100, 40]
    mean = sum(n * value for n, value in losses) / 240
    assert result.history[0]['train']['task'] == pytest.approx(mean, rel=1e-6)


def test_triplets(data):
    """Every training edge once an epoch, in a new order, with negatives outside the user's edges
    but among the items of training edges."""
    batches = []

    class Recording(VBPR):
        def loss(self, batch):
            batches.append(torch.stack(batch))
            return super().loss(batch)

    train(data, model=build(data, Recording), epochs=2, batch_size=100)
    edge_index = data['user', 'rates', 'item'].edge_index
    epochs = torch.cat(batches[:3], dim=1), torch.cat(batches[3:], dim=1)
    edges = set(map(tuple, edge_index.t().tolist()))
    for src, pos, neg in epochs:
        assert set(zip(src.tolist(), pos.tolist())) == edges and src.numel() == len(edges)
        assert edges.isdisjoint(zip(src.tolist(), neg.tolist()))
        assert set(neg.tolist()) <= set(edge_index[1].tolist())
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize(
    ('values', 'patience', 'num_epochs', 'best_epoch'),
    [
        ([0.1, 0.2, 0.2, 0.2, 0.2, 0.9], 2, 5, 2),  # equal is no improvement; stops after 3 of them
        ([0.1, 0.2, 0.2, 0.2, 0.3, 0.2, 0.2, 0.2, 0.9], 2, 8, 5),  # the count starts anew
        ([0.5, 0.4, 0.9], 0, 2, 1),
        ([0.1, 0.1 + 1e-9, 0.1 + 2e-9, 0.1, 0.1, 0.9], 1, 5, 3),  # not rounded
        ([0.0, 0.0, 0.0, 0.0], 1, 3, 1),  # 0 in the first epoch is better than nothing
    ],
)
def test_early_stopping(data, monkeypatch, values, patience, num_epochs, best_epoch):
    states = []
    script_validation(monkeypatch, values)
    finish = fit_module.RunState.finish_epoch

    def finish_epoch(self, *args):
        states.append(state(self.model))
        finish(self, *args)

    monkeypatch.setattr(fit_module.RunState, 'finish_epoch', finish_epoch)
    model, result = train(data, epochs=len(values), patience=patience)
    assert len(result.history) == num_epochs
    assert result.best_epoch == best_epoch
    assert result.best_metric == values[best_epoch - 1]
    assert equal(state(model), states[best_epoch - 1])
    assert not equal(states[best_epoch - 1], states[num_epochs - 1])
    assert not model.training


def test_monitor(data):
    _, result = train(data, monitor='ndcg@7', epochs=4)
    values = [row['val']['ndcg@7'] for row in result.history]
    assert result.best_metric == max(values)
    assert result.best_epoch == 1 + values.index(max(values))


@pytest.mark.parametrize('how', ['empty', 'absent'])
def test_no_validation_edges(data, tmp_path, how):
    if how == 'empty':
        data['user', 'val', 'item'].edge_label_index = torch.empty(2, 0, dtype=torch.long)
    else:
        del data['user', 'val', 'item']
    edge_types = list(data.edge_types)
    model, result = train(data, patience=0, out=tmp_path, monitor='recall@999')
    assert list(data.edge_types) == edge_types
    assert result.best_epoch == len(result.history) == 3  # the last is the best there is
    assert math.isnan(result.best_metric)
    assert all('val' not in row for row in result.history)
    assert equal(load_checkpoint(tmp_path / 'best.pt')['model'], state(model))
    again, more = train(data, patience=0, out=tmp_path, monitor='recall@999', epochs=5, resume=True)
    unbroken, _ = train(data, patience=0, monitor='recall@999', epochs=5)
    assert len(more.history) == 5 and equal(state(again), state(unbroken))


def test_checkpoints(data, tmp_path):
    model, result = train(data, out=tmp_path / 'a' / 'b', epochs=6, config={'dataset': 'x'})
    out = tmp_path / 'a' / 'b'
    assert sorted(p.name for p in out.iterdir()) == [
        'best.pt', 'config.json', 'history.jsonl', 'last.pt',
    ]  # fmt: skip
    assert json.loads((out / 'config.json').read_text()) == {'dataset': 'x'}
    best, last = (torch.load(out / name, weights_only=True) for name in ('best.pt', 'last.pt'))
    assert equal(best['model'], state(model))
    assert best['epoch'] == best['best_epoch'] == last['best_epoch'] == result.best_epoch
    assert last['epoch'] == 6 and last['best_metric'] == result.best_metric
    identity = last['identity']
    assert identity == best['identity'] and identity['model'] == 'multimodal_lightgcn'
    assert type(model)(data, **identity['config']).mrdib is not None
    assert identity['settings']['weights'] == {'task': 1.0, 'l2': 1e-4, **WEIGHTS}


def test_checkpoints_of_numpy_settings(data, tmp_path):
    settings = {'lr': np.float64(0.01), 'batch_size': np.int64(64), 'patience': np.int64(100)}
    train(data, out=tmp_path, weights={'unique': np.float64(0.1)}, epochs=np.int64(1), **settings)
    _, result = train(data, out=tmp_path, weights={'unique': 0.1}, epochs=2, resume=True)
    assert len(result.history) == 2


def test_critic_steps(data):
    ends, firsts = [], []
    for steps in (0, 2, 2):
        model = build(data)
        critics = state(model.mrdib.critics)
        _, result = train(data, model=model, critic_steps=steps)
        assert not equal(state(model.mrdib.critics), critics)
        ends.append(state(model))
        firsts.append(result.history[0]['train'])
    assert not equal(ends[0], ends[1]) and equal(ends[1], ends[2])


def test_modality_dropout(data):
    ends = []
    for ratio in (0.0, 0.5, 0.5):
        model = build(data)
        before = torch.random.get_rng_state()
        train(data, model=model, modality_dropout=ratio)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert model.present() is None  # nothing is dropped afterwards
        ends.append(state(model))
    assert not equal(ends[0], ends[1]) and equal(ends[1], ends[2])
    with pytest.raises(ValueError, match="'modality_dropout' must be 0 for LightGCN.*got 0.5"):
        fit(LightGCN(data, channels=8), data, modality_dropout=0.5, progress=False)


def test_critic_steps_move_nothing_but_critics(data):
    model = build(data)
    run = fit_module.RunState(
        model, data, {'lr': 0.01, 'critic_steps': 1, 'weights': {}}, None
    )  # fmt: skip
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    edge_index = data['user', 'rates', 'item'].edge_index
    batch = fit_module.Triplets(*edge_index[:, :32], edge_index[1, 32:64])
    model.train()
    torch.manual_seed(0)
    fit_module._critic_step(run, batch)
    for name, param in model.named_parameters():
        is_critic = name.startswith('mrdib.critics')
        assert is_critic == (not torch.equal(param, before[name])), name
        assert is_critic == (param.grad is not None)


@pytest.mark.parametrize('mrdib', [None, {'redundancy': None}, {'control': 'noise'}])
def test_critic_steps_without_critics(data, mrdib):
    first, _ = train(data, model=build(data, mrdib=mrdib), weights={}, critic_steps=3)
    second, _ = train(data, model=build(data, mrdib=mrdib), weights={})
    assert equal(state(first), state(second))


def test_progress_bar(data, capfd):
    model = build(data)
    fit(model, data, epochs=1, progress=False)
    assert capfd.readouterr() == ('', '')
    fit(model, data, epochs=2)
    out, err = capfd.readouterr()
    assert out == '' and '2/2' in err and 'recall@20=' in err
    assert all(f'{name}=' in err for name in TERMS)


def test_lr_decay(data, monkeypatch):
    rates = []
    epoch = fit_module._train_epoch

    def spy(run, *args):
        optimizers = (run.optimizer, run.critic_optimizer)
        rates.append([group['lr'] for opt in optimizers for group in opt.param_groups])
        return epoch(run, *args)

    monkeypatch.setattr(fit_module, '_train_epoch', spy)
    train(data, critic_steps=1)
    assert rates == [[0.01, 0.01]] * 3
    rates.clear()
    model = build(data)
    model.lr_decay = 0.5
    train(data, model=model, critic_steps=1)
    assert rates == [[0.01, 0.01], [0.005, 0.005], [0.0025, 0.0025]]


@pytest.mark.parametrize('name', ['task', 'redundant'])
@pytest.mark.parametrize('value', [math.nan, -math.inf])
def test_loss_that_is_not_finite(data, tmp_path, name, value):
    class Broken(MultimodalLightGCN):
        epoch = 0

        def on_epoch_start(self, epoch, generator):
            self.epoch = epoch

        def loss(self, batch):
            terms = super().loss(batch)
            if self.epoch == 2:
                terms[name] = terms[name].abs() * value
            return terms

    with pytest.raises(FloatingPointError, match=f"term '{name}' became {value} in epoch 2"):
        train(data, model=build(data, Broken), out=tmp_path)
    assert load_checkpoint(tmp_path / 'last.pt')['epoch'] == 1
    assert len((tmp_path / 'history.jsonl').read_text().splitlines()) == 1


def test_parameter_that_is_not_finite(data, tmp_path):
    """One step with a finite loss, but a gradient of NaN."""

    class Broken(VBPR):
        def loss(self, batch):
            terms = super().loss(batch)
            zero = (self.bias * 0.0).abs().sum()
            return {**terms, 'task': terms['task'] + torch.sqrt(zero)}

    with pytest.raises(FloatingPointError, match="parameter 'bias' is no longer finite"):
        train(data, model=build(data, Broken), out=tmp_path, batch_size=1000)
    assert not (tmp_path / 'last.pt').exists()


def test_users_who_have_all_items(data):
    """They have no negative, and are left out of the loss alone."""
    edge_index = data['user', 'rates', 'item'].edge_index
    items = edge_index[1].unique()
    others = edge_index[:, edge_index[0] != 3]
    everything = torch.stack([torch.full_like(items, 3), items])
    edge_index = torch.cat([others, everything], dim=1)
    edge_index = edge_index[:, (edge_index[0] * 50 + edge_index[1]).argsort()]
    data['user', 'rates', 'item'].edge_index = edge_index
    users = []

    class Recording(VBPR):
        def loss(self, batch):
            assert int(batch.dst_neg_index.min()) >= 0
            users.extend(batch.src_index.tolist())
            return super().loss(batch)

    _, result = train(data, model=build(data, Recording), epochs=1)
    assert len(users) == others.size(1) and 3 not in users
    assert math.isfinite(result.history[0]['train']['loss'])


def test_only_users_who_have_all_items(data, tmp_path):
    data['user', 'rates', 'item'].edge_index = torch.tensor([[0, 0, 5, 5], [1, 2, 1, 2]])
    del data['user', 'val', 'item']
    with pytest.raises(ValueError, match='no negative to learn from'):
        train(data, out=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_on_epoch_start(data):
    class Recording(VBPR):
        def on_epoch_start(self, epoch, generator):
            assert self.training
            calls.append((epoch, float(torch.rand((), generator=generator))))

    runs = []
    for seed in (0, 0, 1):
        calls = []
        train(data, model=build(data, Recording), seed=seed)
        runs.append(calls)
    assert [epoch for epoch, _ in runs[0]] == [1, 2, 3]
    assert len({value for run in runs[1:] for _, value in run}) == 6
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'epochs': 0}, "'epochs' must be at least 1"),
        ({'batch_size': 0}, "'batch_size' must be at least 1"),
        ({'lr': 0.0}, "'lr' must be positive"),
        ({'lr': float('nan')}, "'lr' must be positive"),
        ({'lr': float('inf')}, "'lr' must be positive"),
        ({'critic_steps': -1}, "'critic_steps' must not be negative"),
        ({'patience': -1}, "'patience' must not be negative"),
        ({'modality_dropout': 1.0}, r"'modality_dropout' must lie in \[0, 1\) \(got 1.0\)"),
        ({'modality_dropout': -0.1}, "'modality_dropout' must lie in"),
        ({'modality_dropout': 0.1, 'compile': True}, "leave out 'compile'"),
        ({'seed': -1}, "'seed' must lie in"),
        ({'monitor': 'recall'}, "'monitor' must be one of recall, ndcg"),
        ({'monitor': 'auc@20'}, "'monitor' must be one of recall, ndcg"),
        ({'monitor': 'recall@0'}, "'monitor' must be one of recall, ndcg"),
        ({'monitor': 'recall@020'}, "'monitor' must be one of recall, ndcg"),
        ({'monitor': 'recall@٢'}, "'monitor' must be one of recall, ndcg"),
        ({'epochs': 1.5}, r"'epochs' must be an integer \(got 1.5\)"),
        ({'batch_size': True}, "'batch_size' must be an integer"),
        ({'patience': float('inf')}, "'patience' must be an integer"),
        ({'monitor': 'recall@-1'}, "'monitor' must be one of recall, ndcg"),
        ({'monitor': 'recall@51'}, 'there are 50 items to rank'),
        ({'weights': {'nothing': 1.0}}, "no loss term 'nothing'"),
        ({'weights': {'unique': -1.0}}, "weight 'unique' must be a number >= 0"),
    ],
)
def test_refused_settings(data, tmp_path, settings, message):
    model = build(data)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        fit(model, data, out=tmp_path / 'run', progress=False, **settings)
    assert equal(state(model), before) and not (tmp_path / 'run').exists()


def test_refused_weights_without_a_layer(data):
    for cls in (VBPR, LightGCN):
        with pytest.raises(
            ValueError, match=r"names \['redundant', 'unique'\], but the model has n"
        ):
            fit(cls(data, channels=8), data, weights={'unique': 0.1, 'redundant': 1.0})
    fit(VBPR(data, channels=8), data, epochs=1, weights={'unique': 0.0}, progress=False)


def test_edges_in_any_order_and_with_repeats(data):
    edges = data['user', 'rates', 'item'].edge_index
    model, _ = train(data)
    perm = torch.randperm(edges.size(1))
    data['user', 'rates', 'item'].edge_index = torch.cat([edges[:, perm], edges[:, :9]], dim=1)
    assert equal(state(model), state(train(data)[0]))


def test_refused_data(data, planted, tmp_path):
    other = Planted(num_users=40, num_items=50, num_interactions=10, seed=1)[0]
    with pytest.raises(ValueError, match='other training edges'):
        train(other, model=build(planted), out=tmp_path / 'run')
    data['user'].num_nodes = 41
    data['user', 'val', 'item'].edge_label_index = torch.tensor([[40], [0]])
    with pytest.raises(ValueError, match='no user with held-out edges'):
        train(data, out=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_refused_redundancy_that_cannot_be_saved(data, tmp_path):
    mrdib = MRdIB({'image': 8, 'text': 8}, redundancy=lambda *args: MINE(*args))
    with pytest.raises(ValueError, match="'redundancy' by name"):
        train(data, model=build(data, mrdib=mrdib), out=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_resume_needs_a_folder(data):
    with pytest.raises(ValueError, match="'resume' needs 'out'"):
        train(data, resume=True)


def test_folder_of_another_run_is_left(data, tmp_path):
    train(data, out=tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match='holds a run already'):
        train(data, out=tmp_path)
    with pytest.raises(CheckpointError, match='but this run has'):
        train(data, out=tmp_path, resume=True, seed=1, config={'seed': 1})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_embeddings_that_overflow(data):
    model = build(data)

    def overflow(*args, **kwargs):
        with torch.no_grad():
            for param in model.convs.parameters():
                param.fill_(3e38)
        return {name: 0.0 for name in TERMS}

    module = importlib.import_module('mrdib_pyg.training._fit')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, '_train_epoch', lambda run, *args: overflow())
        with pytest.raises(FloatingPointError, match='embeddings are no longer finite'):
            fit(model, data, epochs=1, progress=False)


def test_generators_of_other_devices_are_left(data, monkeypatch):
    called = []
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', called.append)
    model = build(data)  # seeds all of them, as the caller asks for
    called.clear()
    fit(model, data, epochs=2, progress=False)
    assert called == []


@pytest.mark.parametrize('seed', [-1, 2**32, 0.5, True])
def test_seeds_that_are_refused(seed):
    with pytest.raises(ValueError, match=f"'seed' must .*got {seed}"):
        check_seed(seed)


def test_epoch_generator():
    keys = [(s, e, k) for s in (0, 1, 2**32 - 1) for e in (1, 2, 3, 10**6) for k in range(4)]
    draws = {key: tuple(torch.rand(4, generator=generator(*key)).tolist()) for key in keys}
    assert len(set(draws.values())) == len(keys)  # neighbors share nothing
    for key in keys:
        assert tuple(torch.rand(4, generator=generator(*key)).tolist()) == draws[key]


def generator(seed, epoch, stream):
    return epoch_generator(seed, epoch, stream=stream)


def test_epoch_generator_leaves_the_global_state():
    before = torch.get_rng_state()
    epoch_generator(0, 1)
    assert torch.equal(torch.get_rng_state(), before)
