import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.transforms import SecondOrderGraph


def toy():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 4
    data['item'].x_image = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
    data['item'].x_text = torch.tensor([[1.0, 0.2], [2, 1], [-0.1, 1], [1, -1]])
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])
    data['user', 'rates', 'item'].edge_index = torch.cat([edge_index, edge_index], dim=1)
    return data


def dense(data):
    store = data['user', 'second_order', 'item']
    return torch.zeros(3, 4).index_put(tuple(store.edge_index), store.edge_weight)


def test_worked_example():
    public = [[1, 1, 1, 0.4961], [0.3051, 1, 0, 0], [1, 0, 1, 1.4961]]
    unrecorded = [[0, 0, 0, 0.4961], [0.3051, 0, 0, 0], [0, 0.3051, 0, 0]]
    for rule, expected in (('public', public), ('unrecorded', unrecorded)):
        actual = dense(SecondOrderGraph(1, rule)(toy()))  # edges that repeat count once
        torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-4, rtol=0)


def test_missing_features():
    data = toy()
    data['item'].has_text = torch.tensor([True, True, True, False])
    data['item'].x_text[3] = torch.nan
    # Between items 0 and 3 the images alone decide.
    actual = dense(SecondOrderGraph(1, 'unrecorded')(data))
    torch.testing.assert_close(actual[0, 3], torch.tensor(0.8944), atol=1e-4, rtol=0)
    data['item'].has_image = torch.tensor([True, True, True, False])
    assert (dense(SecondOrderGraph(4, 'unrecorded')(data))[:, 3] == 0).all()


def test_repr_and_errors():
    assert repr(SecondOrderGraph(3)) == "SecondOrderGraph(k=3, rule='public')"
    with pytest.raises(ValueError, match="'rule' must be one of"):
        SecondOrderGraph(3, 'paper')(toy())
