import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.evaluation import evaluate, evaluate_sampled


class Fixed:
    """Anything with ``embed()`` can be evaluated."""

    def __init__(self, user: Tensor, item: Tensor):
        self.user, self.item = user, item

    def embed(self) -> SimpleNamespace:
        return SimpleNamespace(user=self.user, item=self.item)


def make_data(num_users: int, num_items: int, train: Tensor, test: Tensor) -> HeteroData:
    data = HeteroData()
    data['user'].num_nodes = num_users
    data['item'].num_nodes = num_items
    data['user', 'rates', 'item'].edge_index = train
    data['user', 'test', 'item'].edge_label_index = test
    return data


def random_case(ties: bool, num_users=30, num_items=200, num_edges=80, num_candidates=60):
    generator = torch.Generator().manual_seed(0)
    everyone = torch.arange(num_users)
    item = torch.randint(num_items, (num_edges,), generator=generator)
    test = torch.stack([torch.randint(num_users, (num_edges,), generator=generator), item])
    data = make_data(num_users, num_items, torch.stack([everyone, everyone]), test)
    x = [torch.randn(n, 4, generator=generator) for n in (num_users, num_items)]
    if ties:
        x = [value.round() for value in x]
    negatives = torch.randint(num_items, (num_edges, num_candidates), generator=generator)
    negatives[negatives == item.view(-1, 1)] = 0  # An item is not its own candidate.
    negatives[item == 0] = negatives[item == 0].clamp(min=1)
    return Fixed(x[0].double(), x[1].double()), data, negatives


@pytest.fixture
def evaluator(monkeypatch):
    """ogb's Evaluator by data set, without its look at the network for a newer version."""
    monkeypatch.setitem(sys.modules, 'outdated', None)
    return pytest.importorskip('ogb.linkproppred').Evaluator


@pytest.mark.filterwarnings('ignore')  # Of ogb's own imports.
@pytest.mark.parametrize('ties', [False, True])
def test_equals_ogb_evaluator(evaluator, ties):
    model, data, negatives = random_case(ties)
    user, item = data['user', 'test', 'item'].edge_label_index
    pos = (model.user[user] * model.item[item]).sum(dim=-1)
    neg = (model.user[user].unsqueeze(1) * model.item[negatives]).sum(dim=-1)
    assert bool((neg == pos.view(-1, 1)).any()) == ties

    out = evaluate_sampled(model, data, 'test', negatives, k=(1, 3, 10))
    expected = evaluator('ogbl-citation2').eval({'y_pred_pos': pos, 'y_pred_neg': neg})
    assert out['mrr'] == pytest.approx(float(expected['mrr_list'].mean()), abs=1e-6)
    for k in (1, 3, 10):
        assert out[f'hits@{k}'] == pytest.approx(float(expected[f'hits@{k}_list'].mean()))

    if not ties:  # `ogbl-collab` asks for a larger score than that of the 50th candidate.
        hits = [
            evaluator('ogbl-collab').eval({'y_pred_pos': p.view(1), 'y_pred_neg': n})['hits@50']
            for p, n in zip(pos, neg)
        ]
        out = evaluate_sampled(model, data, 'test', negatives, k=50)
        assert 0 < sum(hits) < len(hits)
        assert out['hits@50'] == pytest.approx(sum(hits) / len(hits))


def test_all_candidates_give_the_full_ranking():
    # One held-out item a user and every other unmasked item as its candidate: hits are recall.
    generator = torch.Generator().manual_seed(0)
    users = torch.arange(20)
    train = torch.stack([users, users % 15])
    test = torch.stack([users, (users * 7 + 1) % 15])
    test = test[:, test[1] != train[1]]
    data = make_data(20, 15, train, test)
    x = [torch.randn(n, 4, generator=generator) for n in (20, 15)]
    rest = torch.tensor(
        [[i for i in range(15) if i not in (u % 15, item)] for u, item in test.t().tolist()]
    )
    out = evaluate_sampled(Fixed(*x), data, 'test', rest, k=(1, 3, 10))
    full = evaluate(Fixed(*x), data, 'test', k=(1, 3, 10, 15))
    for k in (1, 3, 10):
        assert out[f'hits@{k}'] == pytest.approx(full[f'recall@{k}'])
    assert out['mrr'] == pytest.approx(full['map@15'])


