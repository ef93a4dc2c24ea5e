import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import load_dataset
from mrdib_pyg.transforms import UserCooccurrence


def toy():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 4
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])
    data['user', 'rates', 'item'].edge_index = edge_index
    data['user', 'val', 'item'].edge_label_index = torch.tensor([[1], [2]])
    return data


@pytest.mark.parametrize(
    ('transform', 'weight'),
    [
        (UserCooccurrence(), [0.7311, 0.2689, 1, 1]),
        (UserCooccurrence(weighting='mean'), [0.5, 0.5, 1, 1]),
    ],
)
def test_values(transform, weight):
    data = toy()
    out = transform(data)
    store = out['user', 'cooccurrence', 'user']
    assert store.edge_index.tolist() == [[0, 0, 1, 2], [2, 1, 0, 0]]
    torch.testing.assert_close(store.edge_weight, torch.tensor(weight), atol=1e-4, rtol=0)
    assert ('user', 'cooccurrence', 'user') not in data.edge_types  # a copy
    out.validate()


def test_k():
    store = UserCooccurrence(k=1)(toy())['user', 'cooccurrence', 'user']
    assert store.edge_index.tolist() == [[0, 1, 2], [2, 0, 0]]
    assert store.edge_weight.tolist() == [1.0, 1.0, 1.0]


def test_repr():
    assert repr(UserCooccurrence(10)) == "UserCooccurrence(10, weighting='softmax')"


def test_refuses():
    with pytest.raises(ValueError, match=r"'k' must be at least 1 \(got 0\)"):
        UserCooccurrence(0)
    with pytest.raises(ValueError, match=r"'weighting' must .*\(got 'sum'\)"):
        UserCooccurrence(weighting='sum')
    with pytest.raises(ValueError, match='no training edge'):
        UserCooccurrence()(HeteroData())


def test_amazon_baby(data_root):
    data = load_dataset(str(data_root / 'amazon-baby'))
    edges = data['user', 'rates', 'item'].edge_index
    store = UserCooccurrence()(data)['user', 'cooccurrence', 'user']
    row, col = store.edge_index
    degree = torch.bincount(row, minlength=data['user'].num_nodes)
    assert degree.max() == 40 and (row != col).all()
    total = torch.zeros(data['user'].num_nodes).index_add(0, row, store.edge_weight)
    torch.testing.assert_close(total[degree > 0], torch.ones(int((degree > 0).sum())))
    for u in (0, 17, int(torch.bincount(edges[0]).argmax())):
        own = torch.zeros(data['item'].num_nodes)
        own[edges[1, edges[0] == u]] = 1.0
        count = torch.zeros(data['user'].num_nodes).index_add(0, edges[0], own[edges[1]])
        count[u] = 0.0
        best = count.sort(descending=True, stable=True)
        expected = best.indices[:40][best.values[:40] > 0]
        assert torch.equal(col[row == u], expected)
        torch.testing.assert_close(store.edge_weight[row == u], count[expected].softmax(dim=0))
