import pytest
import torch
from contract import make_data
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mrdib_pyg.nn.models import LightGCN


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
