import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.metrics import (
    LinkPredMAP,
    LinkPredMetricCollection,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)

from mrdib_pyg.evaluation import average_metrics, evaluate
from mrdib_pyg.evaluation.full_ranking import METRICS
from mrdib_pyg.interactions import held_out_edges
from mrdib_pyg.ops._topk import pad_items

NAMES = ('recall', 'ndcg', 'precision', 'map')


class Fixed:
    """Anything with ``embed()`` can be evaluated."""

    def __init__(self, user: Tensor, item: Tensor):
        self.user, self.item = user, item

    def embed(self) -> SimpleNamespace:
        return SimpleNamespace(user=self.user, item=self.item)


def make_data(num_users: int, num_items: int, train, val=(), test=()) -> HeteroData:
    data = HeteroData()
    data['user'].num_nodes = num_users
    data['item'].num_nodes = num_items
    data['user', 'rates', 'item'].edge_index = pairs(train)
    data['user', 'val', 'item'].edge_label_index = pairs(val)
    data['user', 'test', 'item'].edge_label_index = pairs(test)
    return data


def pairs(edges) -> Tensor:
    if isinstance(edges, Tensor):
        return edges
    return torch.tensor(list(edges), dtype=torch.long).view(-1, 2).t().contiguous()


def random_data(num_users=60, num_items=40, seed=0, density=0.3) -> HeteroData:
    """Random edges; some users have no training edge, some no label, some hardly a free item."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.rand(num_users, num_items, generator=generator)
    kind[:5] = kind[:5] * 0.2 + density  # Labels only.
    kind[5:10] = kind[5:10] * density  # Training edges only.
    kind[10:15, 6:] *= density  # At most six items are left to rank.
    train = kind < density
    val = (kind >= density) & (kind < density + 0.1)
    test = (kind >= density + 0.1) & (kind < density + 0.2)
    shuffled = []
    for matrix in (val, test):
        index = matrix.nonzero().t()
        shuffled.append(index[:, torch.randperm(index.size(1), generator=generator)])
    return make_data(num_users, num_items, train.nonzero().t(), *shuffled)


def integer_model(data: HeteroData, seed=0) -> Fixed:
    """Small whole numbers: scores are exact and many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    user = torch.randint(-3, 4, (data['user'].num_nodes, 4), generator=generator)
    item = torch.randint(-3, 4, (data['item'].num_nodes, 4), generator=generator)
    return Fixed(user.float(), item.float())


def edge_sets(edge_index: Tensor, num_users: int):
    sets = [set() for _ in range(num_users)]
    for user, item in edge_index.t().tolist():
        sets[user].add(item)
    return sets


def naive(model, data, split, ks, mask):
    """The protocol, one user at a time, in plain Python."""
    num_users, num_items = data['user'].num_nodes, data['item'].num_nodes
    train = edge_sets(data['user', 'rates', 'item'].edge_index, num_users)
    val = edge_sets(data['user', 'val', 'item'].edge_label_index, num_users)
    label = edge_sets(data['user', split, 'item'].edge_label_index, num_users)
    score = (model.user.double() @ model.item.double().t()).tolist()
    out = {'user': [], **{f'{name}@{k}': [] for k in ks for name in NAMES}}
    for u in range(num_users):
        if not train[u] or not label[u]:
            continue
        masked = train[u] | (val[u] if mask == 'train+val' else set())
        ranking = [i for i in range(num_items) if i not in masked]
        ranking.sort(key=lambda i: (-score[u][i], i))
        out['user'].append(u)
        for k in ks:
            hits = [float(i in label[u]) for i in ranking[:k]]
            best = min(len(label[u]), k)
            dcg = sum(h / math.log2(j + 2) for j, h in enumerate(hits))
            average = sum(h * sum(hits[: j + 1]) / (j + 1) for j, h in enumerate(hits))
            out[f'recall@{k}'].append(sum(hits) / len(label[u]))
            out[f'precision@{k}'].append(sum(hits) / k)
            out[f'ndcg@{k}'].append(dcg / sum(1 / math.log2(j + 2) for j in range(best)))
            out[f'map@{k}'].append(average / best)
    return out


