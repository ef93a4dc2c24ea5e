import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import Planted, leave_one_out_split, random_split
from mrdib_pyg.transforms import InteractionSplit

STORES = (('rates', 'edge_index'), ('val', 'edge_label_index'), ('test', 'edge_label_index'))


def edges(data):
    return {r: set(map(tuple, data['user', r, 'item'][key].t().tolist())) for r, key in STORES}


def test_interaction_split_random():
    data = Planted(num_users=30, num_items=40, num_interactions=15)[0]
    before = edges(data)
    transform = InteractionSplit(seed=1)
    assert str(transform) == "InteractionSplit('random', seed=1)"
    after = edges(transform(data.clone()))
    assert set.union(*after.values()) == set.union(*before.values()) and after != before
    assert sum(map(len, after.values())) == sum(map(len, before.values()))
    pairs = torch.tensor(sorted(set.union(*after.values()))).numpy()
    label = random_split(pairs[:, 0], pairs[:, 1], 1)
    for value, (relation, _) in enumerate(STORES):
        assert after[relation] == set(map(tuple, pairs[label == value].tolist()))
    # What has been split before, and in which way, does not matter.
    again = edges(transform(InteractionSplit(seed=2)(data.clone())))
    assert again == after and edges(InteractionSplit(seed=2)(data.clone())) != after
    assert edges(data) == before


def timed():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 1, 9
    item = torch.tensor([3, 1, 5, 1])
    data['user', 'rates', 'item'].edge_index = torch.stack([torch.zeros_like(item), item])
    data['user', 'rates', 'item'].time = torch.tensor([4, 9, 1, 2])
    return data


def test_interaction_split_by_time():
    data = InteractionSplit('leave_one_out')(timed())
    # The earlier of both times of item 1 counts.
    assert edges(data) == {'rates': {(0, 5)}, 'val': {(0, 1)}, 'test': {(0, 3)}}
    assert data['user', 'test', 'item'].time.tolist() == [4]
    label = leave_one_out_split(torch.zeros(3).long().numpy(), torch.tensor([2, 4, 1]).numpy())
    assert label.tolist() == [1, 2, 0]
    data = InteractionSplit('temporal', ratios=(0.4, 0.3, 0.3))(data)
    assert edges(data) == {'rates': {(0, 5)}, 'val': {(0, 1)}, 'test': {(0, 3)}}
    assert str(InteractionSplit('temporal')) == (
        "InteractionSplit('temporal', ratios=(0.8, 0.1, 0.1))"
    )
    assert str(InteractionSplit('leave_one_out')) == "InteractionSplit('leave_one_out')"


def test_times_go_along_with_a_random_split():
    data = timed()
    item = torch.arange(9).repeat(20)
    user = torch.arange(20).repeat_interleave(9)
    data['user'].num_nodes = 20
    data['user', 'rates', 'item'].edge_index = torch.stack([user, item])
    data['user', 'rates', 'item'].time = 100 * user + item
    out = InteractionSplit(seed=3)(data.clone())
    for relation, key in STORES:
        store = out['user', relation, 'item']
        assert store.time.tolist() == (100 * store[key][0] + store[key][1]).tolist()
    del data['user', 'rates', 'item'].time
    assert edges(InteractionSplit(seed=3)(data)) == edges(out)
    # Times of some of the edges say nothing about those of others.
    del out['user', 'val', 'item'].time
    again = InteractionSplit(seed=4)(out)
    assert all('time' not in again['user', relation, 'item'] for relation, _ in STORES)


def test_interaction_split_refuses():
    with pytest.raises(ValueError, match="'strategy' must be one of.*'newest'"):
        InteractionSplit('newest')
    with pytest.raises(ValueError, match="no training edges .*'rates'"):
        InteractionSplit()(HeteroData())
    data = timed()
    data['user', 'val', 'item'].edge_label_index = torch.tensor([[0], [0]])
    with pytest.raises(ValueError, match=r"data\['user', 'val', 'item'\] has no attribute 'time'"):
        InteractionSplit('temporal')(data)


def test_graphs_of_the_edges_before_are_left_out():
    data = Planted(num_users=30, num_items=40, num_interactions=15)[0]
    item_graph = torch.tensor([[0], [1]])
    for edge in (
        ('user', 'cooccurrence', 'user'),
        ('user', 'second_order', 'item'),
        ('item', 'image_interest', 'item'),
        ('item', 'image_knn', 'item'),  # of features alone
    ):
        data[edge].edge_index = item_graph
    data['user', 'rates', 'item'].edge_weight = torch.rand(data['user', 'rates', 'item'].num_edges)
    out = InteractionSplit(seed=1)(data)
    assert out.edge_types == [
        ('user', 'rates', 'item'), ('user', 'val', 'item'), ('user', 'test', 'item'),
        ('item', 'image_knn', 'item'),
    ]  # fmt: skip
    assert list(out['user', 'rates', 'item'].keys()) == ['edge_index']


def test_ids_whose_products_exceed_32_bits():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 65537, 65536
    edge_index = torch.tensor([[0, 65536], [5, 5]], dtype=torch.int32)
    data['user', 'rates', 'item'].edge_index = edge_index
    out = edges(InteractionSplit(seed=0)(data))
    assert set.union(*out.values()) == {(0, 5), (65536, 5)}
