import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import Planted
from mrdib_pyg.datasets.splits import leave_one_out_split, random_split
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import VBPR, Embeddings
from mrdib_pyg.transforms import ColdItemSplit, InteractionSplit, ItemKNN

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
    with pytest.raises(ValueError, match=r"data\['user', 'val', 'item'\] must have 'time'"):
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


EDGES = {'rates': 'edge_index', 'val': 'edge_label_index', 'test': 'edge_label_index'}


@pytest.fixture(scope='module')
def data():
    return Planted(num_users=30, num_items=40, num_interactions=10, missing=0.2)[0]


def pairs(data, relation, item='item'):
    """The edges by their former ids."""
    user, index = data['user', relation, item][EDGES[relation] if item == 'item' else EDGES['val']]
    ids = data[item].n_id if 'n_id' in data[item] else torch.arange(40)
    return set(zip(user.tolist(), ids[index].tolist()))


def test_every_edge_goes_to_one_place(data):
    out = ColdItemSplit(0.25, seed=1)(data)
    cold = set(out['cold_item'].n_id.tolist())
    used = {i for relation in EDGES for _, i in pairs(data, relation)}
    assert len(cold) == out['cold_item'].num_nodes == round(0.25 * len(used)) and cold <= used
    assert cold | set(out['item'].n_id.tolist()) == set(range(40))
    assert out['item'].num_nodes + out['cold_item'].num_nodes == 40
    for relation in EDGES:
        expected = {(u, i) for u, i in pairs(data, relation) if i not in cold}
        assert pairs(out, relation) == expected
    parts = {relation: pairs(out, relation, 'cold_item') for relation in ('val', 'test')}
    items = {relation: {i for _, i in part} for relation, part in parts.items()}
    assert not items['val'] & items['test'] and items['val'] | items['test'] == cold
    assert len(items['test']) == len(cold) // 2
    everything = {edge for relation in EDGES for edge in pairs(data, relation)}
    assert parts['val'] | parts['test'] == {(u, i) for u, i in everything if i in cold}
    assert out.name == 'planted' and out['user'].num_nodes == 30


def test_features_go_along(data):
    out = ColdItemSplit(0.25)(data)
    for name in ('item', 'cold_item'):
        for key in ('x_image', 'x_text', 'has_image', 'has_text'):
            assert torch.equal(out[name][key], data['item'][key][out[name].n_id])
    again = ColdItemSplit(0.25)(out)  # ids remain those of the first
    assert torch.equal(again['item'].x_text, data['item'].x_text[again['item'].n_id])
    assert data['item'].num_nodes == 40 and 'n_id' not in data['item']  # a copy


def test_nothing_tells_of_the_held_out(data):
    """A model is the same, whatever the features and edges of held-out items are."""
    graph = ItemKNN(3)(data)
    out = ColdItemSplit(0.25)(graph)
    assert ('item', 'image_knn', 'item') not in out.edge_types
    other = data.clone()
    cold = out['cold_item'].n_id
    other['item'].x_text[cold] = 100.0
    torch.manual_seed(0)
    first = VBPR(out, channels=4, feature_scaling='standard')
    torch.manual_seed(0)
    second = VBPR(ColdItemSplit(0.25)(other), channels=4, feature_scaling='standard')
    assert torch.equal(first.embed().item, second.embed().item)


def test_seeds(data):
    ids = [ColdItemSplit(0.25, seed)(data)['cold_item'].n_id for seed in (0, 0, 1)]
    assert torch.equal(ids[0], ids[1]) and not torch.equal(ids[0], ids[2])


