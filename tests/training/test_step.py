"""The weights of the loss, and a step of training: plain, compiled and as one CUDA graph."""

import contextlib
from importlib import import_module

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_geometric import seed_everything

from mrdib_pyg.datasets import Planted
from mrdib_pyg.nn.models import MODELS, LightGCN, MultimodalLightGCN, Triplets
from mrdib_pyg.ops._fixed_shapes import fixed_shapes, has_fixed_shapes
from mrdib_pyg.training import fit
from mrdib_pyg.training.checkpoint import load_checkpoint
from mrdib_pyg.training.step import (
    GraphedStep,
    LossWeights,
    TrainStep,
    make_adam,
    make_loss_step,
    make_train_step,
)


def terms(**values):
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def test_loss_weights_sum_and_gradient():
    weights = LossWeights({'task': 1.0, 'l2': 1e-4}, {'bottleneck': 0.5, 'l2': 0.25})
    x = terms(task=2.0, l2=8.0, bottleneck=3.0, redundant=7.0, unique=11.0, synergistic=2.0)
    total = weights(x)
    assert total.item() == 2.0 + 0.25 * 8.0 + 0.5 * 3.0  # the others are only reported
    total.backward()
    grads = {name: None if v.grad is None else v.grad.item() for name, v in x.items()}
    assert grads == {
        'task': 1.0, 'l2': 0.25, 'bottleneck': 0.5,
        'redundant': None, 'unique': None, 'synergistic': None,
    }  # fmt: skip


def test_loss_weights_keep_a_plain_loss_bit_for_bit():
    x = terms(task=0.1234567)
    assert LossWeights({'task': 1.0})(x) is x['task']


def test_loss_weights_pass_over_absent_terms():
    x = {**terms(task=2.0), 'synergistic': None}
    assert LossWeights({'task': 1.0}, {'unique': 1.0})(x).item() == 2.0


def test_loss_weights_do_not_let_an_unweighted_term_in():
    x = terms(task=2.0, redundant=float('nan'))
    assert LossWeights({'task': 1.0})(x).item() == 2.0


def test_loss_weights_repr():
    weights = LossWeights({'task': 1.0}, {'bottleneck': 1e-3})
    assert str(weights) == 'LossWeights(bottleneck=0.001, redundant=0, unique=0, task=1)'


@pytest.mark.parametrize('name', ['synergistic', 'loss', 'l2', 'Task'])
def test_loss_weights_refuse_a_name(name):
    with pytest.raises(ValueError, match=rf"no loss term '{name}' .*known are \['bottleneck'"):
        LossWeights({'task': 1.0}, {name: 1.0})


@pytest.mark.parametrize('weight', [-1.0, float('nan'), float('inf'), '1', None, True])
@pytest.mark.parametrize('of_model', [True, False])
def test_loss_weights_refuse_a_value(weight, of_model):
    args = ({'task': weight},) if of_model else ({'task': 1.0}, {'task': weight})
    with pytest.raises(ValueError, match="weight 'task' must be a number >= 0"):
        LossWeights(*args)


def test_loss_weights_refuse_an_empty_sum():
    with pytest.raises(ValueError, match='every term has a weight of zero'):
        LossWeights({'task': 1.0}, {'task': 0.0})(terms(task=1.0, unique=2.0))


# By torch's own tracing.
pytestmark = pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning')


@pytest.fixture(scope='module')
def small():
    return Planted(num_users=40, num_items=30, num_interactions=10)[0]


def test_other_sizes_run_as_they_are(small, monkeypatch):
    sizes = []

    def compile(function, **kwargs):
        assert kwargs == {'dynamic': False}

        def compiled(batch):
            sizes.append(batch.src_index.numel())
            return function(batch)

        return compiled

    monkeypatch.setattr(torch, 'compile', compile)
    seed_everything(0)
    model = MultimodalLightGCN(small, channels=4)
    weighting = LossWeights(model.loss_weights)
    step, plain = make_loss_step(model, weighting, 8), make_loss_step(model, weighting)
    user, pos = small['user', 'rates', 'item'].edge_index
    for size in (8, 5, 8):
        batch = Triplets(user[:size], pos[:size], pos[-size:])
        (loss, terms), (expected, expected_terms) = step(batch), plain(batch)
        torch.testing.assert_close(loss, expected)
        assert loss.requires_grad and terms.keys() == expected_terms.keys()
    assert sizes == [8, 8]


