import os

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import InteractionFolder
from mrdib_pyg.transforms import ItemKNN


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
    with pytest.raises(ValueError, match="no data.'item'..x_audio"):
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
        ({'modality': 'audio'}, "'modality' names 'audio', but"),
        ({'neighbors': {'image': torch.zeros(3, 2).long()}}, 'a row for each of the 4 items'),
        ({'neighbors': {'image': torch.zeros(4, 2)}}, 'must be item ids'),
        (
            {'neighbors': {'image': torch.full((4, 2), 4)}},
            "of 'image' name item 4, but there are 4",
        ),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        ItemKNN(**settings)(toy())


def test_no_features():
    data = HeteroData()
    data['item'].num_nodes = 4
    with pytest.raises(ValueError, match='the items have no features'):
        ItemKNN(2)(data)


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
