"""Two and four processes compute what one computes: losses, gradients, steps, files, metrics."""

import copy
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mrdib_pyg import distributed
from mrdib_pyg.datasets import Planted
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import Triplets, find_model
from mrdib_pyg.nn.models._drop_modalities import drop_modalities
from mrdib_pyg.serving import recommend
from mrdib_pyg.training import fit, load_model
from mrdib_pyg.training.step import LossWeights, make_adam
from tests.processes import spawn

SPLIT = ('multimodal_lightgcn', 'lightgcn', 'vbpr', 'freedom', 'bm3')
LAYERS = {
    'plain': None,
    'mine': {'redundancy': 'mine'},
    'gaussian': {'redundancy': 'gaussian'},
    'none': {'redundancy': None},
}
WEIGHTS = {'bottleneck': 0.1, 'redundant': 0.2, 'unique': 0.3}

#: Cases of equality: a model, its settings, and the layer. Ten channels are not divisible by four.
CASES = {
    f'{model}-{layer}': (model, {'channels': 10}, LAYERS[layer])
    for model in SPLIT
    for layer in LAYERS
    if model != 'lightgcn' or layer == 'plain'
}
MORE = {
    'uneven': ('multimodal_lightgcn', {'channels': 5}, LAYERS['mine']),
    'encoder': ('multimodal_lightgcn', {'channels': 7, 'num_encoder_layers': 2}, LAYERS['mine']),
    'attention': ('multimodal_lightgcn', {'channels': 6, 'fusion': 'attention'}, LAYERS['mine']),
    'mlp': ('multimodal_lightgcn', {'channels': 6, 'fusion': 'mlp'}, LAYERS['none']),
    'experts': (
        'multimodal_lightgcn', {'channels': 6, 'fusion': 'product_of_experts'}, LAYERS['none']
    ),
    'no-graph': ('multimodal_lightgcn', {'channels': 6, 'num_layers': 0}, LAYERS['mine']),
    'no-ids': ('multimodal_lightgcn', {'channels': 6, 'id_channel': False}, LAYERS['none']),
    'noise': ('multimodal_lightgcn', {'channels': 6}, {'control': 'noise', 'noise_scale': 0.1}),
    'penalty': ('vbpr', {'channels': 6}, {'control': 'l2'}),
    'projection': ('freedom', {'channels': 6, 'slot': 'projection'}, LAYERS['mine']),
    'matrix': ('lightgcn', {'channels': 6, 'num_layers': 0}, None),
    'trained-features': ('bm3', {'channels': 6, 'trainable_features': True}, LAYERS['mine']),
}  # fmt: skip
FOUR = ('multimodal_lightgcn-mine', 'uneven')  # the rest is slow


def make_data():
    data = Planted(num_users=40, num_items=50, num_interactions=10)[0]
    for name in list(data['item'].keys()):
        if name.startswith('x_'):
            data['item'][name] = data['item'][name].double()
    return data


def make_model(data, name, settings, layer):
    torch.manual_seed(0)
    mrdib = {} if layer is None else {'mrdib': layer}
    return find_model(name)(data, **settings, **mrdib)


def take_steps(model, data, num_steps=10, dropout=0.0):
    """Returns the first loss, its gradients in whole, and the parameters after some steps."""
    weights = {} if model.mrdib is None or 'control' in model.mrdib.config else WEIGHTS
    weighting = LossWeights(model.loss_weights, weights)
    optimizer = make_adam(list(model.parameters()), 0.01)
    generator = torch.Generator().manual_seed(1)
    edges, first = model.train_edge_index, None
    torch.manual_seed(2)
    model.train()
    model.on_epoch_start(1, torch.Generator().manual_seed(3))
    for step in range(num_steps):
        size = 64 if step != num_steps - 1 else 9  # the last batch of an epoch is short
        index = torch.randint(edges.size(1), (size,), generator=generator)
        negative = torch.randint(model.num_items, (size,), generator=generator)
        with drop_modalities(model, dropout):
            loss = weighting(model.loss(Triplets(*edges[:, index], negative)))
        optimizer.zero_grad()
        loss.backward()
        if first is None:
            first = loss.item(), {name: whole_gradient(model, name) for name in gradients(model)}
        optimizer.step()
    return first[0], first[1], {name: x.clone() for name, x in model.state_dict().items()}


