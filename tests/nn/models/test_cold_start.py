"""Items and users unseen in training, against the same items as part of the catalogue."""

import pytest
import torch
from contract import CHANNELS, make_batch, make_data, moved, same
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models import MODELS, Recommender, Triplets
from mrdib_pyg.nn.models.cold_start import NewItems
from mrdib_pyg.transforms import ItemKNN

MULTIMODAL = [name for name, cls in MODELS.items() if cls.multimodal]
FUSIONS = ['sum', 'attention', 'mlp', 'product_of_experts']
#: Models whose new items read no item graph, with settings.
WITHOUT_ITEM_GRAPH = [
    ('vbpr', {}),
    ('mmgcn', {}),
    ('mmgcn', {'hidden_channels': 4}),
    ('dualgnn', {}),
    *(('multimodal_lightgcn', {'fusion': fusion}) for fusion in FUSIONS),
    ('multimodal_lightgcn', {'num_layers': 0, 'id_channel': False, 'num_encoder_layers': 2}),
]
MRDIB = {'redundancy': None}
NEW = 6  # new items
SUBSETS = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1], [1, 0]]).bool()


def make(name, data, **settings):
    torch.manual_seed(0)
    return moved(MODELS[name](data, channels=CHANNELS, **settings))


def new_features(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        'image': torch.randn(NEW, 5, generator=generator),
        'text': torch.randn(NEW, 7, generator=generator),
    }


def masks(subsets=SUBSETS):
    return {'image': subsets[:, 0], 'text': subsets[:, 1]}


def appended(data, features, present=None):
    """The data with further items that nobody has interacted with."""
    out = data.clone()
    out['item'].num_nodes = 23 + NEW
    for m, x in features.items():
        out['item'][f'x_{m}'] = torch.cat([data['item'][f'x_{m}'], x])
        if present is not None:
            known = data['item'].get(f'has_{m}', torch.ones(23, dtype=torch.bool))
            out['item'][f'has_{m}'] = torch.cat([known, present[m]])
    return out


def load_with_zero_ids(model, trained):
    """Gives a model of more items the parameters of another; the IDs of those items are zero."""
    state = model.state_dict()
    for key, value in trained.state_dict().items():
        if value.shape == state[key].shape:
            state[key] = value
        else:
            state[key] = torch.zeros_like(state[key])
            state[key][:23] = value
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize(
    ('layer', 'scaling'), [(None, 'row'), (MRDIB, None), ({'bottleneck': 'complete'}, None)]
)
@pytest.mark.parametrize(('name', 'settings'), WITHOUT_ITEM_GRAPH)
def test_a_new_item_is_one_without_interactions_and_id(name, settings, layer, scaling):
    data, features = make_data(), new_features()
    settings = {**settings, 'mrdib': layer, 'feature_scaling': scaling}
    model = make(name, data, **settings)
    for present in (None, masks()):
        whole = load_with_zero_ids(
            MODELS[name](appended(data, features, present), channels=CHANNELS, **settings), model
        )
        found = model.encode_items(features, present)
        assert not found.requires_grad and found.shape == (NEW, model.out_channels)
        torch.testing.assert_close(found, whole.embed().item[23:], rtol=1e-5, atol=1e-6)
        assert model.training  # the mode is as it was


@pytest.mark.parametrize('layer', [None, MRDIB])
def test_an_item_of_the_data_where_the_score_is_content(layer):
    """Row-wise, and without an ID: what is encoded anew is what is there already."""
    data = make_data(missing=0.3)
    settings = {'num_layers': 0, 'id_channel': False, 'mrdib': layer}
    for fusion in FUSIONS:
        model = make('multimodal_lightgcn', data, fusion=fusion, **settings)
        features = {m: data['item'][f'x_{m}'] for m in ('image', 'text')}
        present = {m: data['item'][f'has_{m}'] for m in ('image', 'text')}
        found = model.encode_items(features, present)
        torch.testing.assert_close(found, model.embed().item, rtol=1e-5, atol=1e-6)
    # With an ID path, all but that path.
    model = make('vbpr', data, mrdib=layer)
    found = model.encode_items(features, present)
    assert (found[:, :CHANNELS] == 0).all()
    torch.testing.assert_close(found[:, CHANNELS:], model.embed().item[:, CHANNELS:])