def test_evaluation_of_what_is_known(data):
    """The candidates are all cold items and no other; users without training edges drop out."""
    out = ColdItemSplit(0.25)(data)
    index = out['user', 'test', 'cold_item'].edge_label_index
    num = out['cold_item'].num_nodes
    user, item = torch.zeros(30, num), torch.eye(num)
    user[index[0], index[1]] = 1.0
    values = evaluate(Embeddings(user, item), out, 'test', k=num, node_type='cold_item')
    assert values[f'ndcg@{num}'] == pytest.approx(1.0)
    per_user = evaluate(
        Embeddings(user, item), out, 'test', k=1, node_type='cold_item', per_user=True
    )
    trained = set(out['user', 'rates', 'item'].edge_index[0].tolist())
    assert set(per_user['user'].tolist()) == set(index[0].tolist()) & trained
    with pytest.raises(ValueError, match="'mask' must .*node_type='cold_item'"):
        evaluate(Embeddings(user, item), out, 'test', k=1, node_type='cold_item', mask='train+val')
    with pytest.raises(ValueError, match=rf'\[{num}, channels\]'):
        evaluate(Embeddings(user, item[:3]), out, 'test', k=1, node_type='cold_item')
    with pytest.raises(ValueError, match=r"'split' must be one of \[\]"):
        evaluate(Embeddings(user, item), out, 'test', k=1, node_type='other')


def test_end_to_end(data):
    out = ColdItemSplit(0.25)(data)
    model = VBPR(out, channels=4)
    cold = out['cold_item']
    features = {m: cold[f'x_{m}'] for m in model.modalities}
    item = model.encode_items(features, {m: cold[f'has_{m}'] for m in model.modalities})
    emb = Embeddings(model.embed().user, item)
    values = evaluate(emb, out, 'val', k=5, node_type='cold_item')
    assert 0 <= values['recall@5'] <= 1


def test_refuses(data):
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"'ratio' must lie in \(0, 1\)"):
            ColdItemSplit(ratio)
    with pytest.raises(ValueError, match=r"'ratio' must .*got 0.01, which holds out 0"):
        ColdItemSplit(0.01)(data)
    with pytest.raises(ValueError, match='has no training edges'):
        ColdItemSplit()(HeteroData())
    one = HeteroData()
    one['user'].num_nodes, one['item'].num_nodes = 1, 3
    one['user', 'rates', 'item'].edge_index = torch.tensor([[0, 0, 0], [0, 1, 2]])
    one['item'].x_text = torch.ones(3, 2)
    with pytest.raises(ValueError, match="'ratio' must leave a training edge"):
        ColdItemSplit(0.99)(one)


def test_repr():
    assert repr(ColdItemSplit()) == 'ColdItemSplit(ratio=0.2, seed=0)'


def test_lists_of_the_items_go_along(data):
    data['item'].title = [f'item {i}' for i in range(int(data['item'].num_nodes))]
    out = ColdItemSplit(0.3)(data)
    for kind in ('item', 'cold_item'):
        assert out[kind].title == [f'item {i}' for i in out[kind].n_id.tolist()]


def test_attributes_of_edges_go_along(data):
    graph, codes = data.clone(), {}
    for number, (relation, key) in enumerate(EDGES.items()):
        store = graph['user', relation, 'item']
        index = store[key]
        store.time = torch.arange(index.size(1)) + 1000 * number
        codes |= {t: edge for t, edge in zip(store.time.tolist(), zip(*index.tolist()))}
        if relation != 'val':
            store.edge_attr = torch.rand(index.size(1), 2)
    out = ColdItemSplit(0.25)(graph)
    seen = []
    for relation, kind in [
        *((x, 'item') for x in EDGES),
        ('val', 'cold_item'),
        ('test', 'cold_item'),
    ]:
        store = out['user', relation, kind]
        user, item = store[EDGES[relation] if kind == 'item' else 'edge_label_index']
        former = zip(user.tolist(), out[kind].n_id[item].tolist())
        assert [codes[t] for t in store.time.tolist()] == list(former)
        assert ('edge_attr' in store) == (kind == 'item' and relation != 'val')
        seen += store.time.tolist()
    assert sorted(seen) == sorted(codes)