def gradients(model):
    return [name for name, p in model.named_parameters() if p.grad is not None]


def whole_gradient(model, name):
    module = model.get_submodule(name.rpartition('.')[0])
    grad = model.get_parameter(name).grad.clone()
    if model.columns is None or not isinstance(module, nn.Embedding):
        return grad
    return model.columns.all_columns(grad, module.embedding_dim)


def furthest(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def compare_cases(path, names):
    """Writes, for each case, how far several processes are from one."""
    data, out = make_data(), {}
    missing = make_data()
    for i, name in enumerate(sorted(k[2:] for k in data['item'].keys() if k.startswith('x_'))):
        missing['item'][f'has_{name}'] = torch.arange(50) % 3 != i
    with distributed.processes() as mesh:
        for name in names:
            model, settings, layer = {**CASES, **MORE, **VARIANTS}[name]
            graph = missing if name == 'missing' else data
            dropout = 0.3 if name == 'dropout' else 0.0
            split = make_model(graph, model, settings, layer)
            distributed.shard(split, mesh)
            split.columns.num_bytes = 0
            loss, grads, state = take_steps(split, graph, dropout=dropout)
            distributed.check_repeated(split)
            if not distributed.is_first(mesh):
                continue
            one = take_steps(make_model(graph, model, settings, layer), graph, dropout=dropout)
            moved = furthest(one[2], make_model(graph, model, settings, layer).state_dict())
            out[name] = {
                'loss': abs(loss - one[0]) / abs(one[0]),
                'gradient': furthest(grads, one[1]),
                'steps': furthest(state, one[2]),
                'moved': moved,
            }
        if distributed.is_first(mesh):
            torch.save(out, path)


VARIANTS = {
    'missing': ('multimodal_lightgcn', {'channels': 6}, LAYERS['mine']),
    'dropout': ('multimodal_lightgcn', {'channels': 6}, LAYERS['mine']),
}


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    path = tmp_path_factory.mktemp('two') / 'distances.pt'
    spawn(compare_cases, 2, path, [*CASES, *MORE, *VARIANTS])
    return torch.load(path)


def check_distances(distances):
    assert distances['loss'] <= 1e-12
    assert distances['gradient'] <= 1e-10
    assert distances['steps'] <= 1e-8
    assert distances['moved'] > 1e-3  # else they would be equal by standing still


@pytest.mark.parametrize('name', [*CASES, *MORE, *VARIANTS])
def test_two_processes_equal_one(two, name):
    check_distances(two[name])


@pytest.mark.parametrize(
    'names', [FOUR, pytest.param([*CASES, *MORE, *VARIANTS], marks=pytest.mark.slow)]
)
def test_four_processes_equal_one(tmp_path, names):
    spawn(compare_cases, 4, tmp_path / 'distances.pt', names)
    for distances in torch.load(tmp_path / 'distances.pt').values():
        check_distances(distances)


# -- fit, files, evaluation -------------------------------------------------------------------

FIT = {'epochs': 4, 'batch_size': 50, 'lr': 0.01, 'seed': 3, 'progress': False, 'patience': 4,
       'weights': WEIGHTS, 'critic_steps': 1, 'modality_dropout': 0.1}  # fmt: skip


def new_model(data):
    return make_model(data, 'multimodal_lightgcn', {'channels': 5}, LAYERS['mine'])


def hash_of(state):
    digest = hashlib.sha256()
    for name, x in state.items():
        digest.update(name.encode() + x.contiguous().numpy().tobytes())
    return digest.hexdigest()


def fit_by_two(folder):
    data, out = make_data(), {}
    with distributed.processes() as mesh:
        for name in ('a', 'b'):
            model = new_model(data)
            result = fit(model, data, out=folder / name, mesh=mesh, **FIT)
            out[f'hash_{name}'] = hash_of(model.state_dict())
        out['history'] = [(row['train'], row['val']) for row in result.history]
        out['best_epoch'] = result.best_epoch
        out['parameters'] = {name: p.numel() for name, p in model.named_parameters()}
        out['metrics'] = evaluate(model, data, 'test', k=[5, 20], mesh=mesh, per_user=True)
        out['blocks'] = list(recommend(model, k=7, batch_size=9, mesh=mesh))
        fit(new_model(data), data, out=folder / 'half', mesh=mesh, **{**FIT, 'epochs': 2})
        model = new_model(data)
        fit(model, data, out=folder / 'one', mesh=mesh, resume=True, **FIT)
        out['resumed'] = model.state_dict()
        without = new_model(data)
        fit(without, data, mesh=mesh, **FIT)  # whose best parameters are in memory
        out['hash_without'] = hash_of(without.state_dict())
    torch.save(out, folder / f'{os.environ["RANK"]}.pt')


@pytest.fixture(scope='module')
def fitted(tmp_path_factory):
    """Trainings of two processes and of one, unbroken and resumed by the other number."""
    folder = tmp_path_factory.mktemp('fit')
    torch.set_default_dtype(torch.float64)
    try:
        data = make_data()
        fit(new_model(data), data, out=folder / 'one', **{**FIT, 'epochs': 2})
        spawn(fit_by_two, 2, folder)
        one = new_model(data)
        history = fit(one, data, **FIT).history
        resumed = new_model(data)
        fit(resumed, data, out=folder / 'half', resume=True, **FIT)
        loaded, _ = load_model(folder / 'a' / 'best.pt', data)
        yield {
            'data': data, 'one': one, 'history': history, 'resumed': resumed, 'loaded': loaded,
            'ranks': [torch.load(folder / f'{rank}.pt', weights_only=False) for rank in (0, 1)],
            'folder': folder,
        }  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)


