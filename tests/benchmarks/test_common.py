"""The common implementations: worked examples, and the same mathematics as this package."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch_geometric import seed_everything
from torch_geometric.data import HeteroData

from benchmarks.graphs import random_graph
from benchmarks.training.backbones import SETTINGS, make_batches
from benchmarks.training.common import COMMON
from benchmarks.training.common.evaluation import dense_topk, evaluate_in_loops
from benchmarks.training.common.loop import CommonLoop
from benchmarks.training.common.sampler import PythonSampler
from benchmarks.training.workload import to_hetero_data
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import MODELS, Triplets
from mrdib_pyg.ops import masked_topk
from mrdib_pyg.training import LossWeights

USERS = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
ITEMS = torch.tensor([[1.0, 2], [0, 1], [2, 0], [1, -1]])
W_IMAGE = torch.tensor([[0.5, 0, 0.1], [0, 0.2, -0.3]])
W_TEXT = torch.tensor([[0.4, -0.2], [0.1, 0.3]])
C = torch.tensor([0.05, -0.05])
BATCH = (torch.tensor([0, 1, 2]), torch.tensor([2, 1, 3]), torch.tensor([3, 0, 1]))


def close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=1e-4, rtol=0)


def example(name, **settings):
    """A worked example of 3 users, 4 items and 2 channels, but for its parameters."""
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 4
    data['item'].x_image = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
    data['item'].x_text = torch.tensor([[1.0, 0.2], [2, 1], [-0.1, 1], [1, -1]])
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])
    data['user', 'rates', 'item'].edge_index = edge_index
    model = COMMON[name](data, channels=2, **settings)
    with torch.no_grad():
        if name != 'vbpr':
            model.user_emb.weight.copy_(USERS)
        model.item_emb.weight.copy_(ITEMS)
        if name in ('freedom', 'bm3', 'mgcn'):
            model.lins['image'].weight.copy_(W_IMAGE)
            model.lins['image'].bias.copy_(C)
            model.lins['text'].weight.copy_(W_TEXT)
            model.lins['text'].bias.copy_(-C)
    return model.eval()


def scores(model):
    user, item = model()
    return user @ item.t()


@torch.no_grad()
def test_vbpr():
    model = example('vbpr', reg_weight=1.0)
    theta = torch.tensor([[1.0, -1], [0.5, 2], [0, 1]])
    model.user_emb.weight.copy_(torch.cat([USERS, theta], dim=1))
    model.lin.weight.copy_(torch.cat([W_IMAGE, W_TEXT], dim=1))
    model.lin.bias.copy_(C)
    expected = [[2.6, 0.5, 1.57, 3.5], [1.575, 2.875, 0.635, -1.5], [2.51, 1.65, 2.34, -0.7]]
    close(scores(model), expected)
    close(model.loss(*BATCH), 1.5825 + 3.5899)


@torch.no_grad()
def test_lightgcn():
    model = example('lightgcn', num_layers=2, reg_weight=1.0)
    close(scores(model)[0], [1.6539, 0.8641, 1.5833, 0.8311])
    close(model.loss(*BATCH), 0.6009 + 2.4914)


@torch.no_grad()
def test_mmgcn():
    model = example('mmgcn', num_layers=1, reg_weight=0.0)
    model.modalities = ['image']
    features = torch.tensor([[3.0, 4], [1, 0], [0, 2], [1, 1]])
    model.features['image'] = torch.nn.Embedding.from_pretrained(features)
    model.preferences['image'] = torch.nn.Embedding.from_pretrained(
        torch.tensor([[1.0, 1], [2, 0], [0, -1]])
    )
    layer = type(model.layers['text'][0])(2, 2)
    model.layers['image'] = torch.nn.ModuleList([layer])
    layer.conv.lin.weight.copy_(torch.tensor([[1, 0.5], [-0.5, 1]]).t())
    layer.lin_self.weight.copy_(torch.tensor([[0.2, -0.4], [0.6, 0.1]]).t())
    layer.lin_out.weight.copy_(torch.tensor([[0.3, 0.7], [-0.2, 0.5]]).t())
    layer.lin_self.bias.zero_()
    layer.lin_out.bias.zero_()
    user, item = model()
    close(user, [[1.4624, 0.5945], [0.4, 1.946], [0.7886, 1.5383]])
    close(item, [[1.7220, 2.3123], [0.2470, 1.8599], [2.7220, 0.4139], [1.7177, -0.0066]])


@torch.no_grad()
def test_freedom():
    model = example('freedom', k=2, edge_dropout=0.0, content_weight=1.0)
    close(
        model.item_adj.to_dense(),
        [[0.5, 0.45, 0, 0.05], [0.45, 0.5, 0.05, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]],
    )
    close(scores(model)[0], [3.0764, 2.2866, 2.9104, 2.1582])
    close(model.loss(*BATCH), 0.6011 + 0.6939 + 0.8381)


def test_freedom_draws_its_edges_anew():
    model = example('freedom', k=2, edge_dropout=0.5)
    model.train()
    model.on_epoch_start()
    assert model.train_adj._nnz() == 2 * int(0.5 * 7)
    assert model.norm_adj._nnz() == 14


@torch.no_grad()
def test_bm3():
    model = example('bm3', num_layers=2, dropout=0.0)
    model.predictor.weight.copy_(torch.tensor([[1, 0.5], [-0.5, 1]]).t())
    model.predictor.bias.zero_()
    close(model.loss(*BATCH), 3.0001)
    close(scores(model)[0], [4.8805, 1.8496, 4.5275, 1.5436])


@torch.no_grad()
def test_mgcn():
    model = example('mgcn', k=2, reg_weight=0.0, contrastive_weight=1.0)
    for i, sign in enumerate((1.0, -1.0)):
        for lin, weight in ((model.purifiers[i], 1.0), (model.gates[i], sign)):
            lin.weight.copy_(weight * torch.eye(2))
            lin.bias.zero_()
    model.attention[0].weight.copy_(torch.eye(2))
    model.attention[0].bias.zero_()
    model.attention[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
    behavior, side = model._views()
    close(side[:3], [[0.2232, 0.1533], [0.0832, 0.1185], [0.3082, 0.1018]])
    close(side[3:], [[0.2026, 0.1230], [0.1200, 0.1613], [0.2176, 0.0597], [0.2288, 0.0290]])
    user, item = model()
    bpr = F.softplus((user[BATCH[0]] * (item[BATCH[2]] - item[BATCH[1]])).sum(-1)).mean()
    close(model.loss(*BATCH), bpr + 0.5974 + 0.8658)


# -- the same mathematics as this package ---------------------------------------------------------


@pytest.fixture
def data():
    torch.set_default_dtype(torch.float64)
    try:
        data = to_hetero_data(random_graph(60, 40, 400), {'image': 12, 'text': 6}, held_out=80)
        yield data
    finally:
        torch.set_default_dtype(torch.float32)


def pairs():
    """Models, and whether features are trained, as both sides can."""
    out = [(name, False) for name in COMMON]
    return out + [(name, True) for name in COMMON if COMMON[name].trains_features]


#: What would be drawn differently on either side is left out.
NO_DRAWS = {'freedom': {'edge_dropout': 0.0}, 'bm3': {'dropout': 0.0}, 'mmgcn': {}}


@pytest.mark.parametrize(('name', 'trainable'), pairs())
def test_losses_are_those_of_this_package(name, trainable, data):
    if name not in MODELS:
        pytest.skip(f"'{name}' is not in MODELS")
    settings = {**SETTINGS[name], **NO_DRAWS.get(name, {})}
    if name == 'mmgcn':
        settings['hidden_channels'] = 8  # so that one modality is mapped, and one is not
    ours_settings = dict(settings)
    if trainable:
        if 'trainable_features' not in inspect.signature(MODELS[name].__init__).parameters:
            pytest.skip(f"features of '{name}' are not trained here")
        ours_settings['trainable_features'] = True
    seed_everything(1)
    ours = MODELS[name](data, **ours_settings)
    common = COMMON[name](data, **settings, trainable_features=trainable)
    common.copy_from(ours)
    batches = make_batches(data)
    weighting = LossWeights(ours.loss_weights)
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2, fused=True)
    loop = CommonLoop(common, data, lr=1e-2)
    ours.train()
    common.train()
    losses = []
    for step in range(4):
        batch = tuple(x[50 * step : 50 * step + 80] for x in batches[0])
        loss = weighting(ours.loss(Triplets(*batch)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert loop.step(*batch) == pytest.approx(losses[-1], rel=1e-6), f'step {step}'
    assert len(set(losses)) == 4  # something was learned in between
    ours.eval()
    common.eval()
    embedded = ours.embed()
    with torch.no_grad():
        torch.testing.assert_close(
            common.scores(torch.arange(60)),
            embedded.user @ embedded.item.t(),
            rtol=1e-6,
            atol=1e-6,
        )


def test_metrics_are_those_of_this_package(data):
    model = MODELS['vbpr'](data, channels=8)
    user, item = model.embed()[:2]
    for split in ('val', 'test'):
        expected = evaluate(model, data, split, k=(1, 5, 10))
        # Batches of 7 users: their bounds and the mask must not matter.
        for size in (7, 2048):
            actual = evaluate_in_loops(
                lambda users: user[users] @ item.t(), data, split, (1, 5, 10), size
            )
            assert actual == pytest.approx(expected, abs=1e-6)


def test_dense_topk_is_the_masked_one():
    user, item = torch.randn(30, 4), torch.randn(20, 4)
    seen = random_graph(30, 20, 100).edge_index
    expected = masked_topk(user, item, 5, seen)[1]
    for size in (7, 2048):
        assert torch.equal(dense_topk(user, item, 5, seen[:, torch.randperm(100)], size), expected)


def test_python_sampler_draws_no_positive():
    edge_index = random_graph(20, 10, 80).edge_index
    sampler = PythonSampler(edge_index)
    users = edge_index[0].tolist() * 20
    negatives = sampler.sample(users)
    positives = {tuple(e) for e in edge_index.t().tolist()}
    drawn = set(zip(users, negatives))
    assert not positives & drawn
    items = set(edge_index[1].tolist())
    assert {(u, i) for u in set(users) for i in items} - positives == drawn


def test_the_common_loop_learns(data):
    model = COMMON['vbpr'](data, channels=8)
    loop = CommonLoop(model, data, batch_size=64, lr=1e-2)
    losses = [loop.epoch() for _ in range(5)]
    assert losses[-1] < losses[0]
    assert set(loop.evaluate('val')) == {f'{m}@{k}' for m in ('recall', 'ndcg', 'precision', 'map')
                                         for k in (5, 10, 20)}  # fmt: skip
