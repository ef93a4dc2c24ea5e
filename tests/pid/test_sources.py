import pytest
import torch

from mrdib_pyg.nn.models import MODELS
from mrdib_pyg.pid.sources import Calibration, ScoreRows, ScoreSource, model_sources

MULTIMODAL = [name for name, cls in MODELS.items() if cls.multimodal]
#: Models in which the IDs have no path of their own beside the codes.
WITHOUT_ID = ('mmgcn', 'dualgnn')


def make(name, data, **settings):
    torch.manual_seed(0)
    return MODELS[name](data, channels=8, **settings).eval()


@pytest.mark.parametrize('mrdib', [None, {}, {'bottleneck': 'complete'}])
@pytest.mark.parametrize('name', MULTIMODAL)
def test_sources_of_every_model(data, name, mrdib):
    model = make(name, data, mrdib=mrdib).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    out = model_sources(model)
    expected = {'image', 'text', 'image+text', 'content', 'score'}
    assert set(out) == expected | (set() if name in WITHOUT_ID else {'id'})
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    for source in out.values():
        assert source.varies and not source.user.requires_grad
        assert source.user.size(0) == model.num_users and source.item.size(0) == model.num_items
    for a, b in zip(out['content'][:2], out['image+text'][:2]):
        assert torch.allclose(a, b, atol=1e-6)
    emb = model.eval().embed()
    assert torch.equal(out['score'].user, emb.user) and torch.equal(out['score'].item, emb.item)
    if name in WITHOUT_ID:
        assert torch.allclose(out['content'].item, emb.item, atol=1e-6)


@pytest.mark.parametrize('fusion', ['sum', 'attention', 'mlp', 'product_of_experts'])
def test_reference_holds_its_id_channel_at_the_mean(data, fusion):
    model = make('multimodal_lightgcn', data, fusion=fusion, mrdib={})
    emb = model.embed()
    out = model_sources(model)
    for full, ids, content in zip(emb[:2], emb.views['id'], out['content'][:2]):
        assert torch.allclose(content, full - ids + ids.mean(dim=0), atol=1e-6)
    held = out['id'].item - emb.views['id'][1]
    assert torch.allclose(held, held[:1].expand_as(held), atol=1e-6)


def test_no_id_channel(data):
    model = make('multimodal_lightgcn', data, id_channel=False)
    out = model_sources(model)
    assert 'id' not in out
    assert torch.equal(out['content'].item, model.embed().item)


def test_vbpr_holds_item_factors_at_the_mean(data):
    model = make('vbpr', data)
    emb, out = model.embed(), model_sources(make('vbpr', data))
    assert torch.equal(out['content'].user, emb.user)
    mean = emb.item[:, :8].mean(dim=0).expand(model.num_items, 8)
    assert torch.allclose(out['content'].item[:, :8], mean, atol=1e-6)
    assert torch.allclose(out['content'].item[:, 8:], emb.item[:, 8:], atol=1e-6)
    assert torch.allclose(out['id'].item[:, :8], emb.item[:, :8], atol=1e-6)
    assert float(out['id'].item[:, 8:].std(dim=0).max()) < 1e-6


@pytest.mark.parametrize('name', ['mgcn', 'soil'])
def test_behavior_view_is_held_before_it_gates(data, name):
    model = make(name, data)
    codes = model.modality_embeddings()
    behavior = model.fuse(codes).views['behavior'][1]
    mean = behavior.mean(dim=0).expand_as(behavior)
    expected = mean + model.side([item for _, item in codes.values()], mean, None)
    assert torch.allclose(model_sources(model)['content'].item, expected, atol=1e-6)


def test_codes_that_never_reach_the_score(data):
    """The content of these is that of a joint predictor; the score itself is the ID path's."""
    for model in (make('bm3', data), make('freedom', data, slot='projection', mrdib={})):
        out = model_sources(model)
        assert torch.allclose(out['id'].item, out['score'].item, atol=1e-6)
        assert not torch.allclose(out['content'].item, out['score'].item, atol=1e-3)


def test_missing_modalities():
    from mrdib_pyg.datasets import Planted

    data = Planted(num_users=40, num_items=50, num_interactions=8, missing=0.3)[0]
    for name in MULTIMODAL:
        out = model_sources(make(name, data))
        assert ('id' in out) == (name not in WITHOUT_ID), name
        assert torch.equal(out['image'].has_item, data['item'].has_image)


