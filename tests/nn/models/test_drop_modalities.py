import copy
from contextlib import contextmanager

import pytest
import torch
from contract import CHANNELS, make_batch, make_data, moved, same, scores, total

from mrdib_pyg.nn.models import MODELS, MultimodalLightGCN
from mrdib_pyg.nn.models._drop_modalities import _keep, drop_modalities
from mrdib_pyg.transforms import InterestGraph, ItemKNN, SecondOrderGraph

MULTIMODAL = [name for name, cls in MODELS.items() if cls.multimodal]
LAYERS = [None, {'redundancy': 'gaussian'}]


def make(name, data, **settings):
    torch.manual_seed(0)
    return moved(MODELS[name](data, channels=CHANNELS, **settings))


def masks_of(model):
    return {name: pair for name, pair in model.present().items()}


def with_graphs(data, name):
    """Graphs of the whole features, so that no mask has a part in them."""
    if name == 'soil':
        return SecondOrderGraph(2)(InterestGraph(5, 5)(data))
    return ItemKNN(5, form='binary' if name == 'freedom' else 'similarity')(data)


@contextmanager
def fixed(model, data):
    """Lets items lack what `data` says they lack."""
    features = model.item_features
    user, item = data['user', 'rates', 'item'].edge_index
    masks = {}
    for name in features.names:
        has = data['item'][f'has_{name}']
        by_user = torch.zeros(model.num_users, dtype=torch.bool)
        by_user[user[has[item]]] = True
        masks[name] = (by_user, has)
    features.set_masks(masks)
    yield
    features.set_masks(None)