@pytest.mark.slow
def test_fit_compiled(small, tmp_path):
    """By the compiler of PyTorch, which compiles C++ on a CPU."""
    histories = []
    for compile in (False, True):
        torch.compiler.reset()
        seed_everything(0)
        model = LightGCN(small, channels=8)
        out = tmp_path / str(compile)
        settings = {'epochs': 3, 'batch_size': 64, 'compile': compile, 'progress': False}
        fitted = fit(model, small, out=out, **settings)
        assert ('compile' in load_checkpoint(out / 'best.pt')['identity']['settings']) == compile
        histories.append([row['train'] for row in fitted.history])
    for plain, compiled in zip(*histories):
        assert compiled == pytest.approx(plain, rel=1e-4)


CASES = [
    (name, mrdib)
    for name, cls in MODELS.items()
    for mrdib in ([False, True] if cls.multimodal else [False])
]
LAYERS = {
    'l2': {'control': 'l2'},
    'noise': {'control': 'noise'},
    'club': {'redundancy': 'club'},
    'infonce': {'redundancy': 'infonce'},
    'nwj': {'redundancy': 'nwj'},
    'gaussian': {'redundancy': 'gaussian'},
    'all rows': {'num_critic_rows': None},
    'complete': {'bottleneck': 'complete'},
    'nce': {'decoder': 'nce', 'num_negatives': 8},
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')


class NothingOnTheHost(TorchDispatchMode):
    """A tensor made in the memory of the host and copied over would end a capture."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        assert all(x.device.type != 'cpu' for x in tensors), func
        return out


class ShapeOfProduct:
    """In the place of a sparse matrix, of which there are no products on the device 'meta'."""

    def __init__(self, rowptr, col, value, num_columns):
        self.num_rows = rowptr.numel() - 1

    def __matmul__(self, x):
        return x.new_empty(self.num_rows, x.size(1))


def make_data(missing):
    data = Planted(num_users=60, num_items=50, num_interactions=10)[0]
    if missing:
        for i, name in enumerate(('image', 'text')):
            data['item'][f'has_{name}'] = torch.arange(50) // 5 != i
    return data


@pytest.fixture(scope='module')
def data():
    return make_data(missing=False)


def make_model(data, name, mrdib, channels=8):
    seed_everything(0)
    settings = {'mrdib': LAYERS.get(mrdib, {})} if mrdib else {}
    if mrdib == 'nce':
        settings.update(task='ssm', num_negatives=8)
    model = MODELS[name](data, channels=channels, **settings)
    model.train()
    model.on_epoch_start(1, torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize('missing', [False, True])
@pytest.mark.parametrize(
    ('name', 'mrdib'), [*CASES, *(('multimodal_lightgcn', layer) for layer in LAYERS)]
)
def test_no_step_waits_for_the_device(name, mrdib, missing, monkeypatch):
    """Tensors on the device 'meta' have shapes, but no values that could be read."""
    module = import_module('mrdib_pyg.ops._propagate')
    monkeypatch.setattr(module, 'csr_tensor', ShapeOfProduct)
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda device: False)  # nor autocast
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: contextlib.nullcontext())
    model = make_model(make_data(missing), name, mrdib).to('meta')
    batch = Triplets(*torch.zeros(3, 16, dtype=torch.long, device='meta').unbind())
    with fixed_shapes(), NothingOnTheHost():
        terms = model.loss(batch)
        sum(x for x in terms.values() if x is not None and x.requires_grad).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_fixed_shapes_end_with_their_block():
    assert not has_fixed_shapes()
    with pytest.raises(KeyError), fixed_shapes():
        with fixed_shapes():
            pass
        assert has_fixed_shapes()
        raise KeyError
    assert not has_fixed_shapes()


def test_on_cpu_there_is_no_cuda_graph(data):
    model = make_model(data, 'vbpr', False)
    optimizer = make_adam(list(model.parameters()), 1e-3, compile=True)
    assert not optimizer.defaults['capturable']
    step = make_train_step(model, LossWeights(model.loss_weights), optimizer, 8)
    assert type(step) is TrainStep


class Calls(GraphedStep):
    """What a step decides, without a GPU."""

    def __init__(self):
        self.size, self.names, self.values = 4, ['loss'], torch.zeros(1)
        self.batch = Triplets(*torch.zeros(3, 4, dtype=torch.long).unbind())
        self.graph, self.calls, self.fails = None, [], False
        self.start_epoch()

    def _run(self, batch):
        self.calls.append('run')
        if self.fails:
            raise RuntimeError
        return {}

    def _capture(self):
        if self.fails:
            raise RuntimeError
        self.calls.append('capture')
        self.graph, self.is_captured = self, True

    def replay(self):
        self.calls.append(('replay', int(self.batch.src_index[0])))


def test_each_epoch_is_captured_anew_and_after_an_error():
    step = Calls()

    def take(first, fails=False):
        step.calls.clear()
        step.fails = fails
        batch = Triplets(*torch.arange(first, first + 12).view(3, 4).unbind())
        if fails:
            with pytest.raises(RuntimeError):
                step(batch)
        else:
            step(batch)
        return list(step.calls)

    assert take(0, fails=True) == ['run'] and take(0) == ['run']  # it has still not run
    assert take(1) == ['capture', ('replay', 1)] and take(2) == [('replay', 2)]
    step.start_epoch()
    assert take(3) == ['run'] and take(4, fails=True) == []  # the graph before is not replayed
    assert take(5) == ['capture', ('replay', 5)]


def test_an_optimizer_that_cannot_be_captured(data):
    model = make_model(data, 'vbpr', False)
    optimizer = make_adam(list(model.parameters()), 1e-3)
    with pytest.raises(ValueError, match='capturable=True'):
        GraphedStep(model, LossWeights(model.loss_weights), optimizer, 4)


@needs_cuda
@pytest.mark.parametrize(
    ('name', 'mrdib'), [*CASES, *(('multimodal_lightgcn', layer) for layer in LAYERS)]
)
def test_replays_are_steps(data, name, mrdib):
    """Without noise a captured step does what the same step does by itself."""
    user, pos = data['user', 'rates', 'item'].edge_index.cuda()
    found = []
    for graphed in (False, True):
        model = make_model(data, name, mrdib).cuda()
        optimizer = make_adam(list(model.parameters()), 1e-2, compile=True)
        step = make_train_step(model, LossWeights(model.loss_weights), optimizer, 64)
        assert isinstance(step, GraphedStep)
        losses = []
        for epoch in range(2):
            torch.manual_seed(epoch)
            model.on_epoch_start(1 + epoch, torch.Generator('cuda').manual_seed(epoch))
            optimizer.param_groups[0]['lr'] = 1e-2 / (1 + epoch)
            step.start_epoch()
            for i in range(6):
                batch = Triplets(user[i : i + 64], pos[i : i + 64], pos[i + 9 : i + 73])
                out = step(batch) if graphed else step._run(batch)
                losses.append(torch.stack(list(out.values())))
        found.append((torch.stack(losses).cpu(), [p.detach().cpu() for p in model.parameters()]))
    (expected, expected_params), (losses, params) = found
    # Not to the last bit: on a GPU, gathers add up their gradients in any order.
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    for param, other in zip(params, expected_params):
        torch.testing.assert_close(param, other, rtol=1e-2, atol=1e-3)


@needs_cuda
@pytest.mark.parametrize('name', ['freedom', 'mgcn', 'multimodal_lightgcn'])
def test_fit_resumes(data, name, tmp_path):
    def run(out, epochs):
        model = make_model(data, name, True).cuda()
        out = tmp_path / out
        options = {'batch_size': 64, 'compile': True, 'progress': False, 'out': out}
        return model, fit(model, data.clone().to('cuda'), epochs=epochs, resume=True, **options)

    model, result = run('whole', 4)
    run('parts', 2)
    other, resumed = run('parts', 4)
    assert [x['epoch'] for x in resumed.history] == [1, 2, 3, 4]
    for x, y in zip(result.history, resumed.history):
        assert y['train'] == pytest.approx(x['train'], rel=1e-3)
    for a, b in zip(model.state_dict().values(), other.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@needs_cuda
def test_a_step_that_waits_is_named(data):
    model = make_model(data, 'vbpr', True).cuda()
    task_loss = model.task_loss

    def waiting(embeddings, batch):
        loss = task_loss(embeddings, batch)
        return loss if float(loss.detach()) > 0 else loss * 2

    model.task_loss = waiting
    optimizer = make_adam(list(model.parameters()), 1e-3, compile=True)
    step = make_train_step(model, LossWeights(model.loss_weights), optimizer, 4)
    batch = Triplets(*torch.arange(12, device='cuda').view(3, 4).unbind())
    step(batch)
    with pytest.raises(RuntimeError, match="leave out 'compile'"):
        step(batch)
    assert not has_fixed_shapes()
