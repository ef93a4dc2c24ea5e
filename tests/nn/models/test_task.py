"""The sampled softmax task, on every model whose task is BPR: it passes the contract, too."""

import math

import pytest
import torch
from contract import RecommenderContract, make_batch, make_data, moved

from mrdib_pyg.nn.models import BM3, MODELS, VBPR
from mrdib_pyg.nn.models._drop_modalities import drop_modalities

NAMES = [name for name in MODELS if name != 'bm3']
#: As many negatives as a batch of the contract has: no seed decides which are drawn.
SETTINGS = {'task': 'ssm', 'num_negatives': 64}
CHECKS = [
    ('test_terms', {}),
    ('test_every_parameter_gets_a_gradient_and_learns', {}),
    ('test_mixed_precision', {}),
    ('test_loss_of_the_rows_equals_that_of_all', {}),
    ('test_order_of_triplets_is_irrelevant', {}),
    ('test_scores_follow_a_permutation_of_the_items', {}),
    ('test_modalities', {'modalities': 2, 'missing': 0.2}),
    ('test_learns_what_was_planted', {}),
    ('test_seeds', {}),
    ('test_deepcopy_state_dict_and_config', {}),
]
OWN = {'freedom': {'k': 5}, 'mgcn': {'k': 5}, 'soil': {'k': 5, 'num_second_order': 600}}


def contract(name):
    settings = {**OWN.get(name, {}), **SETTINGS}
    return type('Contract', (RecommenderContract,), {'name': name, 'settings': settings})()


@pytest.mark.parametrize('layer', ['plain', 'mrdib', 'nce'])
@pytest.mark.parametrize('check, arguments', CHECKS, ids=lambda x: x if isinstance(x, str) else '')
@pytest.mark.parametrize('name', NAMES)
def test_contract(name, check, arguments, layer):
    arguments = {**arguments, 'layer': layer}
    method = getattr(contract(name), check)
    if 'data' in method.__code__.co_varnames[: method.__code__.co_argcount]:
        arguments['data'] = make_data()
    method(**arguments)


@pytest.mark.parametrize('num_negatives', [1, 5, 500])
@pytest.mark.parametrize('name', NAMES)
def test_values(name, num_negatives):
    data = make_data()
    settings = {**OWN.get(name, {}), 'task': 'ssm', 'num_negatives': num_negatives}
    model = moved(MODELS[name](data, channels=8, **settings)).eval()
    src, pos, neg = batch = make_batch(data)
    torch.manual_seed(1)
    task = model.loss(batch)['task'].detach()
    torch.manual_seed(1)
    drawn = neg[torch.rand(64).argsort()[:num_negatives]].tolist()
    emb = model.embed()
    losses = []
    for u, i in zip(src.tolist(), pos.tolist()):
        scores = emb.item[[i, *(j for j in drawn if j != i)]] @ emb.user[u]
        losses.append(scores.logsumexp(0) - scores[0])
    torch.testing.assert_close(task, torch.stack(losses).mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', NAMES)
def test_modality_dropout(name):
    model = contract(name).make(make_data(missing=0.2), 'nce')
    if not model.multimodal:
        pytest.skip('has no modality to drop')
    batch = make_batch(make_data())
    torch.manual_seed(1)
    with drop_modalities(model, 0.5):
        terms = model.loss(batch)
    sum(w * terms[name] for name, w in {**model.loss_weights, 'unique': 0.1}.items()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_equal_scores():
    model = VBPR(make_data(), channels=8, **SETTINGS)
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    src, pos, _ = batch = make_batch(make_data())
    batch = batch._replace(dst_neg_index=torch.full_like(pos, 22))  # the positive of none
    assert float(model.loss(batch)['task'].detach()) == pytest.approx(math.log(65))


def test_the_task_of_one_negative_draws_nothing():
    """Runs of the default stay what they were, bit for bit."""
    model = VBPR(make_data(), channels=8)
    state = torch.get_rng_state()
    model.loss(make_batch(make_data()))
    assert torch.equal(torch.get_rng_state(), state)


class OwnTask(VBPR):
    def task_loss(self, embeddings, batch):
        return embeddings.user.square().mean()


@pytest.mark.parametrize('cls', [BM3, OwnTask])
def test_a_model_with_a_task_of_its_own_refuses(cls):
    cls(make_data(), task='bpr')
    with pytest.raises(ValueError, match=rf"'task' must .*got 'ssm'.*{cls.__name__}"):
        cls(make_data(), task='ssm')


@pytest.mark.parametrize(
    'name, value',
    [('task', 'nce'), ('task', None), ('num_negatives', 0), ('num_negatives', 1.5)],
)
@pytest.mark.parametrize('model', MODELS)
def test_refused_settings(model, name, value):
    with pytest.raises(ValueError, match=rf"'{name}' must .*got {value!r}"):
        MODELS[model](make_data(), **{name: value})
