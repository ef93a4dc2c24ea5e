"""A step in fixed shapes compiles without a graph break, to the same loss and gradients."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from mrdib_pyg.datasets import Planted
from mrdib_pyg.nn.models import MODELS, Triplets
from mrdib_pyg.ops._fixed_shapes import fixed_shapes

# By torch's own tracing.
pytestmark = pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning')

CASES = [
    pytest.param(name, mrdib, marks=[] if name == 'multimodal_lightgcn' else pytest.mark.slow)
    for name, cls in MODELS.items()
    for mrdib in ([False, True] if cls.multimodal else [False])
] + [pytest.param('multimodal_lightgcn', 'nce')]


@pytest.fixture(scope='module')
def data():
    return Planted(num_users=60, num_items=50, num_interactions=10)[0]


def make_model(data, name, mrdib):
    torch.manual_seed(0)
    settings = {'mrdib': {}} if mrdib else {}
    if mrdib == 'nce':  # the same draws, as this backend draws as PyTorch does
        settings = {'mrdib': {'decoder': 'nce', 'num_negatives': 8}, 'task': 'ssm'}
        settings['num_negatives'] = 8
    model = MODELS[name](data, channels=8, **settings)
    model.train()
    model.on_epoch_start(1, torch.Generator().manual_seed(0))
    return model


def batches(data, size=128):
    user, pos = data['user', 'rates', 'item'].edge_index
    order = torch.randperm(user.numel(), generator=torch.Generator().manual_seed(1))
    neg = torch.randint(50, (user.numel(),), generator=torch.Generator().manual_seed(2))
    for part in order.split(size)[:2]:
        yield Triplets(user[part], pos[part], neg[part])


def step(loss, model, batch):
    torch.manual_seed(3)
    terms = loss(batch)
    model.zero_grad()
    sum(x for x in terms.values() if x is not None and x.requires_grad).backward()
    return terms, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(('name', 'mrdib'), CASES)
def test_compile_without_graph_breaks(data, name, mrdib):
    torch.compiler.reset()
    model, other = make_model(data, name, mrdib), make_model(data, name, mrdib)
    count = CompileCounterWithBackend('aot_eager')
    # As `fit` does it: a full graph would also let operators of dynamic shapes in.
    compiled = torch.compile(other.loss, backend=count, dynamic=False)
    counters.clear()
    for batch in batches(data):
        with fixed_shapes():
            expected, grads = step(model.loss, model, batch)
        terms, other_grads = step(compiled, other, batch)
        assert terms.keys() == expected.keys()
        for key in terms:
            # The rows of the critics are another sample: they are drawn in another way.
            if key != 'redundant' and terms[key] is not None:
                torch.testing.assert_close(terms[key], expected[key], rtol=1e-5, atol=1e-5)
        for key, grad in other_grads.items():
            assert grad.isfinite().all(), key
            if not mrdib:
                torch.testing.assert_close(grad, grads[key], rtol=1e-4, atol=1e-5, msg=key)
    assert count.frame_count <= 2  # a first call sets flags that a second one finds
    assert not counters['graph_break']


@pytest.mark.parametrize('name', MODELS)
def test_fixed_shapes_change_no_loss(data, name):
    model = make_model(data, name, False)
    model.eval()  # without dropout, whose masks have the shape of what is computed
    for batch in batches(data):
        expected = model.loss(batch)
        with fixed_shapes():
            terms = model.loss(batch)
        for key, value in expected.items():
            torch.testing.assert_close(terms[key], value, rtol=1e-5, atol=1e-6, msg=key)