def cosines(new, known):
    return torch.nn.functional.cosine_similarity(new.unsqueeze(1), known.unsqueeze(0), dim=-1)


@pytest.mark.parametrize('scaling', [None, 'row', 'standard'])
@pytest.mark.parametrize('slot', ['graph', 'projection'])
def test_freedom(slot, scaling):
    data, features = make_data(), new_features()
    weights = {'image': 0.3, 'text': 0.7}
    settings = {'modality_weights': weights, 'k': 4, 'slot': slot, 'feature_scaling': scaling}
    model = make('freedom', data, **settings)
    found = model.encode_items(features, masks())
    table = model.item_emb.weight.detach()
    for i in range(NEW):
        expected, total = torch.zeros(CHANNELS), 0.0
        for j, (m, weight) in enumerate(weights.items()):
            if SUBSETS[i, j]:
                nearest = cosines(features[m], data['item'][f'x_{m}'])[i].topk(3).indices
                expected += weight * table[nearest].sum(dim=0) / 4  # itself is the fourth
                total += weight
        torch.testing.assert_close(found[i], expected / total if total else expected)


def test_mgcn():
    """The row of an item graph that the item is part of, where nobody else has changed for it."""
    data, features = make_data(), new_features()
    model = make('mgcn', data, k=4)
    found = model.new_item_codes(NewItems(model.item_features, features))
    graph = ItemKNN(4)(data)
    for m in ('image', 'text'):
        x = data['item'][f'x_{m}']
        similarity = cosines(x, x).clamp(min=0)
        degree = similarity.topk(4, dim=1).values.sum(dim=1)
        purifier = model.purifiers[['image', 'text'].index(m)]
        h = model.item_emb.weight * purifier(model.maps.lin(m)(x)).sigmoid()
        for i in range(NEW):
            value, nearest = cosines(features[m], x)[i].topk(3)
            value = value.clamp(min=0)
            own = 1 + value.sum()
            expected = ((value / (own * degree[nearest]).sqrt()).unsqueeze(1) * h[nearest]).sum(0)
            torch.testing.assert_close(found[m][i], expected, rtol=1e-4, atol=1e-5)
        store = graph['item', f'{m}_knn', 'item']
        assert store.edge_weight.numel() > 0
        torch.testing.assert_close(model.item_degree(m), degree)


def test_soil():
    data, features = make_data(), new_features()
    model = make('soil', data, k=4)
    found = model.new_item_codes(NewItems(model.item_features, features))
    for j, m in enumerate(('image', 'text')):
        x = data['item'][f'x_{m}']
        h = model.item_emb.weight * model.purifiers[j](model.maps.lin(m)(x)).sigmoid()
        for i in range(NEW):
            value, nearest = cosines(features[m], x)[i].topk(3)
            value = value.clamp(min=0)
            expected = (value.unsqueeze(1) * h[nearest]).sum(0) / (1 + value.sum())
            torch.testing.assert_close(found[m][i], expected, rtol=1e-4, atol=1e-5)


def test_bm3():
    """The direction that the predictor gives the features, with the norm of known items."""
    data, features = make_data(), new_features()
    model = make('bm3', data)
    found = model.encode_items(features, masks())
    user, item = model.eval().fuse(model.modality_embeddings()).views['propagated']
    directions = {
        m: torch.nn.functional.normalize(model.predictor(model.lins[m](x)), dim=-1)
        for m, x in features.items()
    }
    norm = item.norm(dim=1).mean()
    for i in range(NEW):
        here = [directions[m][i] for j, m in enumerate(directions) if SUBSETS[i, j]]
        mean = torch.stack(here).mean(dim=0) if here else torch.zeros(CHANNELS)
        mean = torch.nn.functional.normalize(mean, dim=-1)
        torch.testing.assert_close(found[i], model.predictor(norm * mean))