@pytest.mark.parametrize('k', [1, 2, 3, 4, 5])
def test_metric_oracle(k):
    # The list (4, 2, 7, 9, 1) with the held-out items {2, 5, 9}, worked out by hand.
    expected = {
        'recall': [0, 0.3333, 0.3333, 0.6667, 0.6667],
        'precision': [0, 0.5, 0.3333, 0.5, 0.4],
        'ndcg': [0, 0.3869, 0.2961, 0.4982, 0.4982],
        'map': [0, 0.25, 0.1667, 0.3333, 0.3333],
    }
    item = torch.zeros(10, 1)
    item[[4, 2, 7, 9, 1], 0] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    data = make_data(1, 10, [(0, 0)], [(0, 2), (0, 5), (0, 9)])
    out = evaluate(Fixed(torch.ones(1, 1), item), data, k=k)
    assert out == {f'{n}@{k}': pytest.approx(expected[n][k - 1], abs=1e-4) for n in NAMES}


@pytest.mark.parametrize('split,mask', [('val', 'train'), ('test', 'train'), ('test', 'train+val')])
@pytest.mark.parametrize('model_kind', ['ties', 'random'])
def test_equals_naive_loop(split, mask, model_kind):
    data = random_data()
    model = integer_model(data)
    if model_kind == 'random':
        generator = torch.Generator().manual_seed(1)
        model = Fixed(*(torch.randn(n, 8, generator=generator) for n in (60, 40)))
    ks = (1, 3, 10, 40)
    expected = naive(model, data, split, ks, mask)

    per_user = evaluate(model, data, split, ks, mask=mask, per_user=True)
    assert list(per_user) == list(expected)
    assert per_user['user'].tolist() == expected['user']
    for name, value in expected.items():
        assert torch.allclose(per_user[name].double(), torch.tensor(value).double()), name

    out = evaluate(model, data, split, ks, mask=mask)
    assert list(out) == [f'{n}@{k}' for k in ks for n in NAMES]
    for name, value in out.items():
        assert type(value) is float
        assert value == pytest.approx(sum(expected[name]) / len(expected[name]), abs=1e-6)


def test_mask_changes_the_ranking():
    data = random_data()
    model = integer_model(data)
    train, both = (evaluate(model, data, 'test', k=5, mask=m) for m in ('train', 'train+val'))
    assert train['recall@5'] < both['recall@5']


def test_equals_public_metric_collection():
    # The values of single users come from a hook of the metrics: their public way agrees.
    data = random_data(seed=3)
    model = integer_model(data, seed=3)
    ks = (2, 5)
    types = dict(zip(NAMES, (LinkPredRecall, LinkPredNDCG, LinkPredPrecision, LinkPredMAP)))
    collection = LinkPredMetricCollection({f'{n}-{k}': types[n](k) for k in ks for n in NAMES})
    train = edge_sets(data['user', 'rates', 'item'].edge_index, 60)
    label = held_out_edges(data, 'val')
    users = label[0].unique()
    score = model.user @ model.item.t()
    for u in range(60):
        score[u, list(train[u])] = -float('inf')
    index = score[users].argsort(dim=1, descending=True, stable=True)[:, : max(ks)]
    collection.update(index, torch.stack([torch.searchsorted(users, label[0]), label[1]]))
    out = evaluate(model, data, 'val', ks)
    for name, value in collection.compute().items():
        assert out[name.replace('-', '@')] == pytest.approx(float(value), abs=1e-6)


