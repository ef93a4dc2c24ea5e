import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg import interactions
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.interactions import (
    TRAIN_EDGE,
    UserItems,
    check_pairs,
    held_out_edges,
    known_pairs,
    label_edges,
    modalities_of,
    modality_mask,
    num_nodes,
    training_edges,
)
from mrdib_pyg.nn.models import MGCN
from mrdib_pyg.transforms import InterestGraph, PruneEdges, SecondOrderGraph, UserCooccurrence

EDGES = torch.tensor([[0, 0, 1, 2, 2, 3], [1, 3, 0, 0, 2, 4]])


def make_data(edge_index=EDGES):
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 5, 6
    for name in ('text', 'image'):
        data['item'][f'x_{name}'] = torch.randn(6, 4)
    data['item'].has_image = torch.tensor([1, 1, 0, 1, 1, 1])
    data[TRAIN_EDGE].edge_index = edge_index
    data['user', 'val', 'item'].edge_label_index = torch.tensor([[4, 1, 1, 0], [0, 5, 2, 2]])
    return data


def test_training_edges_are_sorted_each_once():
    data = make_data()
    assert training_edges(data) is data[TRAIN_EDGE].edge_index
    shuffled = torch.cat([EDGES, EDGES[:, 2:4]], dim=1)[:, torch.randperm(8)].int()
    assert torch.equal(training_edges(make_data(shuffled)), EDGES)
    assert training_edges(make_data(EDGES.t().contiguous().t())).is_contiguous()


def test_edges_in_order_are_never_sorted_again(monkeypatch):
    """A model, its graphs and its evaluation take the edges of the data as they come."""

    def refuse(*args, **kwargs):
        raise AssertionError('edges in order were coalesced')

    data = make_data()
    monkeypatch.setattr(interactions, 'coalesce', refuse)
    for transform in (InterestGraph(2, 2), SecondOrderGraph(), UserCooccurrence(2)):
        data = transform(data)
    model = MGCN(PruneEdges(0.1, seed=0)(data), k=2)
    assert 'recall@2' in evaluate(model, data, k=2)


def test_a_model_keeps_its_edges():
    data = make_data(EDGES.clone())
    model = MGCN(data, k=2)
    data[TRAIN_EDGE].edge_index.zero_()
    assert torch.equal(model.train_edge_index, EDGES)


def test_refused_training_edges():
    for data in (make_data(EDGES[:, :0]), HeteroData()):
        with pytest.raises(ValueError, match=r"'data' .*\('user', 'rates', 'item'\)"):
            training_edges(data)
    data = HeteroData()
    data[TRAIN_EDGE].adj_t = 1
    with pytest.raises(ValueError, match='adj_t'):
        training_edges(data)


def test_sizes_and_modalities():
    data = make_data()
    assert (num_nodes(data, 'user'), num_nodes(data, 'item')) == (5, 6)
    with pytest.raises(ValueError, match=r"data\['shop'\].num_nodes"):
        num_nodes(data, 'shop')
    assert modalities_of(data) == ['text', 'image']
    assert modality_mask(data, 'text') is None
    assert modality_mask(data, 'image').tolist() == [True, True, False, True, True, True]


def test_held_out_and_known_pairs():
    data = make_data()
    assert torch.equal(label_edges(data, 'val'), data['user', 'val', 'item'].edge_label_index)
    # User 4 has no training edge.
    assert held_out_edges(data).tolist() == [[0, 1, 1], [2, 2, 5]]
    expected = sorted({*map(tuple, EDGES.t().tolist()), (4, 0), (1, 5), (1, 2), (0, 2)})
    assert list(map(tuple, known_pairs(data).t().tolist())) == expected


def test_lookup_of_the_items_of_users():
    pairs = known_pairs(make_data())
    found = UserItems(pairs[:, torch.randperm(pairs.size(1))], 5, 6)(torch.tensor([2, 0, 2]))
    assert found.tolist() == [[0, 0, 1, 1, 1, 2, 2], [0, 2, 1, 2, 3, 0, 2]]
    with pytest.raises(ValueError, match=r"'exclude' .*\[0, 6\) \(got 6\)"):
        UserItems(torch.tensor([[0], [6]]), 5, 6)


@pytest.mark.parametrize(
    ('pairs', 'match'),
    [
        (torch.zeros(3, 2).long(), r"'x' must .*\[3, 2\]"),
        (torch.zeros(4).long(), r"'x' must .*\[4\]"),
        (torch.zeros(2, 3), r"'x' must .*float32"),
        (torch.tensor([[0], [-1]]), r"'x' must .*item ids in \[0, infinity\) \(got -1\)"),
        (torch.tensor([[5], [0]]), r"'x' must .*user ids in \[0, 5\) \(got 5\)"),
    ],
)
def test_refused_pairs(pairs, match):
    with pytest.raises(ValueError, match=match):
        check_pairs("'x'", pairs, (5, None))
    check_pairs("'x'", torch.tensor([[4], [9]]), (5, None))
