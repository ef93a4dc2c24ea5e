import pytest
import torch
import torch.nn.functional as F
from contract import RecommenderContract, make_batch, make_data, moved
from toy import BATCH, ITEM, USER, close, toy

from mrdib_pyg.nn.models import MMGCN

PREFERENCES = torch.tensor([[1.0, 1], [2, 0], [0, -1]])
FEATURES = torch.tensor([[3.0, 4], [1, 0], [0, 2], [1, 1]])


class TestMMGCN(RecommenderContract):
    name = 'mmgcn'


class TestMMGCNMapped(RecommenderContract):
    name = 'mmgcn'
    settings = {'hidden_channels': 4, 'num_layers': 3, 'feature_scaling': 'standard'}


class TestMMGCNOneLayer(RecommenderContract):
    name = 'mmgcn'
    settings = {'num_layers': 1}


@torch.no_grad()
def make_example():
    model = MMGCN(toy(image=FEATURES), channels=2, num_layers=1)
    model.preferences['image'].weight.copy_(PREFERENCES)
    model.user_emb.weight.copy_(USER)
    model.item_emb.weight.copy_(ITEM)
    layer = model.layers['image'][0]
    layer.lin_neighbors.weight.copy_(torch.tensor([[1, 0.5], [-0.5, 1]]).t())
    layer.lin_self.weight.copy_(torch.tensor([[0.2, -0.4], [0.6, 0.1]]).t())
    layer.lin_out.weight.copy_(torch.tensor([[0.3, 0.7], [-0.2, 0.5]]).t())
    return model


def test_worked_example():
    model = make_example()
    layer = model.layers['image'][0]
    user, item = F.normalize(PREFERENCES), F.normalize(FEATURES)
    with torch.no_grad():
        close(
            layer.aggregate(item, model.user_mean),
            [[0.2333, 0.8667], [1, 0.5], [0.0179, 1.0536]],
        )
        close(
            layer.aggregate(user, model.item_mean),
            [[0.4268, 0.0303], [0.6768, 0.7803], [0.4268, 0.0303], [0.5, -0.0100]],
        )
    user = [[1.4624, 0.5945], [0.4, 1.946], [0.7886, 1.5383]]
    item = [[1.7220, 2.3123], [0.2470, 1.8599], [2.7220, 0.4139], [1.7177, -0.0066]]
    emb = model.embed()
    close(emb.user, user)
    close(emb.item, item)
    # Where fewer rows are read than there are neighbors, the product with W comes last.
    rows = torch.tensor([2])
    with torch.no_grad():
        close(layer.aggregate(F.normalize(FEATURES), model.user_mean, rows), [[0.0179, 1.0536]])


def test_regularizer():
    terms = make_example().loss(BATCH)
    # Each user counts with both of his items: the squares of 2 B pairs.
    src, pos, neg = BATCH
    pairs = [USER[src].square() + ITEM[item].square() for item in (pos, neg)]
    expected = torch.cat(pairs).mean() + PREFERENCES.square().mean()
    torch.testing.assert_close(terms['reg'].detach(), expected)


def test_regularizer_takes_all_preferences_alike():
    model = MMGCN(make_data(), channels=8)
    before = model.loss(make_batch(make_data()))['reg'].detach()
    for m, width in (('image', 5), ('text', 7)):
        weight = model.preferences[m].weight
        extra = 3 * weight.detach().square().mean() / 2  # twice the table, a mean over two
        with torch.no_grad():
            weight.mul_(2.0)
        after = model.loss(make_batch(make_data()))['reg'].detach()
        torch.testing.assert_close(after - before, extra, rtol=1e-3, atol=1e-6)
        assert weight.shape == (17, width)
        before = after