def test_pads_are_no_hits_of_the_user_before():
    # User 1 has a single item left to rank, so its list is padded. User 0 holds out the item of
    # the largest id: with pads of -1 the metrics find this item again for user 1.
    data = make_data(2, 4, [(0, 0), (1, 0), (1, 1), (1, 2)], [(0, 3), (1, 0)])
    model = Fixed(torch.ones(2, 1), torch.tensor([[4.0], [3.0], [2.0], [1.0]]))
    out = evaluate(model, data, k=(2, 3), per_user=True)
    assert out['recall@3'].tolist() == [1, 0]  # User 1 holds out a training item: never found.
    assert out['recall@2'].tolist() == [0, 0]
    for name in NAMES:
        assert out[f'{name}@3'][1] == 0

    metric = LinkPredRecall(k=3)  # The trap itself: two users, one hit, but it counts more.
    index = torch.tensor([[1, 2, 3], [3, -1, -1]])
    metric.update(index, torch.tensor([[0, 1], [3, 0]]))
    assert float(metric.compute()) > 0.5


def test_fewer_items_than_k():
    # Two items are left: precision still divides by k, and an item that is found is found.
    data = make_data(1, 5, [(0, 0), (0, 1), (0, 2)], [(0, 4)])
    out = evaluate(Fixed(torch.ones(1, 1), torch.arange(5.0).view(-1, 1)), data, k=5)
    assert out == {
        'recall@5': 1.0,
        'ndcg@5': 1.0,
        'precision@5': pytest.approx(0.2),
        'map@5': 1.0,
    }


def test_ties_rank_the_lower_id_first():
    data = make_data(2, 6, [(0, 0), (1, 5)], [(0, 3), (1, 4)])
    out = evaluate(Fixed(torch.ones(2, 1), torch.zeros(6, 1)), data, k=(3, 5), per_user=True)
    assert out['recall@3'].tolist() == [1, 0]  # 0 ranks 1, 2, 3; 1 ranks 0, 1, 2.
    assert out['map@5'].tolist() == pytest.approx([1 / 3, 1 / 5])


def test_users_that_are_dropped():
    # 0 counts; 1 has no training edge; 2 has no label; 3 has neither.
    data = make_data(4, 3, [(0, 0), (2, 0)], [(0, 1), (1, 0), (1, 2)])
    model = Fixed(torch.ones(4, 1), torch.tensor([[3.0], [2.0], [1.0]]))
    assert held_out_edges(data, 'val').tolist() == [[0], [1]]
    assert evaluate(model, data, k=1)['recall@1'] == 1
    assert evaluate(model, data, k=1, per_user=True)['user'].tolist() == [0]


def test_repeated_labels_count_once():
    once = make_data(1, 5, [(0, 0)], [(0, 1), (0, 4)])
    twice = make_data(1, 5, [(0, 0)], [(0, 4), (0, 1), (0, 1), (0, 1)])
    model = Fixed(torch.ones(1, 1), -torch.arange(5.0).view(-1, 1))
    assert evaluate(model, twice, k=2) == evaluate(model, once, k=2)
    assert evaluate(model, twice, k=2)['recall@2'] == 0.5


def test_items_never_seen_in_training_are_candidates():
    data = make_data(1, 3, [(0, 0)], [(0, 1)])
    model = Fixed(torch.ones(1, 1), torch.tensor([[0.0], [1.0], [2.0]]))
    assert evaluate(model, data, k=(1, 2)).items() >= {'recall@1': 0.0, 'recall@2': 1.0}.items()


def test_ids_of_32_bits():
    """Also where the number of a pair has more."""
    data = random_data(seed=1)
    model = integer_model(data, seed=1)
    masks = ('train', 'train+val')
    expected = [evaluate(model, data, 'test', k=(1, 10), mask=mask) for mask in masks]
    for edge_type in data.edge_types:
        for name, index in list(data[edge_type].items()):
            data[edge_type][name] = index.int()
    assert [evaluate(model, data, 'test', k=(1, 10), mask=mask) for mask in masks] == expected
    large = make_data(70_000, 70_000, [(69_999, 0)], [(69_999, 69_998)])
    large['user', 'val', 'item'].edge_label_index = torch.tensor([[69_999], [69_998]]).int()
    assert held_out_edges(large).tolist() == [[69_999], [69_998]]


@pytest.mark.parametrize('batch_size', [1, 7, 45, 1000])
def test_batch_size_does_not_matter(batch_size):
    data = random_data(seed=1)
    model = integer_model(data, seed=1)
    out = evaluate(model, data, 'test', batch_size=batch_size, k=(1, 10))
    assert out == evaluate(model, data, 'test', k=(1, 10))


