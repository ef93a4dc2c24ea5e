import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import InteractionFolder, load_dataset
from mrdib_pyg.ops.interest_graphs import interest_counts
from mrdib_pyg.transforms import (
    InterestGraph,
    ItemGraphUnion,
    ItemKNN,
    PruneEdges,
    SecondOrderGraph,
    UserCooccurrence,
)
from mrdib_pyg.transforms import item_graphs as module


def toy():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 4
    data['item'].x_image = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
    data['item'].x_text = torch.tensor([[1.0, 0.2], [2, 1], [-0.1, 1], [1, -1]])
    return data


def dense(data, name, num_items=4):
    store = data['item', f'{name}_knn', 'item']
    return torch.zeros(num_items, num_items).index_put(tuple(store.edge_index), store.edge_weight)


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-4, rtol=0)


def test_similarity_form():
    data = toy()
    out = ItemKNN(2)(data)
    image = [[0.5279, 0, 0, 0.4721], [0, 0.6126, 0.3874, 0], [0, 0.3874, 0.6126, 0]]
    close(dense(out, 'image'), [*image, [0.4721, 0, 0, 0.5279]])
    text = [[0.5090, 0.4910, 0, 0], [0.4910, 0.5090, 0, 0], [0, 0.2181, 0.7375, 0]]
    close(dense(out, 'text'), [*text, [0.3174, 0, 0, 0.6432]])
    assert data.edge_types == []  # the data that came in is as it was


def test_binary_form():
    out = ItemKNN(2, form='binary')(toy())
    close(
        dense(out, 'image'),
        [[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]],
    )
    close(
        dense(out, 'text'), [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]]
    )
    # A negative neighbor counts as any other.
    close(dense(ItemKNN(4, form='binary')(toy()), 'text'), [[0.25] * 4] * 4)


def test_negative_similarities_are_zero():
    s = torch.tensor(
        [
            [1, 0.9648, 0.0976, 0.5547],
            [0.9648, 1, 0.3560, 0.3162],
            [0.0976, 0.3560, 1, 0],
            [0.5547, 0.3162, 0, 1],
        ]
    )
    scale = s.sum(dim=1).rsqrt()
    close(dense(ItemKNN(4)(toy()), 'text'), (scale.unsqueeze(1) * s * scale).tolist())


@pytest.mark.parametrize('form', ['similarity', 'binary'])
def test_items_without_features_keep_a_self_loop(form):
    data = toy()
    data['item'].has_image = torch.tensor([True, True, True, False])
    masked = dense(ItemKNN(2, form=form)(data), 'image')
    assert masked[3].tolist() == [0, 0, 0, 1] and masked[:, 3].tolist() == [0, 0, 0, 1]
    assert (masked[0] > 0).tolist() == [True, False, True, False]
    data['item'].x_image[3] = torch.nan
    assert torch.equal(dense(ItemKNN(2, form=form)(data), 'image'), masked)
    data = toy()
    data['item'].x_image[3] = 0.0  # no direction, no neighbors
    assert torch.equal(dense(ItemKNN(2, form=form)(data), 'image'), masked)


def test_modality():
    out = ItemKNN(2, modality='text')(toy())
    assert out.edge_types == [('item', 'text_knn', 'item')]
    assert ItemKNN(2, modality=['text', 'image'])(toy()).edge_types[1][1] == 'image_knn'


def test_chunk_size():
    data = HeteroData()
    data['item'].num_nodes = 31
    data['item'].x_image = torch.randn(31, 5)
    expected = ItemKNN(4)(data)['item', 'image_knn', 'item']
    for chunk_size in (1, 7, 31):
        actual = ItemKNN(4, chunk_size=chunk_size)(data)['item', 'image_knn', 'item']
        assert torch.equal(actual.edge_index, expected.edge_index)
        torch.testing.assert_close(actual.edge_weight, expected.edge_weight)


