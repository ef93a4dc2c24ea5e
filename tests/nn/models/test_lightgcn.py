import pytest
import torch
from contract import RecommenderContract
from toy import BATCH, ITEM, MEAN_ITEM, MEAN_USER, USER, close, toy

from mrdib_pyg.nn import MRdIB
from mrdib_pyg.nn.models import LightGCN


class TestLightGCN(RecommenderContract):
    name = 'lightgcn'


class TestLightGCNWithoutGraph(RecommenderContract):
    name = 'lightgcn'
    settings = {'num_layers': 0, 'reg_weight': 0.1}


@torch.no_grad()
def make_example():
    model = LightGCN(toy(), channels=2, num_layers=2)
    model.user_emb.weight.copy_(USER)
    model.item_emb.weight.copy_(ITEM)
    return model


def test_worked_example():
    model = make_example()
    emb = model.embed()
    close(emb.user, MEAN_USER)
    close(emb.item, MEAN_ITEM)
    close(
        emb.user @ emb.item.t(),
        [
            [1.6539, 0.8641, 1.5833, 0.8311],
            [0.8350, 0.6930, 0.3767, 0.0142],
            [1.9259, 0.9569, 1.9249, 1.0456],
        ],
    )
    for training in (True, False):
        terms = model.train(training).loss(BATCH)
        close(terms['task'].detach(), 0.6009)
        close(terms['reg'].detach(), 2.4914)  # of the tables, before propagation


def test_needs_no_features():
    model = LightGCN(toy())
    assert model.modalities == [] and model.present() is None
    assert model.modality_embeddings() == {}
    assert model.user_emb.weight.abs().max() <= (6 / (3 + 64)) ** 0.5


@pytest.mark.parametrize('mrdib', [{}, {'control': 'l2'}, MRdIB({'image': 64})])
def test_refuses_mrdib(mrdib):
    with pytest.raises(ValueError, match="LightGCN reads no modality.* leave out 'mrdib'"):
        LightGCN(toy(image=ITEM), mrdib=mrdib)


def test_refuses_settings():
    with pytest.raises(ValueError, match=r"'num_layers' must be at least 0 \(got -1\)"):
        LightGCN(toy(), num_layers=-1)