def test_order_of_users_and_edges_does_not_matter():
    data = random_data(seed=2)
    model = integer_model(data, seed=2)
    expected = evaluate(model, data, 'test', k=(5, 10), per_user=True)

    generator = torch.Generator().manual_seed(0)
    perm = torch.randperm(60, generator=generator)  # New id of each user.
    other = data.clone()
    for edge_type, name in [
        (('user', 'rates', 'item'), 'edge_index'),
        (('user', 'val', 'item'), 'edge_label_index'),
        (('user', 'test', 'item'), 'edge_label_index'),
    ]:
        index = data[edge_type][name]
        index = torch.stack([perm[index[0]], index[1]])
        index = index[:, torch.randperm(index.size(1), generator=generator)]
        other[edge_type][name] = index
    user = torch.empty_like(model.user)
    user[perm] = model.user
    out = evaluate(Fixed(user, model.item), other, 'test', k=(5, 10), per_user=True)

    order = perm[expected['user']].argsort()
    for name in expected:
        value = perm[expected[name]] if name == 'user' else expected[name]
        assert torch.equal(out[name], value[order]), name


def test_low_precision_is_ranked_in_single_precision():
    # In bfloat16 both scores would round to 256 and the first item would win.
    item = torch.tensor([[256.0, 0.0], [256.0, 1.0]], dtype=torch.bfloat16)
    data = make_data(1, 3, [(0, 2)], [(0, 1)])
    item = torch.cat([item, torch.zeros(1, 2, dtype=torch.bfloat16)])
    model = Fixed(torch.ones(1, 2, dtype=torch.bfloat16), item)
    assert evaluate(model, data, k=1)['recall@1'] == 1


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.item = nn.Parameter(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)))
        self.frozen = nn.Dropout()
        self.calls = []

    def embed(self):
        self.calls.append((self.training, self.frozen.training, torch.is_grad_enabled()))
        return SimpleNamespace(user=self.item[:2] * 1, item=self.item * 1)


@pytest.mark.parametrize('training', [True, False])
def test_model_is_in_eval_mode_without_gradients(training):
    data = make_data(2, 3, [(0, 0)], [(0, 1)])
    model = Module().train(training)
    model.frozen.eval()
    evaluate(model, data, k=1)
    assert model.calls == [(False, False, False)]
    assert model.training == training
    assert not model.frozen.training


def test_averages_are_those_of_the_users():
    data = make_data(3, 4, [(0, 0), (1, 1), (2, 2)], [(0, 1), (1, 2), (1, 3), (2, 0)])
    model = Fixed(torch.randn(3, 2), torch.randn(4, 2))
    users = evaluate(model, data, k=(1, 2), per_user=True)
    assert list(users) == ['user', *(f'{m}@{k}' for k in (1, 2) for m in METRICS)]
    assert average_metrics(users) == evaluate(model, data, k=(1, 2))


def test_what_an_evaluation_model_caches_survives():
    modes = []
    model = Module().eval()
    model.train = lambda mode=True: modes.append(mode)
    evaluate(model, make_data(2, 3, [(0, 0)], [(0, 1)]), k=1)
    assert modes == []


def test_mode_is_restored_after_an_error():
    model = Module()
    model.embed = lambda: SimpleNamespace(user=None, item=None)
    with pytest.raises(TypeError, match="tensor 'user'"):
        evaluate(model, make_data(2, 3, [(0, 0)], [(0, 1)]), k=1)
    assert model.training and model.frozen.training


DATA = make_data(2, 3, [(0, 0)], [(0, 1)], [(1, 2)])
MODEL = Fixed(torch.ones(2, 1), torch.ones(3, 1))