def test_rank_by_hand():
    # Scores are the items' ids, but for the first and last item, which are the best. Candidates
    # above 5: 9, 8; equal: 5; -1 is none.
    data = make_data(1, 10, torch.zeros(2, 1, dtype=torch.long), torch.tensor([[0], [5]]))
    item = torch.arange(10.0).view(-1, 1)
    item[[0, -1]] = 20
    model = Fixed(torch.ones(1, 1), item)
    out = evaluate_sampled(model, data, 'test', torch.tensor([[9, 1, 5, 8, -1]]), k=(3, 4))
    assert out == {'mrr': pytest.approx(1 / 3.5), 'hits@3': 0.0, 'hits@4': 1.0}
    none = evaluate_sampled(model, data, 'test', torch.tensor([[-1, -1]]), k=1)
    assert none == {'mrr': 1.0, 'hits@1': 1.0}


def test_equal_embeddings_tie():
    data = make_data(1, 100, torch.zeros(2, 1, dtype=torch.long), torch.tensor([[0], [1]]))
    generator = torch.Generator().manual_seed(0)
    model = Fixed(
        torch.randn(1, 67, generator=generator),
        torch.randn(1, 67, generator=generator).expand(100, -1),
    )
    out = evaluate_sampled(model, data, 'test', torch.arange(2, 100).view(1, -1), k=1)
    assert out['mrr'] == pytest.approx(1 / 50)


@pytest.mark.parametrize('batch_size', [1, 7, 80])
def test_batch_size_does_not_matter(batch_size):
    model, data, negatives = random_case(ties=True)
    out = evaluate_sampled(model, data, 'test', negatives, batch_size=batch_size)
    assert out == evaluate_sampled(model, data, 'test', negatives)


def test_users_without_training_edges_are_dropped():
    test = torch.tensor([[1, 0], [2, 1]])
    data = make_data(2, 3, torch.zeros(2, 1, dtype=torch.long), test)
    model = Fixed(torch.ones(2, 1), torch.arange(3.0).view(-1, 1))
    out = evaluate_sampled(model, data, 'test', torch.tensor([[0], [2]]), k=1)
    assert out == {'mrr': 0.5, 'hits@1': 0.0}  # The first row would be a hit.

    data['user', 'test', 'item'].edge_label_index = test[:, :1]
    with pytest.raises(ValueError, match="'test' has a training edge"):
        evaluate_sampled(model, data, 'test', torch.tensor([[0]]), k=1)


@pytest.mark.parametrize(
    'negatives,kwargs,match',
    [
        (torch.zeros(3, 2), {}, r"'negatives' must .*\[2, num_candidates\].*\[3, 2\]"),
        (torch.zeros(2), {}, r"'negatives' must .*\[2\]"),
        (torch.zeros(2, 0), {}, r"'negatives' must .*\[2, 0\]"),
        (torch.tensor([[0], [3]]), {}, r"'negatives' must .*\[0, 3\).*\(got 3\)"),
        (torch.tensor([[0], [-2]]), {}, r"'negatives' must .*\(got -2\)"),
        (torch.zeros(2, 2), {'split': 'val'}, "'split' must .*got 'val'"),
        (torch.zeros(2, 2), {'k': 0}, r"'k' must .*\(got 0\)"),
        (torch.zeros(2, 2), {'batch_size': 0}, r"'batch_size' must .*\(got 0\)"),
    ],
)
def test_errors(negatives, kwargs, match):
    index = torch.tensor([[0, 1], [0, 1]])
    data = make_data(2, 3, index, index)
    model = Fixed(torch.ones(2, 1), torch.ones(3, 1))
    with pytest.raises(ValueError, match=match):
        evaluate_sampled(
            model, data, **{'split': 'test', 'k': 1, 'negatives': negatives.long(), **kwargs}
        )


def test_scores_that_overflow():
    index = torch.tensor([[0], [0]])
    data = make_data(1, 2, index, torch.tensor([[0], [1]]))
    model = Fixed(torch.full((1, 2), 1e30), torch.tensor([[1e30, -1e30]] * 2))
    with pytest.raises(ValueError, match="split 'test' .*got NaN for 1 edges"):
        evaluate_sampled(model, data, 'test', torch.zeros(1, 1, dtype=torch.long), k=1)


def test_model_without_embed():
    index = torch.tensor([[0], [0]])
    with pytest.raises(TypeError, match=r"'model' must .*embed\(\) \(got object\)"):
        evaluate_sampled(object(), make_data(1, 2, index, index), 'test', index[:1], k=1)
