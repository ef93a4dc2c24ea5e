import pytest
import torch
import torch.nn.functional as F
from contract import RecommenderContract, make_batch, make_data, moved, scores
from toy import BATCH, BIASES, IMAGE, ITEM, MEAN_ITEM, MEAN_USER, TEXT, USER, WEIGHTS, close, toy

from mrdib_pyg.nn.models import MGCN
from mrdib_pyg.transforms import ItemKNN

H = {
    'image': [[0.7214, 0.1839], [0.4164, 0.3292], [0.6584, 0.2082], [0.7263, 0.1246]],
    'text': [[0.2936, 0.8736], [0.2833, 0.8652], [0.6313, 0.1383], [0.5910, 0.0531]],
}
H_USER = {
    'image': [[0.7333, 0.2945], [0.2945, 0.2328], [0.9827, 0.2320]],
    'text': [[0.4932, 0.7663], [0.2003, 0.6118], [0.7188, 0.4437]],
}


class TestMGCN(RecommenderContract):
    name = 'mgcn'
    settings = {'k': 5}


@torch.no_grad()
def set_toy(model):
    """The parameters of the worked example: identity gates, a query of (1, -1)."""
    model.user_emb.weight.copy_(USER)
    model.item_emb.weight.copy_(ITEM)
    for m, purifier in zip(('image', 'text'), model.purifiers):
        model.maps.lin(m).weight.copy_(WEIGHTS[m])
        model.maps.lin(m).bias.copy_(BIASES[m])
        purifier.weight.copy_(torch.eye(2))
        purifier.bias.zero_()
    model.attention[0].weight.copy_(torch.eye(2))
    model.attention[0].bias.zero_()
    model.attention[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
    return model


@torch.no_grad()
def make_toy(data=None, **settings):
    model = set_toy(
        MGCN(toy(image=IMAGE, text=TEXT) if data is None else data, channels=2, k=2, **settings)
    )
    for sign, gate in zip((1.0, -1.0), model.gates):
        gate.weight.copy_(sign * torch.eye(2))
        gate.bias.zero_()
    return model


@pytest.mark.parametrize('mrdib', [None, {}, {'control': 'l2'}])
@pytest.mark.parametrize('trainable', [False, True])
def test_worked_example(trainable, mrdib):
    model = make_toy(trainable_features=trainable, mrdib=mrdib).eval()
    for m, (user, item) in model.modality_embeddings().items():
        close(user, H_USER[m])
        close(item, H[m])
    emb = model.embed()
    close(emb.views['behavior'][0], MEAN_USER)
    close(emb.views['behavior'][1], MEAN_ITEM)
    close(emb.views['side'][0], [[0.2232, 0.1533], [0.0832, 0.1185], [0.3082, 0.1018]])
    side = [[0.2026, 0.1230], [0.1200, 0.1613], [0.2176, 0.0597], [0.2288, 0.0290]]
    close(emb.views['side'][1], side)
    close(emb.item, MEAN_ITEM + torch.tensor(side))
    terms = model.loss(BATCH)
    close(terms['contrastive'], 0.5974 + 0.8658)
    src, pos, neg = BATCH
    rows = (emb.user[src], emb.item[pos], emb.item[neg])
    close(terms['reg'], sum(x.square().sum() for x in rows) / 6)
    margin = (rows[0] * (rows[2] - rows[1])).sum(1)
    close(terms['task'], F.softplus(margin).mean())


def test_attention_of_the_worked_example():
    model = make_toy()
    x = {m: model.modality_embeddings()[m] for m in ('image', 'text')}
    for side, expected in ((0, [0.6287, 0.6, 0.5810]), (1, [0.7013, 0.6222, 0.4876, 0.5048])):
        alpha = model.attend([x[m][side] for m in x], None)
        close(alpha[0, :, 0], expected)
        close(alpha.sum(dim=0), torch.ones(len(expected), 1))


def test_graphs_of_the_worked_example():
    model = make_toy()
    image = [[0.5279, 0, 0, 0.4721], [0, 0.6126, 0.3874, 0], [0, 0.3874, 0.6126, 0]]
    close(model.item_adj_image.to_dense(), [*image, [0.4721, 0, 0, 0.5279]])
    text = [[0.5090, 0.4910, 0, 0], [0.4910, 0.5090, 0, 0], [0, 0.2181, 0.7375, 0]]
    close(model.item_adj_text.to_dense(), [*text, [0.3174, 0, 0, 0.6432]])


def test_unimodal_score_is_that_of_the_codes():
    model = make_toy(mrdib={'redundancy': None}).eval()
    terms = model.loss(BATCH)
    src, pos, neg = BATCH
    expected = 0.0
    for m in ('image', 'text'):
        score = torch.tensor(H_USER[m]) @ torch.tensor(H[m]).t()
        expected += F.softplus(score[src, neg] - score[src, pos]).mean()
    close(terms['unique'], expected)


def test_repeated_pairs_are_each_others_negatives():
    data = make_data()
    model = moved(MGCN(data, channels=8, k=5)).eval()
    batch = make_batch(data)  # 64 pairs of 17 users and 23 items
    emb = model.embed()
    expected = 0.0
    for side, ids in ((0, batch.src_index), (1, batch.dst_pos_index)):
        x = F.normalize(emb.views['side'][side], dim=1)[ids]
        y = F.normalize(emb.views['behavior'][side], dim=1)[ids]
        expected += F.cross_entropy(x @ y.t() / 0.2, torch.arange(64))
    torch.testing.assert_close(model.loss(batch)['contrastive'], expected)


@pytest.mark.parametrize('has', [[True, True, True, False], [False] * 4])
def test_missing_modalities(has):
    data = toy(image=IMAGE, text=TEXT)
    data['item'].has_image = torch.tensor(has)
    model = make_toy(data).eval()
    codes, emb = model.modality_embeddings(), model.embed()
    if not any(has):  # as if there was no image, but for the weights of the sum
        assert (codes['image'][0] == 0).all() and (codes['image'][1] == 0).all()
        lone = toy(image=IMAGE, text=TEXT)
        del lone['item'].x_image
        other = MGCN(lone, channels=2, k=2)
        state = model.state_dict()
        for old, new in (('purifiers.1', 'purifiers.0'), ('gates.1', 'gates.0')):
            for part in ('weight', 'bias'):
                state[f'{new}.{part}'] = state.pop(f'{old}.{part}')
        for part in ('weight', 'bias'):
            del state[f'maps.lins.modality_image.{part}']
        other.load_state_dict(state)
        close(other.embed().item, emb.item, atol=1e-6)
        close(other.embed().views['side'][0], other.modality_embeddings()['text'][0] / 2, 1e-6)
        return
    assert (codes['image'][1][3] == 0).all()  # nothing to spread
    # A user sums over the items that have it.
    weight = torch.tensor([0.4082, 0.0, 0.4082, 0.0])
    close(codes['image'][0][2], weight @ codes['image'][1])
    # The item's own fusion is of its text alone.
    close(emb.views['side'][1][3], codes['text'][1][3] / 2, atol=1e-6)
    data['item'].has_text = torch.tensor(has)
    emb = make_toy(data).embed()
    assert torch.equal(emb.item[3], emb.views['behavior'][1][3])


def test_graphs_follow_the_features_or_are_those_of_the_data():
    data = make_data()
    model = MGCN(data, channels=8, k=5)
    other = data.clone()
    other['item'].x_image[3, 0] += 1e-3
    changed = MGCN(other, channels=8, k=5)
    assert not torch.equal(changed.item_adj_image.value, model.item_adj_image.value)
    assert torch.equal(changed.item_adj_text.value, model.item_adj_text.value)
    neighbors = torch.arange(23).unsqueeze(1).expand(23, 2)
    given = ItemKNN(neighbors={'image': neighbors}, modality='image')(data)
    model = MGCN(given, channels=8, k=5)
    assert torch.equal(model.item_adj_image.to_dense(), torch.eye(23))
    assert torch.equal(model.item_adj_text.value, changed.item_adj_text.value)
    del given['item', 'image_knn', 'item'].edge_weight
    with pytest.raises(ValueError, match='image_knn.*edge_weight'):
        MGCN(given, channels=8, k=5)


def test_trainable_features():
    data = make_data(missing=0.3)
    model = MGCN(data, channels=8, k=5, trainable_features=True)
    frozen = MGCN(data, channels=8, k=5)
    frozen.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(scores(model), scores(frozen))
    model.loss(make_batch(data))['task'].backward()
    for m in ('image', 'text'):
        grad = model.maps.tables[f'modality_{m}'].grad
        assert (grad != 0).any() and (grad[~data['item'][f'has_{m}']] == 0).all()
    assert type(model)(data, **model.config).trainable_features


def test_settings():
    with pytest.raises(ValueError, match=r"'temperature' must be positive \(got 0\)"):
        MGCN(make_data(), temperature=0)
    for settings in MGCN.presets.values():
        MGCN(make_data(), channels=8, **settings)
    assert MGCN.lr_decay**50 == pytest.approx(0.96)
