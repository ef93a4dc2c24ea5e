import pytest
import torch
from contract import RecommenderContract, make_batch, make_data, moved

from mrdib_pyg.datasets import Planted
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn import Posterior
from mrdib_pyg.nn.bottleneck import product_of_experts
from mrdib_pyg.nn.models import MultimodalLightGCN
from mrdib_pyg.ops import propagate_mean
from mrdib_pyg.training import fit


class TestSum(RecommenderContract):
    name = 'multimodal_lightgcn'


class TestAttention(RecommenderContract):
    name = 'multimodal_lightgcn'
    settings = {'fusion': 'attention', 'num_layers': 1}


class TestMLP(RecommenderContract):
    name = 'multimodal_lightgcn'
    settings = {'fusion': 'mlp'}
    # The same for all items, hence it drops out of every difference of scores.
    without_gradient = ('mlp.2.bias',)


class TestContentOnly(RecommenderContract):
    name = 'multimodal_lightgcn'
    settings = {'fusion': 'mlp', 'num_layers': 0, 'id_channel': False, 'num_encoder_layers': 2}


class TestProductOfExperts(RecommenderContract):
    name = 'multimodal_lightgcn'
    settings = {'fusion': 'product_of_experts'}


def make(data=None, **settings):
    data = make_data() if data is None else data
    return moved(MultimodalLightGCN(data, channels=8, **settings)).eval()


def with_bare_item(missing=0.3):
    """Data in which item 2 has no modality, and user 1 has that item alone."""
    data = make_data(missing=missing)
    data['item'].has_image[2] = data['item'].has_text[2] = False
    user, item = data['user', 'rates', 'item'].edge_index
    data['user', 'rates', 'item'].edge_index = torch.stack([user, item.where(user != 1, 2)])
    return data


@pytest.mark.parametrize('num_layers', [0, 2])
def test_sum(num_layers):
    model = make(num_layers=num_layers)
    emb = model()
    ids = (model.user_emb.weight, model.item_emb.weight)
    user, item = propagate_mean(ids, model.adj, num_layers)
    for code_user, code_item in model.modality_embeddings().values():
        user, item = user + code_user, item + code_item
    torch.testing.assert_close(emb.user, user)
    torch.testing.assert_close(emb.item, item)


def test_id_channel_is_a_view():
    model = make()
    emb = model()
    user, item = emb.views['id']
    content = MultimodalLightGCN(make_data(), channels=8, id_channel=False).eval()
    content.load_state_dict(model.state_dict(), strict=False)
    assert content().views == {}
    # Without the channel the features are not scaled down to its size, hence only a type is shared.
    assert user.shape == content().user.shape and item.shape == content().item.shape


@pytest.mark.parametrize('fusion', ['sum', 'attention', 'mlp', 'product_of_experts'])
def test_item_without_any_modality_falls_back_to_its_id(fusion):
    model = make(with_bare_item(), fusion=fusion)
    emb = model()
    id_user, id_item = emb.views['id']
    assert torch.equal(emb.item[2], id_item[2])
    assert torch.equal(emb.user[1], id_user[1])
    both = model.item_features.present()
    has = both['image'][1] & both['text'][1]
    assert (emb.item[has] != id_item[has]).any(dim=1).all()


def test_attention_leaves_missing_modalities_out():
    model = make(with_bare_item(), fusion='attention', id_channel=False)
    emb, codes, present = model(), model.modality_embeddings(), model.present()
    for side, fused in enumerate((emb.user, emb.item)):
        for row in range(len(fused)):
            x = [codes[m][side][row] for m in codes if bool(present[m][side][row])]
            expected = torch.zeros(8)
            if len(x) > 0:
                x = torch.stack(x)
                expected = model.attention(x).softmax(dim=0).t() @ x
            torch.testing.assert_close(fused[row], expected.view(-1))


def test_product_of_experts_reads_the_posteriors():
    model = make(fusion='product_of_experts', id_channel=False, mrdib={'redundancy': None})
    posteriors = model.mrdib(model.modality_embeddings())
    expected = product_of_experts([posteriors[m][1] for m in model.modalities])
    torch.testing.assert_close(model().item, expected.mu)
    plain = make(fusion='product_of_experts', id_channel=False)
    x = [Posterior(x[1], x[1]) for x in plain.modality_embeddings().values()]
    torch.testing.assert_close(plain().item, product_of_experts(x).mu)


def test_product_of_experts_reads_the_noise_of_the_control():
    settings = {'fusion': 'product_of_experts', 'id_channel': False}
    model = make(**settings, mrdib={'control': 'noise', 'noise_scale': 0.5})
    expected = model.eval()().item
    assert torch.equal(model().item, expected)
    assert (model.train()().item - expected).abs().max() > 0.01


def test_users_of_the_mlp_are_summed():
    model = make(fusion='mlp', id_channel=False)
    codes = model.modality_embeddings()
    torch.testing.assert_close(model().user, codes['image'][0] + codes['text'][0])
    x = torch.cat([codes['image'][1], codes['text'][1]], dim=1)
    torch.testing.assert_close(model().item, model.mlp(x))


def test_l2_is_that_of_the_id_rows_of_the_batch():
    model, batch = make(), make_batch(make_data())
    user, item = model.user_emb.weight.detach(), model.item_emb.weight.detach()
    expected = sum(
        float(user[u].square().sum() + item[i].square().sum() + item[j].square().sum()) / 2
        for u, i, j in zip(*batch)
    )
    assert float(model.loss(batch)['l2'].detach()) == pytest.approx(expected / 64, rel=1e-5)
    assert model.loss_weights == {'task': 1.0, 'l2': model.l2_weight}


def test_initialization():
    model = MultimodalLightGCN(make_data(), channels=8, fusion='mlp', num_encoder_layers=2)
    for name, param in model.named_parameters():
        if 'bias' in name:
            assert (param == 0).all(), name
        else:
            assert param.abs().max() <= (6 / sum(param.shape)) ** 0.5, name


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'fusion': 'max'}, r"'fusion' must be one of .* \(got 'max'\)"),
        ({'num_encoder_layers': 3}, r"'num_encoder_layers' must be 1 or 2 \(got 3\)"),
        ({'num_layers': -1}, r"'num_layers' must not be negative \(got -1\)"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize('num_encoder_layers', [1, 2])
def test_mlp_learns_synergy_and_sum_does_not(num_encoder_layers):
    """Preferences depend on products of a bit seen in one modality and a bit seen in the other.
    No sum over modalities can rank by them. (Given many epochs, two-layer encoders learn the items
    of this small catalogue by heart; so few are run.)
    """
    dataset = Planted(case='s', noise=0.0, num_users=800, num_items=600, num_interactions=40)
    data = dataset[0]

    def ndcg(model):
        return evaluate(model, data, 'test', k=10)['ndcg@10']

    oracle, reached = ndcg(dataset.oracle()), {}
    for fusion in ('mlp', 'sum'):
        torch.manual_seed(0)
        model = MultimodalLightGCN(
            data,
            channels=32,
            num_layers=0,
            fusion=fusion,
            id_channel=False,
            num_encoder_layers=num_encoder_layers,
            l2_weight=0.0,
        )
        fit(model, data, epochs=12, batch_size=1024, lr=5e-3, progress=False)
        reached[fusion] = ndcg(model) / oracle
    assert reached['mlp'] > 0.65
    assert reached['sum'] < 0.35