@pytest.mark.parametrize('layer', LAYERS, ids=['plain', 'mrdib'])
@pytest.mark.parametrize('name', MULTIMODAL)
def test_what_is_dropped_is_treated_as_missing(name, layer):
    """A step without some modalities is the step of a model whose data lack them."""
    data = with_graphs(make_data(), name)
    lacking = data.clone()
    generator = torch.Generator().manual_seed(3)
    for m in ('image', 'text'):
        lacking['item'][f'has_{m}'] = torch.rand(23, generator=generator) < 0.6
    lacking['item'].has_image |= ~lacking['item'].has_text  # never the last one
    settings = {'mrdib': layer, 'feature_scaling': None}
    if name == 'bm3':
        settings['dropout'] = 0.0
    model = make(name, data, **settings)
    expected = make(name, lacking, **settings)
    batch = make_batch(data)
    torch.manual_seed(1)
    terms = expected.loss(batch)
    torch.manual_seed(1)
    with fixed(model, lacking):
        found = model.loss(batch)
    assert set(found) == set(terms)
    for key, value in terms.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=key)
    total(expected, terms).backward()
    total(model, found).backward()
    for key, param in expected.named_parameters():
        grad = model.get_parameter(key).grad
        torch.testing.assert_close(grad, param.grad, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize('fusion', ['sum', 'attention', 'mlp', 'product_of_experts'])
@pytest.mark.parametrize('num_layers', [0, 1])
def test_fusions(fusion, num_layers):
    data = make_data(missing=0.3)
    model = MultimodalLightGCN(data, 8, num_layers=num_layers, fusion=fusion, mrdib={})
    batch = make_batch(data)
    model.loss(batch)
    with drop_modalities(model, 0.5):
        terms = model.loss(batch)
    total(model, terms).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    for key, param in model.named_parameters():
        assert param.grad is None or torch.isfinite(param.grad).all(), key


@pytest.mark.parametrize('name', MULTIMODAL)
def test_evaluation_drops_nothing(name):
    data = make_data(missing=0.2)
    model = make(name, data)
    expected = model.embed()
    before = masks_of(model)
    with drop_modalities(model, 0.9):
        assert same(model.embed(), expected)
        assert same(model.eval().embed(), expected)
        model.train()
        assert any(not torch.equal(m[1], before[k][1]) for k, m in masks_of(model).items())
    assert all(torch.equal(m[1], before[k][1]) for k, m in masks_of(model).items())
    assert same(model.embed(), expected)


def test_zero_changes_no_bit():
    data = make_data()
    model = MODELS['multimodal_lightgcn'](data, channels=8, mrdib={})
    batch = make_batch(data)
    torch.manual_seed(2)
    expected = model.loss(batch)
    torch.manual_seed(2)
    with drop_modalities(model, 0.0):
        assert same(model.loss(batch), expected)
    assert model.present() is None


def test_masks_are_those_of_a_known_chance():
    has = torch.ones(200_000, 2, dtype=torch.bool)
    has[:1000, 0] = False
    has[1000:2000] = False
    torch.manual_seed(0)
    kept = _keep(has, 0.3)
    assert torch.equal(kept[:1000], has[:1000])  # the last one stays
    assert not kept[1000:2000].any()  # and what is not there cannot come
    both = kept[2000:]
    assert both.any(dim=1).all()
    # Each is lost with .3, but where both would be, one of them is not: .3 - .5 * .09.
    share = both.double().mean(dim=0)
    torch.testing.assert_close(share, torch.full((2,), 0.745).double(), atol=0.005, rtol=0)
    assert abs(float(both.all(dim=1).double().mean()) - 0.49) < 0.005
    assert torch.equal(_keep(has[:5], 0.0), has[:5])


def test_users_lack_what_all_their_items_lack():
    data = make_data()
    model = MODELS['mmgcn'](data, channels=8)
    user, item = data['user', 'rates', 'item'].edge_index
    torch.manual_seed(0)
    with drop_modalities(model, 0.8):
        for has_user, has_item in model.present().values():
            for u in range(17):
                assert bool(has_user[u]) == bool(has_item[item[user == u]].any())
            assert not has_item.all()


def test_draws_depend_on_the_global_seed():
    model = MODELS['vbpr'](make_data(), channels=8)

    def draw(seed):
        torch.manual_seed(seed)
        with drop_modalities(model, 0.5):
            return masks_of(model)['image'][1]

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_ends_with_an_error():
    model = MODELS['vbpr'](make_data(), channels=8)
    with pytest.raises(RuntimeError, match='stop'), drop_modalities(model, 0.5):
        raise RuntimeError('stop')
    assert model.present() is None


def test_nested():
    model = MODELS['vbpr'](make_data(), channels=8).train()
    with drop_modalities(model, 0.5):
        outer = model.present()
        with drop_modalities(model, 0.5):
            assert model.present()['image'][1] is not outer['image'][1]
        assert model.present()['image'][1] is outer['image'][1]
    assert model.present() is None


def test_one_modality_is_never_dropped():
    data = make_data(modalities=1)
    model = MODELS['vbpr'](data, channels=8)
    with drop_modalities(model, 0.9):
        assert model.present()['image'][1].all()


def test_a_model_of_ones_own_reads_zeros():
    class Own(MODELS['vbpr']):
        def modality_embeddings(self, rows=None):
            ids = None if rows is None else rows.item
            return {m: (None, self.lins[m](self.features(m, ids))) for m in self.modalities}

    data = make_data()
    model = Own(data, channels=8)
    with drop_modalities(model, 0.5):
        mask = model.present()['text'][1]
        assert not mask.all()
        assert (model.features('text')[~mask] == 0).all()
        assert torch.equal(model.features('text')[mask], data['item'].x_text[mask])
        rows = torch.tensor([4, 2, 0])
        assert torch.equal(model.features('text', rows), model.features('text')[rows])


def test_refuses():
    data = make_data()
    model = MODELS['vbpr'](data, channels=8)
    for ratio in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"'ratio' must lie in \[0, 1\) \(got"):
            with drop_modalities(model, ratio):
                pass
    with pytest.raises(ValueError, match=r"'ratio' must .*LightGCN.*got 0.1"):
        with drop_modalities(MODELS['lightgcn'](data, channels=8), 0.1):
            pass
    with drop_modalities(MODELS['lightgcn'](data, channels=8), 0.0):
        pass


@pytest.mark.parametrize('name', MULTIMODAL)
def test_an_item_without_any_modality_is_scored(name):
    """Down to none: what is missing has no part in the score, and nothing is lost with it."""
    data = make_data()
    for m in ('image', 'text'):
        data['item'][f'has_{m}'] = torch.arange(23) != 7
    model = make(name, data, mrdib={})
    expected = scores(model)
    assert torch.isfinite(expected).all()
    other = copy.copy(data)
    for m in ('image', 'text'):
        other['item'][f'x_{m}'] = data['item'][f'x_{m}'].clone()
        other['item'][f'x_{m}'][7] = 100.0
    model = make(name, other, mrdib={})
    assert torch.equal(scores(model), expected)


@pytest.mark.parametrize('name', MULTIMODAL)
def test_a_modality_that_no_item_has(name):
    data = make_data()
    data['item'].has_text = torch.zeros(23, dtype=torch.bool)
    model = make(name, data, mrdib={})
    assert torch.isfinite(scores(model)).all()
    terms = model.loss(make_batch(data))
    assert all(torch.isfinite(term) for term in terms.values())