@pytest.mark.parametrize('layer', [None, {}])
@pytest.mark.parametrize('name', MULTIMODAL)
def test_subsets_of_modalities(name, layer):
    data, features = make_data(missing=0.2), new_features()
    model = make(name, data, mrdib=layer)
    found = model.encode_items(features, masks())
    assert found.shape == (NEW, model.out_channels) and torch.isfinite(found).all()
    # What is missing has no influence, whatever stands there.
    other = {m: x.clone() for m, x in features.items()}
    other['image'][~SUBSETS[:, 0]] = float('nan')
    other['text'][~SUBSETS[:, 1]] = 1e6
    assert torch.equal(model.encode_items(other, masks()), found)
    # A modality that is not named is one that none has.
    alone = model.encode_items({'text': features['text']})
    none = masks(torch.tensor([[False, True]]).expand(NEW, 2))
    assert torch.equal(alone, model.encode_items(features, none))
    # Without any, all items are the same.
    absent = masks(torch.zeros(NEW, 2, dtype=torch.bool))
    out = model.encode_items(features, absent)
    assert torch.isfinite(out).all() and (out == out[0]).all()
    if not (name == 'soil' or name == 'mgcn'):  # there with a share of both, the graphs differ
        torch.testing.assert_close(out[:1], found[3:4])


@pytest.mark.parametrize('name', MULTIMODAL)
def test_order_and_company_are_irrelevant(name):
    model = make(name, make_data(), mrdib={})
    features, perm = new_features(), torch.randperm(NEW)
    found = model.encode_items(features, masks())
    shuffled = model.encode_items(
        {m: x[perm] for m, x in features.items()}, {m: x[perm] for m, x in masks().items()}
    )
    torch.testing.assert_close(shuffled, found[perm])
    one = model.encode_items({m: x[:1] for m, x in features.items()})
    torch.testing.assert_close(one, found[:1])
    empty = model.encode_items({m: x[:0] for m, x in features.items()})
    assert empty.shape == (0, model.out_channels)


@pytest.mark.parametrize('name', MULTIMODAL)
def test_changes_nothing(name):
    data = make_data()
    model = make(name, data, mrdib={})
    model.loss(make_batch(data))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model.embed()
    for training in (True, False):
        model.train(training)
        first = model.encode_items(new_features())
        assert torch.equal(first, model.encode_items(new_features())) and model.training == training
        assert same(model.embed(), expected)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_standard_scaling_is_that_of_the_data():
    data = make_data(missing=0.3)
    model = make('vbpr', data, feature_scaling='standard')
    rows = torch.tensor([2, 5])
    raw = (
        data['item'].x_text[rows].where(data['item'].has_text[rows].unsqueeze(1), torch.ones(2, 7))
    )
    new = NewItems(model.item_features, {'image': torch.zeros(2, 5), 'text': raw})
    has = data['item'].has_text
    kept = data['item'].x_text[has]
    expected = (raw - kept.mean(dim=0)) / kept.std(dim=0, unbiased=False)
    torch.testing.assert_close(new.x['text'], expected)
    torch.testing.assert_close(
        model.item_features.unscaled('text')[has], kept, rtol=1e-5, atol=1e-5
    )
    assert (model.item_features.unscaled('text')[~has] == 0).all()


def test_items_in_other_types_and_devices():
    model = make('mgcn', make_data(), mrdib={}).double()
    found = model.encode_items({m: x.half() for m, x in new_features().items()})
    assert found.dtype == torch.float64 and torch.isfinite(found).all()