def reference(model, data):
    """The equations, on dense matrices of users and items in one id space."""
    user, item = data['user', 'rates', 'item'].edge_index
    n, num_users = model.num_users + model.num_items, model.num_users
    adj = torch.zeros(n, n, dtype=torch.float64)
    adj[user, item + num_users] = adj[item + num_users, user] = 1.0
    adj = adj / adj.sum(dim=1, keepdim=True).clamp(min=1)
    ids = torch.cat([model.user_emb.weight, model.item_emb.weight])
    total = 0.0
    for m in model.modalities:
        x = data['item'][f'x_{m}'].double()
        if m in model.lins:
            x = model.lins[m](x)
        x = F.normalize(torch.cat([model.preferences[m].weight, x]))
        for layer in model.layers[m]:
            hidden = F.leaky_relu(adj @ x @ layer.lin_neighbors.weight.t())
            own = F.leaky_relu(layer.lin_self(x)) + ids
            x = F.leaky_relu(layer.lin_out(hidden) + own)
        total = total + x
    return (total / len(model.modalities)).split([num_users, model.num_items])


@pytest.mark.parametrize('num_layers', [1, 2, 3])
@pytest.mark.parametrize('hidden_channels', [4, 6, 256])
@pytest.mark.parametrize('size', [(17, 23), (23, 17)])
def test_equals_the_dense_reference(size, hidden_channels, num_layers):
    data = make_data(*size, modalities=3)
    settings = {'hidden_channels': hidden_channels, 'num_layers': num_layers}
    model = moved(MMGCN(data, channels=8, **settings)).double()
    user, item = reference(model, data)
    emb = model()
    torch.testing.assert_close(emb.user, user)
    torch.testing.assert_close(emb.item, item)
    # And so do the gradients of a loss that reads few rows.
    batch = make_batch(data, num=3)
    params = dict(model.named_parameters())
    src, pos, neg = batch
    loss = -F.logsigmoid((user[src] * (item[pos] - item[neg])).sum(dim=-1)).mean()
    expected = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
    actual = torch.autograd.grad(model.loss(batch)['task'], list(params.values()))
    for name, x, y in zip(params, actual, expected):
        torch.testing.assert_close(x, y, msg=name)


def test_wide_features_alone_are_mapped():
    model = MMGCN(make_data(modalities=3), channels=8, hidden_channels=6)
    assert list(model.lins) == ['text'] and model.lins['text'].out_features == 6
    widths = {m: table.weight.size(1) for m, table in model.preferences.items()}
    assert widths == {'image': 5, 'text': 6, 'audio': 3}
    for m, width in widths.items():
        first, second = model.layers[m]
        assert first.lin_neighbors.weight.shape == (width, width)
        assert first.lin_out.weight.shape == (8, width)
        assert second.lin_neighbors.weight.shape == (8, 8)
    biases = [param for name, param in model.named_parameters() if name.endswith('bias')]
    assert len(biases) == 1 + 3 * 2 * 2 and all((bias == 0).all() for bias in biases)


@torch.no_grad()
def test_missing_modalities():
    data = make_data(missing=0.4, seed=2)
    data['item'].has_image[3] = data['item'].has_text[3] = False
    model = moved(MMGCN(data, channels=8, hidden_channels=6))
    codes, emb, present = model.modality_embeddings(), model.embed(), model.present()
    for side, rows in ((0, emb.user), (1, emb.item)):
        has = torch.stack([present[m][side] for m in codes])
        for i in range(len(rows)):
            held = [code[side][i] for code, h in zip(codes.values(), has[:, i]) if h]
            # Nothing at all: the mean of the IDs and of what the neighbors say.
            held = held or [code[side][i] for code in codes.values()]
            torch.testing.assert_close(rows[i], torch.stack(held).mean(dim=0))
    assert not data['item'].has_image.all() and emb.item[3].abs().max() > 0


def test_refuses_settings():
    for name in ('num_layers', 'hidden_channels'):
        with pytest.raises(ValueError, match=rf"'{name}' must be at least 1 \(got 0\)"):
            MMGCN(make_data(), **{name: 0})