def test_fit_equals_that_of_one_process(fitted):
    ours = fitted['ranks'][0]
    for row, (train, val) in zip(fitted['history'], ours['history'], strict=True):
        assert train == pytest.approx(row['train'], rel=1e-8)
        assert val == pytest.approx(row['val'], rel=1e-8)
    assert furthest(fitted['loaded'].state_dict(), fitted['one'].state_dict()) <= 1e-8


def test_all_processes_have_the_same_result(fitted):
    first, second = fitted['ranks']
    for name in ('hash_a', 'hash_b', 'history', 'best_epoch', 'hash_without'):
        assert first[name] == second[name]


def test_two_runs_of_the_same_processes_have_the_same_bits(fitted):
    ours = fitted['ranks'][0]
    assert ours['hash_a'] == ours['hash_b'] == ours['hash_without']


def test_checkpoints_hold_the_whole_model(fitted):
    assert hash_of(fitted['loaded'].state_dict()) == fitted['ranks'][0]['hash_a']


def test_one_process_resumes_a_run_of_two(fitted):
    assert furthest(fitted['resumed'].state_dict(), fitted['one'].state_dict()) <= 1e-8


def test_two_processes_resume_a_run_of_one(fitted):
    assert furthest(fitted['ranks'][1]['resumed'], fitted['one'].state_dict()) <= 1e-8


def test_a_process_holds_its_columns_of_every_table(fitted):
    widths = (3, 2)  # of five channels
    for rank, width in zip(fitted['ranks'], widths):
        sizes = rank['parameters']
        assert sizes['user_emb.weight'] == 40 * width
        assert sizes['item_emb.weight'] == 50 * width


def test_evaluation_of_several_processes_has_the_same_bits(fitted):
    expected = evaluate(fitted['loaded'], fitted['data'], 'test', k=[5, 20], per_user=True)
    for rank in fitted['ranks']:
        assert rank['metrics'].keys() == expected.keys()
        for name, value in expected.items():
            assert rank['metrics'][name].dtype == value.dtype
            assert torch.equal(rank['metrics'][name], value)


