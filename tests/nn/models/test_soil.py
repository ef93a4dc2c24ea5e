import pytest
import torch
import torch.nn.functional as F
from contract import RecommenderContract, make_batch, make_data, moved, permute_items, scores
from test_mgcn import H_USER, H, set_toy
from toy import BATCH, IMAGE, MEAN_ITEM, MEAN_USER, TEXT, close, toy

from mrdib_pyg.nn.models import MGCN, SOIL
from mrdib_pyg.transforms import InterestGraph, SecondOrderGraph

SETTINGS = {'k': 2, 'num_interests': 2, 'num_second_order': 1}
SIDE = (
    [[0.1941, 0.1970], [0.0793, 0.1534], [0.2764, 0.1183]],
    [[0.1405, 0.2225], [0.1112, 0.2209], [0.2151, 0.0580], [0.2193, 0.0295]],
)


class TestSOIL(RecommenderContract):
    name = 'soil'
    # By the public rule a pair of items that a user knows counts in both directions, which are
    # equal: where one of them is the last to be taken, it is that of lower id. With room for all
    # pairs nothing depends on ids.
    settings = {'k': 5, 'num_interests': 5, 'num_second_order': 600}


@torch.no_grad()
def make_toy(data=None, **settings):
    data = toy(image=IMAGE, text=TEXT) if data is None else data
    return set_toy(SOIL(data, channels=2, **{**SETTINGS, **settings}))


def test_graphs_of_the_worked_example():
    model = make_toy()
    image = [[1.0372, 0.1617, 0.1106, 0.7599], [0.1617, 1.1257, 0.7384, 0]]
    image += [[0.2211, 0.7384, 0.9126, 0.0937], [0.7599, 0.1827, 0, 0.9343]]
    close(model.item_adj_image.to_dense(), image)
    text = [[0.9455, 0.9094, 0.0330, 0.1895], [0.9094, 0.9399, 0.2393, 0]]
    text += [[0.0660, 0.4574, 1.2618, 0], [0.5068, 0.1073, 0, 1.1777]]
    close(model.item_adj_text.to_dense(), text)
    public = [[0.5844, 0.5973, 0.5973, 0.0940], [0.0879, 1.0166, 0, 0], [0.5844, 0, 0.5973, 0.8608]]
    close(model.user_item_adj.to_dense(), public)
    unrecorded = [[0.4082, 0.4082, 0.4082, 0.5], [0.5, 0.7071, 0, 0], [0.4082, 0.5, 0.4082, 0.5774]]
    close(make_toy(second_order='unrecorded').user_item_adj.to_dense(), unrecorded)


def test_fusion_of_the_worked_example():
    model = make_toy()
    for side, x in enumerate((H_USER, H)):
        rows = [torch.tensor(x[m]) for m in ('image', 'text')]
        close(model.side(rows, rows[0], None), SIDE[side])


@pytest.mark.parametrize('mrdib', [None, {}, {'control': 'l2'}])
def test_losses_of_the_worked_example(mrdib):
    # The fusion and the behavior view of MGCN's example.
    model = make_toy(mrdib=mrdib).eval()
    side = [torch.tensor(x) for x in SIDE]
    user = MEAN_USER + side[0]
    src, pos, _ = BATCH
    close(model.contrast(user, MEAN_ITEM, src, pos), 0.6450)
    close(model.contrast(user, side[1], src, pos), 0.6605)
    # And of its own.
    emb = model.embed()
    terms = model.loss(BATCH)
    side, behavior = emb.views['side'], emb.views['behavior']

    def contrast(x, y):
        return F.cross_entropy(F.normalize(x) @ F.normalize(y).t() / 0.2, torch.arange(3))

    expected = contrast(side[0][src], behavior[0][src]) + contrast(side[1][pos], behavior[1][pos])
    close(terms['contrastive'], expected, atol=1e-6)
    expected = sum(contrast(emb.user[src], x[1][pos]) for x in (behavior, side))
    close(terms['interest'], expected, atol=1e-6)