@pytest.mark.parametrize('how', ['tensor', 'array', 'file'])
def test_given_neighbors(how, tmp_path):
    neighbors = torch.tensor([[0, 1], [1, 0], [2, 2], [3, -1]])  # a repeat, and padding
    if how != 'tensor':
        neighbors = neighbors.numpy()
    if how == 'file':
        np.save(tmp_path / 'knn.npy', neighbors)
        neighbors = str(tmp_path / 'knn.npy')
    out = ItemKNN(neighbors={'image': neighbors}, modality='image', form='binary')(toy())
    expected = [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]
    close(dense(out, 'image'), expected)
    out = ItemKNN(2, neighbors={'image': neighbors})(toy())
    r = 1.3162
    expected[0][:2], expected[1][:2] = [1 / r, 0.3162 / r], [0.3162 / r, 1 / r]
    close(dense(out, 'image'), expected)
    assert torch.equal(dense(out, 'text'), dense(ItemKNN(2)(toy()), 'text'))

    data = toy()
    data['item'].has_image = torch.tensor([True, False, True, True])
    out = ItemKNN(neighbors={'image': neighbors}, modality='image')(data)
    assert torch.equal(dense(out, 'image'), torch.eye(4))


def test_given_neighbors_of_features_that_are_not_finite():
    data = HeteroData()
    data['item'].x_image = torch.tensor([[1.0, 2.0], [float('nan'), 1.0], [1.0, 1.0], [3.0, 1.0]])
    data['item'].num_nodes = 4
    given = {'image': torch.tensor([[0, 1], [1, 2], [2, 3], [3, 2]])}
    with pytest.raises(ValueError, match="row 1 of 'x' holds NaN or infinity"):
        ItemKNN(neighbors=given)(data)
    data['item'].has_image = torch.tensor([True, False, True, True])
    edge_index = ItemKNN(neighbors=given)(data)['item', 'image_knn', 'item'].edge_index
    assert edge_index.t().tolist() == [[0, 0], [1, 1], [2, 2], [2, 3], [3, 2], [3, 3]]


def test_given_neighbors_of_a_modality_without_features():
    neighbors = {'audio': torch.tensor([[0, 1], [1, 0], [2, 3], [3, 0]])}
    out = ItemKNN(2, neighbors=neighbors, form='binary')(toy())
    assert {edge[1] for edge in out.edge_types} == {'image_knn', 'text_knn', 'audio_knn'}
    assert dense(out, 'audio')[3].tolist() == [0.5, 0, 0, 0.5]
    with pytest.raises(ValueError, match="'modality' must .*got 'audio'"):
        ItemKNN(2, neighbors=neighbors)(toy())


def test_repr_tells_given_neighbors_apart(tmp_path):
    assert repr(ItemKNN()) == "ItemKNN(k=10, modality=None, form='similarity', neighbors={})"
    first = repr(ItemKNN(neighbors={'image': torch.zeros(4, 2, dtype=torch.long)}))
    assert first == repr(ItemKNN(neighbors={'image': np.zeros((4, 2), dtype=np.int64)}))
    assert first != repr(ItemKNN(neighbors={'image': torch.ones(4, 2, dtype=torch.long)}))
    np.save(tmp_path / 'knn.npy', np.zeros((4, 2), dtype=np.int64))
    file = ItemKNN(neighbors={'image': tmp_path / 'knn.npy'})
    first = repr(file)
    np.save(tmp_path / 'knn.npy', np.zeros((4, 3), dtype=np.int64))
    assert repr(file) != first


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'k': 0}, r"'k' must be at least 1 \(got 0\)"),
        ({'k': 5}, "'k' must be between 1 and the 4 rows"),
        ({'form': 'cosine'}, "'form' must be one of"),
        ({'modality': 'audio'}, "'modality' must .*got 'audio'"),
        ({'neighbors': {'image': torch.zeros(3, 2).long()}}, 'a row for each of the 4 items'),
        ({'neighbors': {'image': torch.zeros(4, 2)}}, 'must be item ids'),
        (
            {'neighbors': {'image': torch.full((4, 2), 4)}},
            r"of 'image' must be below 4 \(got 4\)",
        ),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        ItemKNN(**settings)(toy())


