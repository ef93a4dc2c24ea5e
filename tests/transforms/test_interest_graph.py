import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import HeteroData

from mrdib_pyg.ops import interest_counts
from mrdib_pyg.transforms import InterestGraph, ItemKNN
from mrdib_pyg.transforms import item_graphs as module


def toy():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 4
    data['item'].x_image = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
    data['item'].x_text = torch.tensor([[1.0, 0.2], [2, 1], [-0.1, 1], [1, -1]])
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])
    data['user', 'rates', 'item'].edge_index = edge_index
    return data


def random_data(num_users=15, num_items=29, missing=0.0):
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = num_users, num_items
    for name in ('image', 'text'):
        data['item'][f'x_{name}'] = torch.randn(num_items, 4)
        if missing > 0:
            data['item'][f'has_{name}'] = torch.rand(num_items) >= missing
    rates = torch.rand(num_users, num_items) < 0.2
    data['user', 'rates', 'item'].edge_index = rates.nonzero().t()
    return data


def dense(data, name):
    store, size = data['item', name, 'item'], data['item'].num_nodes
    return torch.zeros(size, size).index_put(tuple(store.edge_index), store.edge_weight)


def normalize(w):
    scale = w.sum(dim=1).rsqrt()
    scale = torch.where(scale.isinf(), 0.0, scale)
    return scale.unsqueeze(1) * w * scale


def test_worked_example():
    data = toy()
    out = InterestGraph(2, 2)(data)
    image = [[1.0372, 0.1617, 0.1106, 0.7599], [0.1617, 1.1257, 0.7384, 0]]
    image += [[0.2211, 0.7384, 0.9126, 0.0937], [0.7599, 0.1827, 0, 0.9343]]
    text = [[0.9455, 0.9094, 0.0330, 0.1895], [0.9094, 0.9399, 0.2393, 0]]
    text += [[0.0660, 0.4574, 1.2618, 0], [0.5068, 0.1073, 0, 1.1777]]
    for name, expected in (('image', image), ('text', text)):
        actual = dense(out, f'{name}_interest')
        torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-4, rtol=0)
    assert len(out.edge_types) == 3 and len(data.edge_types) == 1


@pytest.mark.parametrize('missing', [0.0, 0.3])
@pytest.mark.parametrize('chunk_size', [None, 1, 7, 29])
def test_against_dense_matrices(missing, chunk_size):
    data = random_data(missing=missing)
    out = InterestGraph(3, 4, chunk_size=chunk_size)(data)
    names = ['image', 'text']
    masks = [data['item'].get(f'has_{m}', torch.ones(29, dtype=torch.bool)) for m in names]
    pairs, count = interest_counts(
        data['user', 'rates', 'item'].edge_index,
        [data['item'][f'x_{m}'] for m in names],
        3,
        num_users=15,
        masks=masks,
    )
    nu = torch.zeros(29, 29).index_put(tuple(pairs), count)
    for m, mask in zip(names, masks):
        x = F.normalize(data['item'][f'x_{m}']) * mask.unsqueeze(1)
        w = nu * (x @ x.t()).clamp(min=0) + torch.diag((~mask).float())
        expected = normalize(w) + dense(ItemKNN(4)(data), f'{m}_knn')
        torch.testing.assert_close(dense(out, f'{m}_interest'), expected)
        assert (expected[~mask].diag_embed().sum() > 0) == (missing > 0)


def test_cosines_of_dense_and_of_sparse_pairs():
    x = torch.randn(40, 6)
    every = torch.cartesian_prod(torch.arange(40), torch.arange(40)).t()
    expected = F.normalize(x) @ F.normalize(x).t()
    for edge_index in (every, every[:, 3::150]):  # by matrices, and pair by pair
        for chunk_size in (None, 1, 7, 40):
            actual = module._cosine(x, edge_index, chunk_size)
            torch.testing.assert_close(actual, expected[tuple(edge_index)])


def test_item_graphs_of_the_data_are_used():
    data = random_data()
    graphs = ItemKNN(2)(data)
    expected, actual = InterestGraph(3, 2)(data), InterestGraph(3, 9)(graphs)
    assert torch.equal(dense(actual, 'text_interest'), dense(expected, 'text_interest'))


def test_an_item_without_users_keeps_its_neighbors():
    data = random_data()
    edge_index = data['user', 'rates', 'item'].edge_index
    data['user', 'rates', 'item'].edge_index = edge_index[:, edge_index[1] != 4]
    out = dense(InterestGraph(3, 4)(data), 'image_interest')[4]
    torch.testing.assert_close(out, dense(ItemKNN(4)(data), 'image_knn')[4])


def test_errors():
    with pytest.raises(ValueError, match="'k' must be between 1 and the 4 items"):
        InterestGraph(5, 2)(toy())
    data = toy()
    del data['user', 'rates', 'item']
    with pytest.raises(ValueError, match='no training edge'):
        InterestGraph(2, 2)(data)
    assert repr(InterestGraph(5)) == 'InterestGraph(k=5, num_neighbors=10)'
