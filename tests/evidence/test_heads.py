"""Heads for new items: against the formulas, on any model, which stays as it is."""

import copy

import pytest
import torch

from mrdib_pyg.datasets import Planted
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.evidence import EvidenceHead, evidence
from mrdib_pyg.evidence.heads import interaction_targets
from mrdib_pyg.nn.models import VBPR, LightGCN
from mrdib_pyg.transforms import ColdItemSplit


@pytest.fixture(scope='module')
def data():
    planted = Planted(num_users=60, num_items=80, num_interactions=15, noise=0.5, missing=0.1)
    return ColdItemSplit(0.25)(planted[0])


@pytest.fixture(scope='module')
def model(data):
    torch.manual_seed(0)
    return LightGCN(data, channels=8)


def new_items(data):
    cold = data['cold_item']
    features = {m: cold[f'x_{m}'] for m in ('image', 'text')}
    return features, {m: cold[f'has_{m}'] for m in features}


def naive_targets(data):
    out = torch.zeros(data['item'].num_nodes, data['user'].num_nodes, dtype=torch.float64)
    user, item = data['user', 'rates', 'item'].edge_index
    out[item, user] = 1
    return out / out.sum(dim=0).clamp(min=1).sqrt()


def test_targets(data):
    edge_index = data['user', 'rates', 'item'].edge_index
    sizes = data['user'].num_nodes, data['item'].num_nodes
    found = interaction_targets(edge_index, *sizes)
    assert torch.allclose(torch.from_numpy(found.toarray()), naive_targets(data), rtol=1e-15)
    doubled = interaction_targets(torch.cat([edge_index, edge_index], 1), *sizes)
    assert (doubled != found).nnz == 0
    with pytest.raises(ValueError, match=r"users of 'edge_index' .*\[0, 1\)"):
        interaction_targets(torch.tensor([[1], [0]]), 1, 1)


def test_scores_are_those_of_the_formulas(data, model):
    features, present = new_items(data)
    y = naive_targets(data)
    used = y.sum(dim=1) > 0
    known = {m: data['item'][f'x_{m}'][used] for m in features}
    has = {m: data['item'][f'has_{m}'][used] for m in features}
    emb = model.embed()
    of_embeddings = evidence(known, emb.item[used], has).predict(features, present)
    v = emb.user.double() @ of_embeddings.t()
    r = evidence(known, y[used], has).predict(features, present).t()
    parts = []
    for score in (v, r):
        score = score - score.mean(dim=1, keepdim=True)
        parts.append(score / score.square().mean().sqrt())
    wanted = {'embeddings': v, 'interactions': r, 'both': sum(parts)}
    for kind, score in wanted.items():
        head = EvidenceHead(None if kind == 'interactions' else model, data, kind)
        found = head(features, present)
        assert torch.allclose(found.score().double(), score, atol=1e-4 * float(score.std()))
        users = torch.tensor([5, 3, 5])
        assert torch.equal(found.score(users), found.score()[users])
        values, index = found.recommend(users, k=4)
        assert torch.equal(values, found.score(users).gather(1, index))
        assert torch.allclose(values, found.score(users).topk(4).values)
    assert torch.allclose(EvidenceHead(model, data).encode(features, present).double(),
                          of_embeddings, atol=1e-6)  # fmt: skip


@pytest.mark.parametrize('cls', [LightGCN, VBPR])
def test_the_model_is_only_read(data, cls):
    model = cls(data, channels=8).eval()
    state = copy.deepcopy(model.state_dict())
    before = [x.clone() for x in model.embed()[:2]]
    metrics = evaluate(model, data, 'val', k=5)
    new = EvidenceHead(model, data)(*new_items(data))
    assert set(evaluate(new, data, 'test', k=5, node_type='cold_item')) == set(metrics)
    assert all(torch.equal(x, y) for x, y in zip(before, model.embed()[:2]))
    assert evaluate(model, data, 'val', k=5) == metrics
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())


def test_interactions_recover_planted_items():
    """Bits that matter, clean features, and no recommender: far above chance, and by the modality
    that shows them only.
    """
    data = ColdItemSplit(0.2)(Planted(num_users=300, num_items=200, noise=0.2, case='v')[0])
    features = {m: data['cold_item'][f'x_{m}'] for m in ('image', 'text')}
    recall = {}
    for names in (['image'], ['text'], ['image', 'text']):
        head = EvidenceHead(None, data, 'interactions', names)
        new = head({m: features[m] for m in names})
        metrics = evaluate(new, data, 'test', k=5, node_type='cold_item')
        recall['+'.join(names)] = metrics['recall@5']
    chance = 5 / data['cold_item'].num_nodes
    assert recall['image'] > 2 * chance and recall['image+text'] > 2 * chance
    assert recall['text'] < 1.5 * chance


def test_the_order_of_new_items_is_nothing(data, model):
    features, present = new_items(data)
    head = EvidenceHead(model, data)
    order = torch.randperm(data['cold_item'].num_nodes)
    other = head(
        {m: x[order] for m, x in features.items()}, {m: x[order] for m, x in present.items()}
    )
    assert torch.allclose(head(features, present).score()[:, order], other.score(), atol=1e-5)


def test_one_new_item(data, model):
    """Nothing to compare it with: equal for all users by convention."""
    features = {m: x[:1] for m, x in new_items(data)[0].items()}
    assert EvidenceHead(model, data)(features).score().abs().max() < 1e-6
    assert EvidenceHead(model, data, 'embeddings')(features).score().abs().max() > 0


def test_errors(data, model):
    features, _ = new_items(data)
    with pytest.raises(ValueError, match="'kind' must be one of .* 'sum'"):
        EvidenceHead(model, data, 'sum')
    with pytest.raises(ValueError, match="'both' needs a 'model'"):
        EvidenceHead(None, data)
    with pytest.raises(ValueError, match="'sound'"):
        EvidenceHead(model, data, modalities=['sound'])
    other = Planted(num_users=10, num_items=20, num_interactions=5)[0]
    with pytest.raises(ValueError, match="'model' has 60 users .* 10 and 20"):
        EvidenceHead(model, other)
    del other['item'].x_image, other['item'].x_text
    with pytest.raises(ValueError, match='no item features'):
        EvidenceHead(None, other, 'interactions')
    head = EvidenceHead(None, data, 'interactions')
    with pytest.raises(ValueError, match="'interactions' has no embeddings"):
        head.encode(features)
    new = head(features)
    with pytest.raises(ValueError, match="'k' .*20 items .*got 21"):
        new.recommend(k=21)
    with pytest.raises(IndexError, match=r"'user' must lie in \[0, 60\) .*60"):
        new.score(torch.tensor([60]))


def test_repr(data, model):
    head = EvidenceHead(model, data)
    assert repr(head) == "EvidenceHead('both', modalities=['image', 'text'])"
    assert repr(head(new_items(data)[0])) == 'NewItemScores(60 users, 20 items)'


def test_encode_items_by_a_head(data, model):
    """Rows of the embeddings' own space, also for a model that reads no features."""
    features, present = new_items(data)
    head = EvidenceHead(model, data, 'embeddings')
    new = model.encode_items(features, present, head=head)
    assert torch.equal(new, head.encode(features, present))
    assert new.dtype == model.embed().item.dtype and new.shape[1] == model.embed().item.shape[1]
    with pytest.raises(ValueError, match="pass a 'head'"):
        model.encode_items(features, present)