def test_refuses_items():
    model = make('vbpr', make_data())
    x = new_features()
    cases = [
        ({}, None, ValueError, r"'features' must .*\['image', 'text'\]"),
        ({'audio': x['text']}, None, ValueError, "'features' .*got 'audio'"),
        ({'text': x['text'][:, :3]}, None, ValueError, r'the shape \[6, 7\].*got \[6, 3\]'),
        ({**x, 'text': x['text'][:2]}, None, ValueError, r'the shape \[6, 7\].*got \[2, 7\]'),
        ({'text': x['text'][0]}, None, ValueError, r'shape \[7, 7\].*got \[7\]'),
        (x, {'audio': SUBSETS[:, 0]}, ValueError, "'present' .*got 'audio'"),
        (x, {'text': SUBSETS[:, 0].int()}, TypeError, "'present' of 'text' must be boolean"),
        (x, {'text': SUBSETS[:2, 0]}, ValueError, 'one entry for each of the 6 items'),
        ({'text': x['text'] / 0}, None, ValueError, "row 0 of 'features' of 'text' holds NaN or"),
    ]
    for features, present, error, message in cases:
        with pytest.raises(error, match=message):
            model.encode_items(features, present)


def test_models_that_cannot():
    model = make('lightgcn', make_data())
    with pytest.raises(ValueError, match='LightGCN reads no item features'):
        model.encode_items(new_features())
    model = Recommender(make_data(), channels=4)
    with pytest.raises(NotImplementedError, match="Recommender .*'new_item_codes'"):
        model.encode_items(new_features())


# -- users -----------------------------------------------------------------------------------------


def test_users_are_the_least_squares_of_their_items():
    data = make_data()
    model = make('vbpr', data)
    item = model.embed().item.double()
    edges = torch.tensor([[0, 0, 0, 2, 2], [3, 7, 9, 1, 3]])
    found = model.encode_users(edges, num_users=4, shrinkage=0.5)
    assert found.shape == (4, 16) and not found.requires_grad and found.dtype == torch.float32
    penalty = 0.5 * float(item.square().mean())
    for user, items in ((0, [3, 7, 9]), (2, [1, 3])):
        p = torch.zeros(16, dtype=torch.float64, requires_grad=True)
        loss = 0.5 * (item @ p).square().mean() + 0.5 * penalty * p.square().sum()
        loss = loss - (item[items] @ p).mean()
        hessian = torch.autograd.functional.hessian(
            lambda p: 0.5 * (item @ p).square().mean() + 0.5 * penalty * p.square().sum(), p
        )
        expected = torch.linalg.solve(hessian, -torch.autograd.grad(loss, p)[0]).float()
        cosine = torch.cosine_similarity(found[user], expected, dim=0)
        torch.testing.assert_close(cosine, torch.tensor(1.0))
        mean = model.embed().user.norm(dim=1).mean()
        torch.testing.assert_close(found[user].norm(), mean)
    for user in (1, 3):  # nothing is known of them
        torch.testing.assert_close(found[user], model.embed().user.mean(dim=0))


@pytest.mark.parametrize('name', MODELS)
def test_users_of_every_model(name):
    data = make_data()
    model = make(name, data)
    edges = torch.tensor([[1, 0, 1, 1], [3, 7, 9, 3]])
    found = model.encode_users(edges)
    assert found.shape == (2, model.out_channels) and torch.isfinite(found).all()
    torch.testing.assert_close(model.encode_users(edges[:, [2, 3, 1]]), found)
    assert model.encode_users(edges[:, :0]).shape == (0, model.out_channels)


def test_a_much_shrunken_user_is_the_mean_of_the_items():
    model = make('lightgcn', make_data())
    found = model.encode_users(torch.tensor([[0, 0], [4, 8]]), shrinkage=1e8)
    mean = model.embed().item[[4, 8]].mean(dim=0)
    assert torch.cosine_similarity(found[0], mean, dim=0) > 1 - 1e-5