@pytest.mark.parametrize(
    'model,kwargs,error,match',
    [
        (MODEL, {'split': 'dev'}, ValueError, r"'split' must .*'val', 'test'.*got 'dev'"),
        (MODEL, {'split': 'rates'}, ValueError, "'split' must .*got 'rates'"),
        (MODEL, {'k': 0}, ValueError, r"'k' must .* 3 items \(got 0\)"),
        (MODEL, {'k': (1, 4)}, ValueError, r"'k' must .* 3 items \(got 4\)"),
        (MODEL, {'k': ()}, ValueError, r"'k' must .*got none"),
        (MODEL, {'k': 1.5}, TypeError, r"'k' must .*\(got 1.5\)"),
        (MODEL, {'k': (True,)}, TypeError, r"'k' must .*\(got True\)"),
        (MODEL, {'mask': 'val'}, ValueError, r"'mask' must .*\(got 'val'\)"),
        (MODEL, {'mask': 'train+val'}, ValueError, r"'mask' must .*got 'train\+val'"),
        (MODEL, {'batch_size': 0}, ValueError, r"'batch_size' must .*\(got 0\)"),
        (MODEL, {'split': 'test'}, ValueError, "no user with .* 'test' has a training edge"),
        (object(), {}, TypeError, r"'model' must .*embed\(\) \(got object\)"),
        (Fixed(torch.ones(3, 1), MODEL.item), {}, ValueError, r'user.*\[2, channels\].*\[3, 1'),
        (Fixed(MODEL.user, torch.ones(3)), {}, ValueError, r'item.*\[3, channels\] \(got \[3\]'),
        (
            Fixed(MODEL.user, torch.tensor([[1.0], [float('nan')], [1.0]])),
            {},
            ValueError,
            r"item' must be finite \(got .* in 1 of 3 rows, first item 1\)",
        ),
        (
            Fixed(torch.tensor([[1.0], [float('inf')]]), MODEL.item),
            {},
            ValueError,
            r"user' must be finite \(got .* in 1 of 2 rows, first user 1\)",
        ),
    ],
)
def test_errors(model, kwargs, error, match):
    with pytest.raises(error, match=match):
        evaluate(model, DATA, **{'k': 1, **kwargs})


def test_scores_that_overflow():
    # Finite embeddings, but inf - inf as a score.
    large = Fixed(torch.full((2, 2), 1e30), torch.tensor([[1e30, -1e30]] * 3))
    if not bool((large.user @ pad_items(large.item).t()).isnan().any()):
        pytest.skip('the matrix product of this CPU does not round in between')
    with pytest.raises(ValueError, match='scores .* NaN'):
        evaluate(large, DATA, k=1)


def test_large_embeddings_are_ranked():
    # The sum of all entries overflows, the scores do not.
    data = make_data(1, 3, [(0, 0)], [(0, 1)])
    model = Fixed(torch.ones(1, 1), torch.tensor([[3e38], [2e38], [1e38]]))
    assert evaluate(model, data, k=1)['recall@1'] == 1


def test_errors_of_the_data():
    empty = make_data(2, 3, [(0, 0)])
    with pytest.raises(ValueError, match="'val'.*edge_label_index must hold an edge"):
        evaluate(MODEL, empty, k=1)

    beyond = make_data(2, 3, [(0, 0)], [(0, 3)])
    with pytest.raises(ValueError, match=r'item ids in \[0, 3\) \(got 3\)'):
        evaluate(MODEL, beyond, k=1)
    negative = make_data(2, 3, [(0, 0)], [(-1, 2)])
    with pytest.raises(ValueError, match=r'user ids in \[0, 2\) \(got -1\)'):
        evaluate(MODEL, negative, k=1)

    flat = make_data(2, 3, [(0, 0)], torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r'\[2, n\] .*\[4\]'):
        evaluate(MODEL, flat, k=1)

    no_train = make_data(2, 3, [], [(0, 1)])
    del no_train['user', 'rates', 'item']
    with pytest.raises(ValueError, match=r"\('user', 'rates', 'item'\)"):
        evaluate(MODEL, no_train, k=1)

    no_size = HeteroData()
    no_size['user', 'val', 'item'].edge_label_index = torch.zeros(2, 1, dtype=torch.long)
    with pytest.raises(ValueError, match='num_nodes is not set'):
        evaluate(MODEL, no_size, k=1)