def test_cached_graphs_follow_the_features(tmp_path):
    root = tmp_path / 'set'
    root.mkdir()
    (root / 'set.inter').write_text('userID\titemID\tx_label\n0\t0\t0\n0\t1\t0\n1\t2\t0\n')
    x = np.random.default_rng(0).random(size=(3, 4)).astype(np.float32)
    graphs = []
    for change in (0.0, 0.5):
        x[2, 1] += change
        np.save(root / 'image_feat.npy', x)
        os.utime(root / 'image_feat.npy', ns=(0, int(change * 1e9)))  # whatever the clock
        for k in (2, 3):
            dataset = InteractionFolder(
                root, pre_transform=ItemKNN(k), cache_dir=tmp_path / 'cache'
            )
            graphs.append(dataset[0]['item', 'image_knn', 'item'].edge_weight)
    assert len({tuple(graph.tolist()) for graph in graphs}) == 4


def test_amazon_baby(data_root):
    folder = data_root / 'amazon-baby'
    data = InteractionFolder(folder)[0]
    neighbors = {name: folder / f'{name}_knn.npy' for name in ('image', 'text')}
    out = ItemKNN(neighbors=neighbors)(data)
    mine = ItemKNN(10)(data)
    for name in neighbors:
        edge_index = out['item', f'{name}_knn', 'item'].edge_index
        assert edge_index.size(1) > 60_000
        code = edge_index[0] * 7050 + edge_index[1]
        other = mine['item', f'{name}_knn', 'item'].edge_index
        shared = torch.isin(other[0] * 7050 + other[1], code).float().mean()
        assert shared > 0.3  # the features are an embedding of these graphs


EDGE = ('item', 'union', 'item')


def toy_union():
    data = HeteroData()
    data['item'].num_nodes = 4
    data['item'].x_image = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
    data['item'].x_text = torch.tensor([[1.0, 0.2], [2, 1], [-0.1, 1], [1, -1]])
    return data


def dense_union(data):
    store = data[EDGE]
    code = store.edge_index[0] * 4 + store.edge_index[1]
    assert torch.equal(code, code.unique()) and (store.edge_weight > 0).all()
    return torch.zeros(4, 4).index_put(tuple(store.edge_index), store.edge_weight)


def close_union(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=0)


def test_worked_example():
    out = ItemGraphUnion(k=2)(toy_union())
    expected = [[0.5, 0.45, 0, 0.05], [0.45, 0.5, 0.05, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]]
    close_union(dense_union(out), expected)
    assert out.edge_types == [EDGE]
    close_union(dense_union(ItemGraphUnion({'text': 9, 'image': 1}, k=2)(toy_union())), expected)


def test_missing_features_share_their_weight():
    data = toy_union()
    data['item'].has_image = torch.tensor([True, True, True, False])
    expected = [[0.5, 0.45, 0.05, 0], [0.45, 0.5, 0.05, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]]
    close_union(dense_union(ItemGraphUnion(k=2)(data)), expected)
    data['item'].has_text = torch.tensor([True, True, True, False])
    out = dense_union(ItemGraphUnion(k=2)(data))
    assert out[3].tolist() == [0, 0, 0, 0]
    close_union(out[:3].sum(dim=1), [1.0, 1.0, 1.0])


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
    torch.testing.assert_close(dense_union(ItemGraphUnion(k=2)(data)), expected)
    torch.testing.assert_close(
        dense_union(ItemGraphUnion(k=99)(graphs)), expected
    )  # those of the data


@pytest.mark.parametrize(
    'weights, message',
    [
        ({'image': 1.0}, r"'weights' must .*\(got \['image'\]\)"),
        ({'image': 0.0, 'text': 0.0}, 'nor all zero'),
        ({'image': 2.0, 'text': -1.0}, 'must not be negative'),
        ({'image': float('nan'), 'text': 1.0}, 'must not be negative'),
    ],
)
def test_errors_union(weights, message):
    with pytest.raises(ValueError, match=message):
        ItemGraphUnion(weights)(toy_union())


def toy_interest():
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


def dense_interest(data, name):
    store, size = data['item', name, 'item'], data['item'].num_nodes
    return torch.zeros(size, size).index_put(tuple(store.edge_index), store.edge_weight)


def normalize(w):
    scale = w.sum(dim=1).rsqrt()
    scale = torch.where(scale.isinf(), 0.0, scale)
    return scale.unsqueeze(1) * w * scale