def test_refuses_users():
    model = make('lightgcn', make_data())
    edges = torch.tensor([[0, 1], [3, 22]])
    for wrong, error, message in (
        (edges.float(), ValueError, r"'edge_index' must .*\(got torch.float32"),
        (edges[0], ValueError, r'of the shape \[2\]'),
        (edges + torch.tensor([[0], [1]]), IndexError, r'items .* \[0, 23\) \(got 4 to 23\)'),
        (edges - torch.tensor([[1], [0]]), IndexError, r'users .* \(got -1 to 0\)'),
    ):
        with pytest.raises(error, match=message):
            model.encode_users(wrong)
    with pytest.raises(IndexError, match=r'the users .* must lie in \[0, 1\)'):
        model.encode_users(edges, num_users=1)
    with pytest.raises(ValueError, match=r"'shrinkage' must be positive \(got 0\)"):
        model.encode_users(edges, shrinkage=0)


@pytest.mark.parametrize('task', ['bpr', 'ssm'])
def test_planted_kinds_are_found(task):
    """New items and new users of two kinds, of a model trained on others."""
    torch.manual_seed(0)
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 20, 16
    kind = torch.arange(16) % 2
    for m, width in (('image', 5), ('text', 7)):
        data['item'][f'x_{m}'] = 0.1 * torch.randn(16, width) + (2.0 * kind.unsqueeze(1) - 1)
    alike = torch.arange(20).unsqueeze(1) % 2 == kind
    edge_index = (alike & (torch.rand(20, 16) < 0.7)).nonzero().t().contiguous()
    data['user', 'rates', 'item'].edge_index = edge_index
    new = {m: 2.0 * (torch.arange(4) % 2).unsqueeze(1).expand(4, w) - 1
           for m, w in (('image', 5), ('text', 7))}  # fmt: skip
    for name in MULTIMODAL if task == 'bpr' else [m for m in MULTIMODAL if m != 'bm3']:
        model = MODELS[name](data, channels=CHANNELS, task=task)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(30):
            neg = (edge_index[1] + 1) % 16  # of the other kind
            terms = model.loss(Triplets(*edge_index, neg))
            optimizer.zero_grad()
            sum(w * terms[key] for key, w in model.loss_weights.items()).backward()
            optimizer.step()
        score = model.embed().user @ model.encode_items(new).t()
        right = (score[:, 0] > score[:, 1]) == (torch.arange(20) % 2 == 0)
        assert right.float().mean() > 0.95, name
        users = model.encode_users(torch.tensor([[0, 0, 1, 1], [0, 4, 1, 5]]))
        score = users @ model.embed().item.t()
        assert score[0, ::2].mean() > score[0, 1::2].mean(), name
        assert score[1, ::2].mean() < score[1, 1::2].mean(), name


@pytest.mark.parametrize('scaling', [None, 'standard', 'row'])
def test_items_without_a_direction_are_nobodys_neighbors(scaling):
    data = make_data()
    data['item'].x_image = torch.randn(23, 5) + 0.7
    data['item'].x_image[7] = 0
    model = MODELS['freedom'](data, channels=CHANNELS, feature_scaling=scaling)
    new = {'image': torch.randn(40, 5), 'text': torch.randn(40, 7)}
    row, col, _ = NewItems(model.item_features, new, None).neighbors('image', 22)
    assert row.numel() == 40 * 22 and 7 not in col.tolist()


@pytest.mark.parametrize('form', ['loops', 'no loops'])
def test_item_graphs_of_mgcn_that_a_user_has_made(form):
    data = make_data()
    made = ItemKNN(5, 'image')(data)['item', 'image_knn', 'item']
    keep = made.edge_index[0] != made.edge_index[1] if form == 'no loops' else slice(None)
    data['item', 'image_knn', 'item'].edge_index = made.edge_index[:, keep]
    data['item', 'image_knn', 'item'].edge_weight = made.edge_weight[keep]
    degree = MODELS['mgcn'](data, channels=CHANNELS, k=5).item_degree('image')
    assert (degree is None) == (form == 'no loops')
