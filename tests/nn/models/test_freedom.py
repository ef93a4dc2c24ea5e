import copy

import pytest
import torch
from contract import (
    RecommenderContract,
    check_trainable_features,
    make_batch,
    make_data,
    moved,
    same,
    scores,
)
from toy import BATCH, IMAGE, ITEM, TEXT, USER, WEIGHTS, close, toy

from mrdib_pyg.nn.models import FREEDOM, Triplets
from mrdib_pyg.transforms import ItemGraphUnion, ItemKNN


class TestFREEDOM(RecommenderContract):
    name = 'freedom'
    settings = {'k': 5}


class TestFREEDOMProjection(RecommenderContract):
    name = 'freedom'
    settings = {'k': 5, 'slot': 'projection'}


@torch.no_grad()
def make_toy(data=None, **settings):
    model = FREEDOM(
        toy(image=IMAGE, text=TEXT) if data is None else data, channels=2, k=2, **settings
    )
    model.user_emb.weight.copy_(USER)
    model.item_emb.weight.copy_(ITEM)
    for m in ('image', 'text'):
        model.maps.lin(m).weight.copy_(WEIGHTS[m])
    return model


SCORES = [
    [3.0764, 2.2866, 2.9104, 2.1582],
    [1.9180, 1.7759, 0.8407, 0.4783],
    [3.5124, 2.5434, 3.5099, 2.6306],
]


@pytest.mark.parametrize('mrdib', [None, {}, {'control': 'l2'}])
@pytest.mark.parametrize('slot', ['graph', 'projection'])
def test_worked_example(slot, mrdib):
    model = make_toy(slot=slot, mrdib=mrdib).eval()
    emb = model.embed()
    close(emb.user @ emb.item.t(), SCORES)
    terms = model.loss(BATCH)
    close(terms['task'], 0.6011)
    close(terms['content'], 0.6939 + 0.8381)


def test_graphs_of_another_form_are_told_of(recwarn):
    data = toy(image=IMAGE, text=TEXT)
    FREEDOM(ItemKNN(2, form='binary')(copy.copy(data)), channels=2, k=2)
    assert len(recwarn) == 0
    with pytest.warns(UserWarning, match="text_knn.*do not sum to one.*'binary'"):
        FREEDOM(ItemKNN(2)(copy.copy(data)), channels=2, k=2)


@pytest.mark.parametrize('trainable', [False, True])
def test_content_of_each_modality(trainable):
    for m, expected in (('image', 0.6939), ('text', 0.8381)):
        data = toy(image=IMAGE, text=TEXT)
        other = 'text' if m == 'image' else 'image'
        model = make_toy(trainable_features=trainable)
        close(model.eval().loss(BATCH)['content'], 0.6939 + 0.8381)
        data['item'][f'has_{other}'] = torch.zeros(4, dtype=torch.bool)
        close(make_toy(data).eval().loss(BATCH)['content'], expected)


def test_item_view_of_the_worked_example():
    codes = make_toy().modality_embeddings()
    close(
        0.1 * codes['image'][1] + 0.9 * codes['text'][1],
        [[0.55, 1.4], [0.55, 1.4], [1.0, 0.5], [1.0, 0.5]],
    )


def test_content_runs_over_triplets_whose_items_both_have_the_modality():
    data = toy(image=IMAGE, text=TEXT)
    data['item'].has_image = torch.tensor([True, True, True, False])
    model = make_toy(data).eval()
    user, t = model.embed().user, {}
    for m in ('image', 'text'):
        t[m] = model.maps(m, model.item_features)
    part = {
        m: torch.stack(
            [torch.nn.functional.softplus(user[u] @ (x[j] - x[i])) for u, i, j in zip(*BATCH)]
        )
        for m, x in t.items()
    }
    # Of the three triplets only the second has both images.
    close(model.loss(BATCH)['content'], part['image'][1] + part['text'].mean(), atol=1e-6)
    nobody = Triplets(*(index[:1] for index in BATCH))
    close(model.loss(nobody)['content'], part['text'][0], atol=1e-6)


def test_items_without_a_modality_share_its_weight():
    data = toy(image=IMAGE, text=TEXT)
    data['item'].has_image = torch.tensor([True, True, True, False])
    s = torch.tensor(
        [[0.5, 0.45, 0.05, 0], [0.45, 0.5, 0.05, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]]
    )
    behavior = make_toy().eval().embed()
    item = behavior.item - torch.tensor([[0.55, 1.4], [0.55, 1.4], [1.0, 0.5], [1.0, 0.5]])
    for slot in ('graph', 'projection'):
        close(make_toy(data, slot=slot).embed().item - item, s @ ITEM)
    data['item'].has_text = torch.tensor([True, True, True, False])
    for slot in ('graph', 'projection'):  # without any, an item is its ID
        close((make_toy(data, slot=slot).embed().item - item)[3], torch.zeros(2))