def test_recommendations_of_several_processes_have_the_same_bits(fitted):
    expected = list(recommend(fitted['loaded'], k=7, batch_size=9))
    for rank in fitted['ranks']:
        for ours, theirs in zip(rank['blocks'], expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


# -- what is refused --------------------------------------------------------------------------


def raise_here():
    raise ValueError('of the first process')


def refuse(folder):
    data = make_data()
    with distributed.processes() as mesh:
        rank = mesh.get_local_rank()
        with pytest.raises(ValueError, match=r"'channels'.* 2 \(got 1"):
            fit(make_model(data, 'lightgcn', {'channels': 1}, None), data, mesh=mesh,
                out=folder / 'a')  # fmt: skip
        for name in ('mmgcn', 'dualgnn', 'mgcn', 'soil'):
            with pytest.raises(ValueError, match='splits_channels'):
                distributed.shard(make_model(data, name, {}, None), mesh)
        with pytest.raises(RuntimeError, match="'mesh' is None"):
            fit(new_model(data), data, out=folder / 'a')
        with pytest.raises(ValueError, match=r"'compile'.*2 processes"):
            fit(new_model(data), data, out=folder / 'a', mesh=mesh, compile=True)
        with pytest.raises(RuntimeError, match="DistributedDataParallel.*'mesh'"):
            DistributedDataParallel(new_model(data))
        with pytest.raises(RuntimeError, match='^.user_emb.weight. of LightGCN differs'):
            torch.manual_seed(rank)
            distributed.shard(find_model('lightgcn')(data), mesh)
        assert not (folder / 'a').exists()

        model = new_model(data)
        distributed.shard(model, mesh)
        with pytest.raises(ValueError, match='split by channels already'):
            distributed.shard(model, mesh)
        with torch.no_grad():
            model.convs['image' if 'image' in model.convs else model.modalities[0]].lin.bias += rank
        with pytest.raises(RuntimeError, match=r'lin\.bias. of MultimodalLightGCN differs'):
            distributed.check_repeated(model)
        state = {**model.state_dict(), 'user_emb.weight': torch.zeros(40, 3)}
        with pytest.raises(RuntimeError, match='user_emb.weight'):
            model.load_state_dict(state)
        with pytest.raises(ValueError, match='of the first process'):
            distributed.first(raise_here, mesh)

        bad = new_model(data)
        with torch.no_grad():
            bad.user_emb.weight[0, -1] = torch.inf  # in the block of the second process
        with pytest.raises(FloatingPointError):
            fit(bad, data, mesh=mesh, **FIT)
        copy.deepcopy(model)
        if rank == 0:
            (folder / 'full').mkdir()
            (folder / 'full' / 'last.pt').write_text('')
        with pytest.raises(ValueError, match='full.* holds a run already'):
            fit(new_model(data), data, mesh=mesh, out=folder / 'full', **FIT)


def test_refusals(tmp_path):
    spawn(refuse, 2, tmp_path)


def test_one_process_has_no_mesh(monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    assert distributed.init() is None
    with distributed.processes() as mesh:
        assert mesh is None and distributed.is_first(mesh)
    assert distributed.first(lambda: 3, None) == 3


def test_several_processes_without_a_mesh_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    monkeypatch.setenv('WORLD_SIZE', '2')
    data = Planted(num_users=40, num_items=50, num_interactions=10)[0]
    with pytest.raises(RuntimeError, match="2 processes, and 'mesh' is None"):
        fit(find_model('lightgcn')(data), data, out=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def torchrun(*args, size=2):
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', str(size)]
    command += ['--rdzv-backend', 'c10d', '--rdzv-endpoint', 'localhost:0', '-m', 'mrdib_pyg']
    env = {**os.environ, 'PYTHONPATH': str(Path(distributed.__file__).parent.parent)}
    return subprocess.run([*command, *args], capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.slow
def test_commands_of_torchrun(tmp_path):
    run, rest = str(tmp_path / 'run'), ('--epochs', '1', '--quiet')
    done = torchrun('train', '--dataset', 'planted', '--mrdib', '--out', run, *rest)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('best epoch') == 1
    for command in (('evaluate', run), ('recommend', run, '--users', '3,1,2')):
        one = subprocess.run(
            [sys.executable, '-m', 'mrdib_pyg', *command], capture_output=True, text=True
        )
        assert torchrun(*command).stdout == one.stdout != ''
    refused = torchrun('export', run, '--out', str(tmp_path / 'export'))
    assert refused.returncode != 0 and 'runs in one process' in refused.stderr
    assert not (tmp_path / 'export').exists()
