import math

import pytest
import torch
from contract import RecommenderContract, make_batch, make_data, moved
from toy import BATCH, MEAN_ITEM, MEAN_USER, close, toy

from mrdib_pyg.nn.models import DualGNN
from mrdib_pyg.nn.models.batch import Rows, bpr_loss
from mrdib_pyg.nn.models.dualgnn import LOSS_SCALE
from mrdib_pyg.transforms import UserCooccurrence

PREFERENCES = torch.tensor([[1.0, 1], [2, 0], [0, -1]])
FEATURES = torch.tensor([[3.0, 4], [1, 0], [0, 2], [1, 1]])
START = [[0.7071, 0.7071], [1, 0], [0, -1]]  # the preferences, of unit norm


class TestDualGNN(RecommenderContract):
    name = 'dualgnn'


class TestDualGNNFewNeighbors(RecommenderContract):
    name = 'dualgnn'
    settings = {'num_neighbors': 2, 'neighbor_weighting': 'mean', 'feature_scaling': 'row'}


@torch.no_grad()
def make_example(modalities=('image',), **settings):
    model = DualGNN(toy(**dict.fromkeys(modalities, FEATURES)), channels=2, **settings)
    for m in modalities:
        model.preferences[m].weight.copy_(PREFERENCES)
        first, _, second = model.encoders[m]
        for lin in (first, second):  # features that are not negative pass as they are
            lin.weight.copy_(torch.eye(*lin.weight.shape))
            lin.bias.zero_()
    return model


def test_propagation_of_the_worked_example():
    with torch.no_grad():
        user, item = make_example().modality_embeddings()['image']
    close(user, [[2.0025, 1.4622], [2.4112, 0.2041], [0.8889, -0.2879]])
    close(item, [[1.4220, 1.4471], [2.7624, 0.5887], [0.8220, 1.6471], [1.0842, 0.7897]])
    close(make_example().embed().item, item)  # of one modality, the items are its codes


def test_fusion_of_the_worked_example():
    model = make_example(('image', 'text'), num_neighbors=2)
    close(model.user_adj.to_dense(), [[0, 0.2689, 0.7311], [1, 0, 0], [1, 0, 0]])
    item = MEAN_ITEM
    codes = {'image': (torch.tensor(START), item), 'text': (MEAN_USER, item)}
    with torch.no_grad():
        emb = model.fuse(codes)
        close(emb.user, [[1.4739, 0.6270], [1.4113, 1.0292], [1.4969, 0.4790]])
        close(emb.item, 2 * item)
        # A user who cares for images alone.
        model.attention[1] = torch.tensor([100.0, 0.0])
        other = model.fuse(codes).user
    mean = [[0.8632, 0.6613], [1.0, 0.0], [0.6337, -0.1824]]
    close(other[1], torch.tensor(mean[1]) + torch.tensor(mean[0]))
    close(other[2], emb.user[2])


def test_task_is_in_bits():
    user, item = MEAN_USER, MEAN_ITEM
    model = make_example()
    assert model.loss_weights['task'] == LOSS_SCALE == pytest.approx(1 / math.log(2))
    close(bpr_loss(user, item, BATCH), 0.6009)
    close(LOSS_SCALE * bpr_loss(user, item, BATCH), 0.8669)


def test_regularizer():
    data = make_data()
    model = moved(DualGNN(data, channels=8))
    batch = make_batch(data)
    expected = model.attention.softmax(dim=1).square().mean()
    for m in ('image', 'text'):
        expected = expected + model.preferences[m].weight[batch.src_index].square().mean()
    torch.testing.assert_close(model.loss(batch)['reg'], expected)


def test_user_graph_of_the_data():
    data = make_data()
    model = DualGNN(data, num_neighbors=3)
    given = DualGNN(UserCooccurrence(3)(data), num_neighbors=3)
    assert torch.equal(given.user_adj.to_dense(), model.user_adj.to_dense())
    data['user', 'cooccurrence', 'user'].edge_index = torch.tensor([[2], [5]])
    data['user', 'cooccurrence', 'user'].edge_weight = torch.tensor([0.5])
    dense = DualGNN(data).user_adj.to_dense()
    assert dense[2, 5] == 0.5 and dense.count_nonzero() == 1


def test_no_user_shares_an_item():
    data = make_data(num_users=5, num_items=7)
    data['user', 'rates', 'item'].edge_index = torch.arange(5).expand(2, -1).contiguous()
    model = DualGNN(data, channels=8)
    assert model.user_adj.nnz == 0
    assert all(torch.isfinite(x).all() for x in model.embed()[:2])


@torch.no_grad()
def test_missing_modalities():
    data = make_data(missing=0.4, seed=2)
    data['item'].has_image[3] = data['item'].has_text[3] = False
    data['item'].has_text[4] = False  # all that user 1 has
    model = moved(DualGNN(data, channels=8))
    codes, emb, present = model.modality_embeddings(), model.embed(), model.present()
    for i in range(23):
        held = [code[1][i] for m, code in codes.items() if present[m][1][i]]
        held = held or [code[1][i] for code in codes.values()]
        torch.testing.assert_close(emb.item[i], torch.stack(held).sum(dim=0))
    omega = model._omega()
    torch.testing.assert_close(omega.sum(dim=1), torch.ones(17))
    assert not present['text'][0][1] and omega[1].tolist() == [1.0, 0.0]
    both = present['image'][0] & present['text'][0]
    assert torch.equal(omega[both], model.attention.softmax(dim=1)[both])


def test_the_user_graph_needs_all_users():
    model = make_example()
    rows = Rows(torch.tensor([0]), torch.tensor([1, 2]))
    codes = model.modality_embeddings(rows)
    full = model.modality_embeddings()['image']
    assert torch.equal(codes['image'][0], full[0][:1])
    assert torch.equal(codes['image'][1], full[1][1:3])
    with pytest.raises(ValueError, match="'rows' must"):
        model.fuse(codes, rows)


def test_refuses_settings():
    for settings, message in (
        ({'num_layers': -1}, r"'num_layers' must be at least 0 \(got -1\)"),
        ({'num_neighbors': 0}, r"'num_neighbors' must be at least 1 \(got 0\)"),
        ({'neighbor_weighting': 'sum'}, r"'neighbor_weighting' must be .* \(got 'sum'\)"),
    ):
        with pytest.raises(ValueError, match=message):
            DualGNN(make_data(), **settings)


def test_a_user_graph_without_weights():
    data = make_data()
    data['user', 'cooccurrence', 'user'].edge_index = torch.zeros(2, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="'cooccurrence', 'user'.*edge_weight"):
        DualGNN(data, channels=8)
