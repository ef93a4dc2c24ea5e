import pytest
import torch
import torch.nn.functional as F
from contract import make_data
from torch.autograd import gradcheck

from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.nn.models.features import unit_rows


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_unit_rows(dtype):
    x = torch.randn(5, 3, dtype=dtype, requires_grad=True)
    weight = torch.randn_like(x)
    torch.testing.assert_close(unit_rows(x), F.normalize(x, dim=-1))
    expected = torch.autograd.grad((F.normalize(x, dim=-1) * weight).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad((unit_rows(x) * weight).sum(), x)[0], expected)


def test_unit_rows_gradient():
    assert gradcheck(unit_rows, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))


def test_unit_rows_of_zeros_stay_and_pass_nothing_on():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    out = unit_rows(x)
    torch.testing.assert_close(out, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    grad = torch.autograd.grad(out.sum(), x)[0]
    assert torch.equal(grad[0], torch.zeros(2)) and torch.isfinite(grad).all()
    assert unit_rows(torch.empty(0, 2)).shape == (0, 2)


@pytest.mark.parametrize('has_missing', [False, True])
@pytest.mark.parametrize('scaling', ['standard', 'row', None])
def test_feature_scaling(scaling, has_missing):
    data = make_data(missing=0.3 if has_missing else 0.0)
    raw = data['item'].x_text.clone()
    data['item'].x_text[:, 2] = raw[:, 2] = 1000.1
    model = Recommender(data, channels=4, feature_scaling=scaling)
    x = model.features('text')
    has = data['item'].has_text if has_missing else torch.ones(23, dtype=torch.bool)
    assert (x[~has] == 0).all()
    if scaling is None:
        assert torch.equal(x[has], raw[has])
    elif scaling == 'row':
        torch.testing.assert_close(x[has].norm(dim=1), torch.ones(int(has.sum())))
    else:
        kept = x[has][:, [0, 1, 3, 4, 5, 6]]
        torch.testing.assert_close(kept.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
        torch.testing.assert_close(kept.std(dim=0, unbiased=False), torch.ones(6))
        assert (x[:, 2] == 0).all()  # a constant column, not its rounding error
    assert torch.equal(data['item'].x_text, raw.where(has.unsqueeze(1), data['item'].x_text))
    assert torch.equal(model.features('text', torch.tensor([4, 1])), x[[4, 1]])


def test_users_have_a_modality_if_any_of_their_items_does():
    data = make_data(missing=0.5)
    model = Recommender(data, channels=4)
    user, item = data['user', 'rates', 'item'].edge_index
    for name, (has_user, has_item) in model.present().items():
        assert torch.equal(has_item, data['item'][f'has_{name}'])
        for u in range(17):
            assert bool(has_user[u]) == bool(has_item[item[user == u]].any())
    assert Recommender(make_data(), channels=4).present() is None


def test_features_that_stay_as_they_are_share_the_memory_of_the_data():
    data = make_data()
    model = Recommender(data, channels=4)
    assert model.features('text').data_ptr() == data['item'].x_text.data_ptr()
    scaled = Recommender(data, channels=4, feature_scaling='row')
    assert scaled.features('text').data_ptr() != data['item'].x_text.data_ptr()
