import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.transforms import PruneEdges

EDGE = ('user', 'rates', 'item')


def make_data():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 30, 20
    data[EDGE].edge_index = (torch.rand(30, 20) < 0.5).nonzero().t()
    return data


def test_edges_are_dropped():
    data = make_data()
    edge_index = data[EDGE].edge_index
    kept = PruneEdges(0.8, seed=1)(data)[EDGE].edge_index
    assert kept.size(1) == edge_index.size(1) // 5
    code = kept[0] * 20 + kept[1]
    assert torch.isin(code, edge_index[0] * 20 + edge_index[1]).all()
    assert torch.equal(data[EDGE].edge_index, edge_index)
    assert torch.equal(PruneEdges(0.8, seed=1)(data)[EDGE].edge_index, kept)
    assert not torch.equal(PruneEdges(0.8, seed=2)(data)[EDGE].edge_index, kept)
    transform = PruneEdges(0.8)
    assert not torch.equal(transform(data)[EDGE].edge_index, transform(data)[EDGE].edge_index)


def test_attributes_of_edges_stay_with_them():
    data = make_data()
    data[EDGE].time = data[EDGE].edge_index[0] * 20 + data[EDGE].edge_index[1]
    store = PruneEdges(0.8)(data)[EDGE]
    assert torch.equal(store.time, store.edge_index[0] * 20 + store.edge_index[1])


def test_attributes_of_edges_in_any_order_stay_with_them():
    """Also of repeated ones, of which those of the first are kept."""
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 4
    data[EDGE].edge_index = torch.tensor([[2, 0, 1, 0, 0], [3, 1, 0, 0, 1]])
    data[EDGE].time = torch.tensor([23, 1, 10, 0, 99])
    store = PruneEdges(0.0)(data)[EDGE]
    assert store.edge_index.tolist() == [[0, 0, 1, 2], [0, 1, 0, 3]]
    assert store.time.tolist() == [0, 1, 10, 23]
    data = make_data()
    data[EDGE].edge_index = data[EDGE].edge_index[:, torch.randperm(data[EDGE].num_edges)]
    data[EDGE].time = data[EDGE].edge_index[0] * 20 + data[EDGE].edge_index[1]
    store = PruneEdges(0.3)(data)[EDGE]
    assert torch.equal(store.time, store.edge_index[0] * 20 + store.edge_index[1])


def test_ids_whose_products_exceed_32_bits():
    data = HeteroData()
    data['user'].num_nodes = data['item'].num_nodes = 60000
    edge_index = torch.tensor([[3, 50000, 59999], [4, 50001, 59999]], dtype=torch.int32)
    data['user', 'rates', 'item'].edge_index = edge_index
    out = PruneEdges(0.0)(data)['user', 'rates', 'item'].edge_index
    assert out.tolist() == edge_index.tolist()


def test_repr_and_errors():
    assert repr(PruneEdges(0.9)) == 'PruneEdges(ratio=0.9, seed=None)'
    with pytest.raises(ValueError, match=r"'ratio' must lie in \[0, 1\) \(got 1\)"):
        PruneEdges(1)