def test_projection_never_reaches_the_score():
    data = make_data()
    model = moved(FREEDOM(data, channels=8, k=5, slot='projection', mrdib={}))
    before = model.embed()
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'maps' in name or 'mrdib' in name:
                param.add_(1.0)
    assert same(model.embed(), before)
    # Nor does it learn from it, but by the term that has a weight of its own.
    terms = model.loss(make_batch(data))
    assert model.loss_weights['joint'] == 0.0
    for name, learns in (('task', False), ('joint', True), ('content', True)):
        model.zero_grad()
        terms[name].backward(retain_graph=True)
        grad = model.maps.lin('text').weight.grad
        assert (grad is not None and bool((grad != 0).any())) == learns, name


def test_joint_score():
    model = make_toy(slot='projection', mrdib={}).eval()
    emb = model.embed()
    item = emb.item - torch.tensor([[0.55, 1.4], [0.55, 1.4], [1.0, 0.5], [1.0, 0.5]])
    x = {m: model.maps(m, model.item_features) for m in ('image', 'text')}
    item = item + 0.1 * x['image'] + 0.9 * x['text']
    src, pos, neg = BATCH
    expected = torch.nn.functional.softplus((emb.user[src] * (item[neg] - item[pos])).sum(1))
    close(model.loss(BATCH)['joint'], expected.mean())
    assert 'joint' not in make_toy(slot='projection').loss(BATCH)
    assert 'joint' not in make_toy(mrdib={}).loss(BATCH)


def test_graph_is_pruned_in_training_only():
    data = make_data()
    model = FREEDOM(data, channels=8, k=5, edge_dropout=0.8)
    batch = make_batch(data)
    embedded, full = model.embed(), model.loss(batch)
    model.on_epoch_start(1, torch.Generator().manual_seed(0))
    assert model.pruned_adj.nnz == 26  # 132 edges, of which 26.4 are to be kept
    assert same(model.embed(), embedded)
    first = model.loss(batch)
    assert not torch.equal(first['task'], full['task'])
    kept = model.pruned_adj
    model.on_epoch_start(2, torch.Generator().manual_seed(1))
    assert not torch.equal(model.pruned_adj.col, kept.col)
    model.on_epoch_start(1, torch.Generator().manual_seed(0))
    assert torch.equal(model.loss(batch)['task'], first['task'])
    assert same(model.eval().loss(batch), full)
    clone = copy.deepcopy(model.train())
    assert torch.equal(clone.loss(batch)['task'], first['task'])
    assert not any('adj' in name for name in model.state_dict())

    model.double().on_epoch_start(1, torch.Generator().manual_seed(0))
    assert model.pruned_adj.dtype == torch.float64

    model = FREEDOM(data, channels=8, k=5, edge_dropout=0.0)
    full = model.loss(batch)
    model.on_epoch_start(1, torch.Generator().manual_seed(0))
    assert same(model.loss(batch), full)


def test_pruned_graph_of_the_worked_example():
    model = make_toy(edge_dropout=0.3)
    model.on_epoch_start(1, torch.Generator().manual_seed(0))
    assert model.pruned_adj.nnz == 4
    dense = model.pruned_adj.to_dense()
    user, item = dense.nonzero().t()
    degree = torch.bincount(user)[user] * torch.bincount(item)[item]
    close(dense[user, item], degree.float().rsqrt(), atol=1e-6)


def test_graphs_follow_the_features_or_are_those_of_the_data():
    data = make_data()
    model = FREEDOM(data, channels=8, k=5)
    other = data.clone()
    other['item'].x_image[3, 0] += 10.0
    changed = FREEDOM(other, channels=8, k=5)
    changed.load_state_dict(model.state_dict())
    assert not torch.equal(scores(changed), scores(model))

    given = ItemKNN(2, form='binary')(data)
    model = FREEDOM(given, channels=8, k=5)
    assert model.item_adj_image.nnz == 46
    assert FREEDOM(given, channels=8, slot='projection').item_adj.nnz <= 23 * 4


def test_trainable_features():
    check_trainable_features(FREEDOM, lambda model: model.maps.tables, k=5)


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'slot': 'user'}, "'slot' must be one of"),
        ({'edge_dropout': 1.0}, r"'edge_dropout' must lie in \[0, 1\) \(got 1.0\)"),
        ({'modality_weights': {'image': 1.0}}, r"'weights' must .*\(got \['image'\]\)"),
        ({'modality_weights': {'image': 1.0, 'text': -1.0}}, 'must not be negative'),
        ({'k': 24}, "'k' must be between 1 and the 23 rows"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        FREEDOM(make_data(), **settings)


def test_presets_are_settings():
    for settings in FREEDOM.presets.values():
        model = FREEDOM(make_data(), channels=8, **{**settings, 'k': 5})
        assert model.item_weight[0].tolist() == pytest.approx([0.1, 0.9])


def test_slots_have_one_score_whatever_graphs_the_data_have():
    data = make_data()
    data = ItemGraphUnion({'image': 1, 'text': 0}, k=3)(data)
    weights = {'image': 0.0, 'text': 1.0}
    models = [
        moved(FREEDOM(data, channels=8, k=5, slot=slot, modality_weights=weights))
        for slot in ('graph', 'projection')
    ]
    models[1].load_state_dict(models[0].state_dict())
    first, second = (model.embed() for model in models)
    torch.testing.assert_close(first.item, second.item)
    assert ('item', 'union', 'item') in data.edge_types  # which are left as they were
    assert data['item', 'union', 'item'].edge_index.size(1) <= 3 * 23
