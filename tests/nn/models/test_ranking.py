import pytest
import torch
from contract import make_data
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mrdib_pyg.nn.models import VBPR, LightGCN


def make():
    return LightGCN(make_data(), channels=8, num_layers=1).eval()


def test_embeddings_follow_parameters_that_are_replaced():
    model = make()
    before = model.embed().user
    assert model.embed().user is before
    vector_to_parameters(torch.zeros_like(parameters_to_vector(model.parameters())),
                         model.parameters())  # fmt: skip
    assert model.embed().user.abs().max() == 0
    param = next(iter(model.parameters()))
    param.data = torch.ones_like(param)
    assert model.embed().user.abs().max() > 0
    param.data.zero_()  # leaves no trace
    model.forget()
    assert model.embed().user.abs().max() == 0


def test_ids_of_users_and_pairs():
    model = make()
    value, index = model.recommend([], k=3)
    assert value.shape == index.shape == (0, 3)
    assert torch.equal(model.recommend([4], k=3)[1], model.recommend(torch.tensor(4), k=3)[1])
    for user in ([0.0, 1.0], [True]):
        with pytest.raises(TypeError, match="'user' must hold integer ids"):
            model.recommend(user)
    assert model.predict(torch.empty(2, 0, dtype=torch.long)).shape == (0,)
    for pair, message in (
        ([[-1], [0]], r"users of 'edge_label_index' must lie in \[0, 17\) \(got -1 to -1\)"),
        ([[0], [23]], r"items of 'edge_label_index' must lie in \[0, 23\) \(got 23 to 23\)"),
    ):
        with pytest.raises(IndexError, match=message):
            model.predict(torch.tensor(pair))


@pytest.mark.parametrize('frozen', [True, False])
def test_embeddings_do_not_follow_a_table(frozen):
    model = LightGCN(make_data(), channels=8, num_layers=0).requires_grad_(not frozen).eval()
    user = model.embed().user
    before = user.clone()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(1.0)
    assert torch.equal(user, before) and not torch.equal(model.embed().user, before)


def test_embeddings_of_inference_mode_may_enter_a_loss():
    model = make()
    with torch.inference_mode():
        item = model.embed().item
    weight = torch.ones(8, requires_grad=True)
    (model.embed().item * weight).sum().backward()
    assert model.embed().item is item and torch.equal(weight.grad, item.sum(dim=0))


def test_modes_of_modules_stay():
    model = VBPR(make_data(), channels=8, mrdib={}).train()
    model.mrdib.eval()
    model.embed()
    model.encode_items({m: torch.zeros(2, n) for m, n in (('image', 5), ('text', 7))})
    assert model.training and model.lins.training and not model.mrdib.training


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_ids_of_any_width(dtype):
    model, user = make(), torch.tensor([1, 3])
    expected = model.recommend(user, k=5)
    assert all(map(torch.equal, model.recommend(user.to(dtype), k=5), expected))