def test_worked_example_interest():
    data = toy_interest()
    out = InterestGraph(2, 2)(data)
    image = [[1.0372, 0.1617, 0.1106, 0.7599], [0.1617, 1.1257, 0.7384, 0]]
    image += [[0.2211, 0.7384, 0.9126, 0.0937], [0.7599, 0.1827, 0, 0.9343]]
    text = [[0.9455, 0.9094, 0.0330, 0.1895], [0.9094, 0.9399, 0.2393, 0]]
    text += [[0.0660, 0.4574, 1.2618, 0], [0.5068, 0.1073, 0, 1.1777]]
    for name, expected in (('image', image), ('text', text)):
        actual = dense_interest(out, f'{name}_interest')
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
        expected = normalize(w) + dense_interest(ItemKNN(4)(data), f'{m}_knn')
        torch.testing.assert_close(dense_interest(out, f'{m}_interest'), expected)
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
    assert torch.equal(
        dense_interest(actual, 'text_interest'), dense_interest(expected, 'text_interest')
    )


def test_an_item_without_users_keeps_its_neighbors():
    data = random_data()
    edge_index = data['user', 'rates', 'item'].edge_index
    data['user', 'rates', 'item'].edge_index = edge_index[:, edge_index[1] != 4]
    out = dense_interest(InterestGraph(3, 4)(data), 'image_interest')[4]
    torch.testing.assert_close(out, dense_interest(ItemKNN(4)(data), 'image_knn')[4])


def test_errors_interest():
    with pytest.raises(ValueError, match="'k' must be between 1 and the 4 items"):
        InterestGraph(5, 2)(toy_interest())
    data = toy_interest()
    del data['user', 'rates', 'item']
    with pytest.raises(ValueError, match='no training edge'):
        InterestGraph(2, 2)(data)


def toy_second_order():
    data = toy_interest()
    edge_index = data['user', 'rates', 'item'].edge_index
    data['user', 'rates', 'item'].edge_index = torch.cat([edge_index, edge_index], dim=1)
    return data


def dense_second_order(data):
    store = data['user', 'second_order', 'item']
    return torch.zeros(3, 4).index_put(tuple(store.edge_index), store.edge_weight)


def test_worked_example_second_order():
    public = [[1, 1, 1, 0.4961], [0.3051, 1, 0, 0], [1, 0, 1, 1.4961]]
    unrecorded = [[0, 0, 0, 0.4961], [0.3051, 0, 0, 0], [0, 0.3051, 0, 0]]
    for rule, expected in (('public', public), ('unrecorded', unrecorded)):
        actual = dense_second_order(
            SecondOrderGraph(1, rule)(toy_second_order())
        )  # edges that repeat count once
        torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-4, rtol=0)


def test_missing_features():
    data = toy_second_order()
    data['item'].has_text = torch.tensor([True, True, True, False])
    data['item'].x_text[3] = torch.nan
    # Between items 0 and 3 the images alone decide.
    actual = dense_second_order(SecondOrderGraph(1, 'unrecorded')(data))
    torch.testing.assert_close(actual[0, 3], torch.tensor(0.8944), atol=1e-4, rtol=0)
    data['item'].has_image = torch.tensor([True, True, True, False])
    assert (dense_second_order(SecondOrderGraph(4, 'unrecorded')(data))[:, 3] == 0).all()


def test_errors_second_order():
    with pytest.raises(ValueError, match="'rule' must be one of"):
        SecondOrderGraph(3, 'paper')(toy_second_order())


def toy_cooccurrence():
    data = toy_interest()
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
    data = toy_cooccurrence()
    out = transform(data)
    store = out['user', 'cooccurrence', 'user']
    assert store.edge_index.tolist() == [[0, 0, 1, 2], [2, 1, 0, 0]]
    torch.testing.assert_close(store.edge_weight, torch.tensor(weight), atol=1e-4, rtol=0)
    assert ('user', 'cooccurrence', 'user') not in data.edge_types  # a copy
    out.validate()


def test_refuses():
    with pytest.raises(ValueError, match=r"'k' must be at least 1 \(got 0\)"):
        UserCooccurrence(0)
    with pytest.raises(ValueError, match=r"'weighting' must .*\(got 'sum'\)"):
        UserCooccurrence(weighting='sum')
    with pytest.raises(ValueError, match='no training edge'):
        UserCooccurrence()(HeteroData())