def test_three_modalities(data):
    data = data.clone()
    data['item'].x_audio = torch.randn(120, 5)
    model = make('multimodal_lightgcn', data, id_channel=False)
    out = model_sources(model)
    assert {'image+text', 'audio+image', 'audio+text', 'content'} <= set(out)
    codes = model.modality_embeddings()
    held = codes['audio'][1].mean(dim=0)
    expected = codes['image'][1] + codes['text'][1] + held
    found = out['image+text'].item
    assert torch.allclose(found - found.mean(0), expected - expected.mean(0), atol=1e-5)


def test_refused(data):
    with pytest.raises(ValueError, match=r"'model' must read a modality \(got LightGCN"):
        model_sources(make('lightgcn', data))
    with pytest.raises(TypeError, match='must be a Recommender'):
        model_sources(torch.nn.Linear(2, 2))
    model = make('vbpr', data)
    with torch.no_grad():
        model.user_emb.weight[0] = float('nan')
    with pytest.raises(ValueError, match='scores by .* must be finite'):
        model_sources(model)


@pytest.mark.parametrize('name', ['content', 'id', 'score', 'all'])
def test_modalities_called_as_another_source_are_refused(data, name):
    data = data.clone()
    data['item'][f'x_{name}'] = data['item'].x_image
    with pytest.raises(ValueError, match=f"'model' must have modalities .*got '{name}'"):
        model_sources(make('vbpr', data))


def test_features_against_all_scores():
    user, item = torch.randn(5, 3), torch.randn(7, 3)
    score = (user @ item.t()).double()
    u, i = torch.tensor([0, 4, 4, 2]), torch.tensor([6, 0, 3, 3])
    d = score[u, i] - score.mean(dim=1)[u]
    variance = score.var(dim=1, unbiased=False)[u]
    expected = torch.stack([d, d / variance.sqrt(), variance], dim=-1)
    assert torch.allclose(ScoreSource(user, item).features(u, i), expected, atol=1e-5)


def test_what_is_missing_says_nothing():
    user, item = torch.randn(5, 3), torch.randn(7, 3)
    has = torch.tensor([True, True, False, True, True, True, False])
    source = ScoreSource(user, item, torch.arange(5) != 1, has)
    u, i = torch.tensor([0, 0, 1]), torch.tensor([2, 1, 1])
    d = source.features(u, i)[:, 0]
    known = (user[0] @ item.t())[has]
    assert d[0] == 0 and d[2] == 0
    assert torch.allclose(d[1].float(), user[0] @ item[1] - known.mean(), atol=1e-5)


def test_offset_and_constant_scores():
    user, item = torch.randn(5, 3), torch.randn(7, 3)
    u, i = torch.arange(5), torch.arange(5)
    moved = ScoreSource(user, item + 3.0).features(u, i)
    assert torch.allclose(moved, ScoreSource(user, item).features(u, i), atol=1e-4)
    same = ScoreSource(user, item[:1].expand(7, 3))
    assert not same.varies and ScoreSource(user, item).varies
    assert same.features(u, i).isfinite().all()


def test_rows_of_scores_are_described_as_embeddings_are():
    user, item = torch.randn(9, 4), torch.randn(30, 4)
    u, i = torch.randint(9, (50,)), torch.randint(30, (50,))
    expected = ScoreSource(user, item).features(u, i)
    rows = ScoreRows('x', 30, lambda index: user[index] @ item.t())
    assert torch.allclose(rows.features(u, i), expected, atol=1e-5)
    constant = ScoreRows('x', 30, lambda index: torch.ones(len(index), 30))
    assert not bool(constant.features(u, i).any())


def test_recovers_log_odds():
    x = torch.randn(20_000, 1).double()
    odds = 1.5 * x[:, 0]
    y = (torch.rand(20_000) < odds.sigmoid()).long()
    found = Calibration(x, y)(x)
    near = x[:, 0].abs() < 2
    assert float((found - odds)[near].abs().max()) < 0.35
    # And what is no line.
    y = (torch.rand(20_000) < (2 * x[:, 0].square() - 2).sigmoid()).long()
    found = Calibration(x, y)(torch.tensor([[0.0], [1.5], [-1.5]]))
    assert found[0] < -1.5 and found[1] > 1.5 and found[2] > 1.5


def test_products_of_two_numbers():
    x = torch.randn(20_000, 2).double()
    y = (x[:, 0] * x[:, 1] > 0).long()
    found = Calibration(x, y, products=True)(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    assert found[0] > 1 and found[1] < -1


def test_constant_and_extreme_numbers():
    x = torch.stack([torch.randn(500), torch.full((500,), 3.0)], dim=-1)
    y = (x[:, 0] > 0).long()
    calibration = Calibration(x, y)
    assert calibration(torch.tensor([[1e30, 3.0], [0.0, 1e30]])).isfinite().all()
