"""The common implementations compute what this package does, whose models have worked examples."""

import inspect

import pytest
import torch
from torch_geometric import seed_everything

from benchmarks.graphs import random_graph, to_hetero_data
from benchmarks.training.backbones import SETTINGS, make_batches
from benchmarks.training.common.loop import (
    CommonLoop,
    PythonSampler,
    dense_topk,
    evaluate_in_loops,
)
from benchmarks.training.common.models import COMMON_MODELS as COMMON
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import MODELS, Triplets
from mrdib_pyg.ops import masked_topk
from mrdib_pyg.training.step import LossWeights


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


def test_freedom_draws_its_edges_anew(data):
    model = COMMON['freedom'](data, edge_dropout=0.5).train()
    model.on_epoch_start()
    assert model.train_adj._nnz() == 2 * int(0.5 * 400)
    assert model.norm_adj._nnz() == 2 * 400


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