def test_amazon_baby_cooccurrence(data_root):
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


PRUNE_EDGE = ('user', 'rates', 'item')


def make_data():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 30, 20
    data[PRUNE_EDGE].edge_index = (torch.rand(30, 20) < 0.5).nonzero().t()
    return data


def test_edges_are_dropped():
    data = make_data()
    edge_index = data[PRUNE_EDGE].edge_index
    kept = PruneEdges(0.8, seed=1)(data)[PRUNE_EDGE].edge_index
    assert kept.size(1) == edge_index.size(1) // 5
    code = kept[0] * 20 + kept[1]
    assert torch.isin(code, edge_index[0] * 20 + edge_index[1]).all()
    assert torch.equal(data[PRUNE_EDGE].edge_index, edge_index)
    assert torch.equal(PruneEdges(0.8, seed=1)(data)[PRUNE_EDGE].edge_index, kept)
    assert not torch.equal(PruneEdges(0.8, seed=2)(data)[PRUNE_EDGE].edge_index, kept)
    transform = PruneEdges(0.8)
    assert not torch.equal(
        transform(data)[PRUNE_EDGE].edge_index, transform(data)[PRUNE_EDGE].edge_index
    )


def test_attributes_of_edges_stay_with_them():
    data = make_data()
    data[PRUNE_EDGE].time = data[PRUNE_EDGE].edge_index[0] * 20 + data[PRUNE_EDGE].edge_index[1]
    store = PruneEdges(0.8)(data)[PRUNE_EDGE]
    assert torch.equal(store.time, store.edge_index[0] * 20 + store.edge_index[1])


def test_attributes_of_edges_in_any_order_stay_with_them():
    """Also of repeated ones, of which those of the first are kept."""
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 4
    data[PRUNE_EDGE].edge_index = torch.tensor([[2, 0, 1, 0, 0], [3, 1, 0, 0, 1]])
    data[PRUNE_EDGE].time = torch.tensor([23, 1, 10, 0, 99])
    store = PruneEdges(0.0)(data)[PRUNE_EDGE]
    assert store.edge_index.tolist() == [[0, 0, 1, 2], [0, 1, 0, 3]]
    assert store.time.tolist() == [0, 1, 10, 23]
    data = make_data()
    data[PRUNE_EDGE].edge_index = data[PRUNE_EDGE].edge_index[
        :, torch.randperm(data[PRUNE_EDGE].num_edges)
    ]
    data[PRUNE_EDGE].time = data[PRUNE_EDGE].edge_index[0] * 20 + data[PRUNE_EDGE].edge_index[1]
    store = PruneEdges(0.3)(data)[PRUNE_EDGE]
    assert torch.equal(store.time, store.edge_index[0] * 20 + store.edge_index[1])


def test_ids_whose_products_exceed_32_bits():
    data = HeteroData()
    data['user'].num_nodes = data['item'].num_nodes = 60000
    edge_index = torch.tensor([[3, 50000, 59999], [4, 50001, 59999]], dtype=torch.int32)
    data['user', 'rates', 'item'].edge_index = edge_index
    out = PruneEdges(0.0)(data)['user', 'rates', 'item'].edge_index
    assert out.tolist() == edge_index.tolist()


def test_errors_prune():
    with pytest.raises(ValueError, match=r"'ratio' must lie in \[0, 1\) \(got 1\)"):
        PruneEdges(1)


@pytest.mark.parametrize('transform', [ItemKNN(2), ItemGraphUnion()])
def test_items_without_features(transform):
    data = HeteroData()
    data['item'].num_nodes = 4
    with pytest.raises(ValueError, match="'data' must have item features"):
        transform(data)


def test_repr():
    for transform, expected in (
        (ItemGraphUnion({'image': 1.0}), "ItemGraphUnion(weights={'image': 1.0}, k=10)"),
        (InterestGraph(5), 'InterestGraph(k=5, num_neighbors=10)'),
        (SecondOrderGraph(3), "SecondOrderGraph(k=3, rule='public')"),
        (UserCooccurrence(10), "UserCooccurrence(10, weighting='softmax')"),
        (PruneEdges(0.9), 'PruneEdges(ratio=0.9, seed=None)'),
    ):
        assert repr(transform) == expected
