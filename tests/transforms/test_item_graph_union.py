import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.transforms import ItemGraphUnion, ItemKNN

EDGE = ('item', 'union', 'item')


def toy():
    data = HeteroData()
    data['item'].num_nodes = 4
    data['item'].x_image = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
    data['item'].x_text = torch.tensor([[1.0, 0.2], [2, 1], [-0.1, 1], [1, -1]])
    return data


def dense(data):
    store = data[EDGE]
    code = store.edge_index[0] * 4 + store.edge_index[1]
    assert torch.equal(code, code.unique()) and (store.edge_weight > 0).all()
    return torch.zeros(4, 4).index_put(tuple(store.edge_index), store.edge_weight)


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=0)


def test_worked_example():
    out = ItemGraphUnion(k=2)(toy())
    expected = [[0.5, 0.45, 0, 0.05], [0.45, 0.5, 0.05, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]]
    close(dense(out), expected)
    assert out.edge_types == [EDGE]
    close(dense(ItemGraphUnion({'text': 9, 'image': 1}, k=2)(toy())), expected)


def test_missing_features_share_their_weight():
    data = toy()
    data['item'].has_image = torch.tensor([True, True, True, False])
    expected = [[0.5, 0.45, 0.05, 0], [0.45, 0.5, 0.05, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]]
    close(dense(ItemGraphUnion(k=2)(data)), expected)
    data['item'].has_text = torch.tensor([True, True, True, False])
    out = dense(ItemGraphUnion(k=2)(data))
    assert out[3].tolist() == [0, 0, 0, 0]
    close(out[:3].sum(dim=1), [1.0, 1.0, 1.0])


@pytest.mark.parametrize('names', [['image'], ['image', 'audio'], ['image', 'text', 'audio']])
def test_equal_weights(names):
    data = HeteroData()
    data['item'].num_nodes = 4
    for name in names:
        data['item'][f'x_{name}'] = torch.randn(4, 3)
    graphs = ItemKNN(2, form='binary')(data)
    expected = torch.zeros(4, 4)
    for name in names:
        store = graphs['item', f'{name}_knn', 'item']
        expected[tuple(store.edge_index)] += store.edge_weight / len(names)
    torch.testing.assert_close(dense(ItemGraphUnion(k=2)(data)), expected)
    torch.testing.assert_close(dense(ItemGraphUnion(k=99)(graphs)), expected)  # those of the data


@pytest.mark.parametrize(
    'weights, message',
    [
        ({'image': 1.0}, r"'weights' must .*\(got \['image'\]\)"),
        ({'image': 0.0, 'text': 0.0}, 'nor all zero'),
        ({'image': 2.0, 'text': -1.0}, 'must not be negative'),
        ({'image': float('nan'), 'text': 1.0}, 'must not be negative'),
    ],
)
def test_errors(weights, message):
    with pytest.raises(ValueError, match=message):
        ItemGraphUnion(weights)(toy())


def test_repr():
    assert repr(ItemGraphUnion({'image': 1.0})) == "ItemGraphUnion(weights={'image': 1.0}, k=10)"


def test_no_features():
    data = HeteroData()
    data['item'].num_nodes = 3
    with pytest.raises(ValueError, match='the items have no features'):
        ItemGraphUnion()(data)