def test_embeddings_against_dense_matrices():
    data = make_data()
    model = moved(SOIL(data, channels=8, k=5, num_interests=4)).eval()
    lift = model.user_item_adj.to_dense()
    user, item = model.user_emb.weight, model.item_emb.weight
    layers = [(user, item)]
    for _ in range(2):
        layers.append((lift @ layers[-1][1], lift.t() @ layers[-1][0]))
    behavior = [sum(layer[i] for layer in layers) / 3 for i in (0, 1)]
    x = {}
    for m, purifier in zip(model.modalities, model.purifiers):
        t = model.maps(m, model.item_features)
        h = getattr(model, f'item_adj_{m}').to_dense() @ (item * purifier(t).sigmoid())
        x[m] = (lift @ h, h)
    emb = model.embed()
    for i in (0, 1):
        logit = torch.cat([model.attention(x[m][i]) for m in x], dim=1)
        weight = 1 - logit.softmax(dim=1)
        side = sum(weight[:, j : j + 1] * x[m][i] for j, m in enumerate(x)) / 3
        torch.testing.assert_close(emb[i], behavior[i] + side)


def test_a_single_modality_has_the_weight_one():
    data = make_data(modalities=1)
    model = moved(SOIL(data, channels=8, k=5, num_interests=4)).eval()
    codes, side = model.modality_embeddings()['image'], model.embed().views['side']
    torch.testing.assert_close(side[1], codes[1] / 2)
    # Also where it is the only one of an item.
    data = make_data(modalities=2)
    data['item'].has_text = torch.arange(23) != 7
    model = moved(SOIL(data, channels=8, k=5, num_interests=4)).eval()
    codes, side = model.modality_embeddings()['image'], model.embed().views['side']
    torch.testing.assert_close(side[1][7], codes[1][7] / 2)


@pytest.mark.parametrize('size', [(17, 23), (5, 61)])
def test_few_second_order_edges(size):
    data = make_data(*size)
    for rule in ('public', 'unrecorded'):
        settings = {'k': 5, 'num_interests': 5, 'second_order': rule}
        model = moved(SOIL(data, channels=8, **settings)).eval()
        assert torch.isfinite(scores(model)).all()
        if rule == 'public' or size != (17, 23):
            continue
        perm = torch.randperm(23)
        other = SOIL(permute_items(data, perm), channels=8, **settings)
        state = {k: v[perm] if len(v) == 23 else v for k, v in model.state_dict().items()}
        other.load_state_dict(state)
        torch.testing.assert_close(scores(other), scores(model)[:, perm])


def test_graphs_follow_the_features_or_are_those_of_the_data():
    data = make_data()
    settings = {'k': 5, 'num_interests': 4, 'num_second_order': 20}
    model = SOIL(data, channels=8, **settings)
    other = data.clone()
    other['item'].x_image[3, 0] += 1e-2
    changed = SOIL(other, channels=8, **settings)
    assert not torch.equal(changed.item_adj_image.value, model.item_adj_image.value)
    assert not torch.equal(changed.user_item_adj.value, model.user_item_adj.value)
    given = SecondOrderGraph(3, 'unrecorded')(InterestGraph(2, 3)(data))
    model = SOIL(given, channels=8)
    same = SOIL(
        data,
        channels=8,
        k=3,
        num_interests=2,
        num_second_order=3,
        second_order='unrecorded',
    )
    for name in ('item_adj_image', 'item_adj_text', 'user_item_adj'):
        assert torch.equal(getattr(model, name).value, getattr(same, name).value), name


def test_settings():
    with pytest.raises(ValueError, match="'second_order' must be one of"):
        SOIL(make_data(), second_order='private')
    for settings in SOIL.presets.values():
        SOIL(make_data(), channels=8, **settings).loss(make_batch(make_data()))
    assert SOIL.lr_decay == MGCN.lr_decay
    assert set(SOIL(make_data(), k=5, num_interests=5).config) >= {'second_order', 'num_interests'}


def test_a_given_graph_is_taken_where_another_modality_has_none():
    data = make_data()
    store = data['item', 'image_interest', 'item']
    store.edge_index, store.edge_weight = torch.arange(23).repeat(2, 1), torch.full((23,), 0.5)
    model = SOIL(data, channels=8, k=5, num_interests=4)
    assert model.item_adj_image.nnz == 23 < model.item_adj_text.nnz
