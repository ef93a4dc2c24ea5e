import pytest
import torch
from contract import RecommenderContract
from toy import BATCH, IMAGE, TEXT, toy

from mrdib_pyg.nn import CodePenalty, MRdIB
from mrdib_pyg.nn.models import VBPR


class TestVBPR(RecommenderContract):
    name = 'vbpr'


class TestVBPRScaled(RecommenderContract):
    name = 'vbpr'
    settings = {'feature_scaling': 'standard', 'reg_weight': 0.1}


SCORES = [[2.6, 0.5, 1.57, 3.5], [1.575, 2.875, 0.635, -1.5], [2.51, 1.65, 2.34, -0.7]]
IMAGE_SCORES = [[1.3, 0.3, 0, 1.6], [-0.85, 0.65, 0.25, -0.325], [-0.6, 0.2, 0.1, -0.45]]
TEXT_SCORES = [[0.2, 0.1, -0.53, 0.8], [0.5, 1.3, 0.46, -0.1], [0.16, 0.5, 0.29, -0.2]]


def example():
    return toy(image=IMAGE, text=TEXT)


@torch.no_grad()
def make_example(mrdib=None):
    model = VBPR(example(), channels=2, mrdib=mrdib)
    ids = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    theta = torch.tensor([[1.0, -1], [0.5, 2], [0, 1]])
    model.user_emb.weight.copy_(torch.cat([ids, theta], dim=1))
    model.item_emb.weight.copy_(torch.tensor([[1.0, 2], [0, 1], [2, 0], [1, -1]]))
    model.lins['image'].weight.copy_(torch.tensor([[0.5, 0, 0.1], [0, 0.2, -0.3]]))
    model.lins['text'].weight.copy_(torch.tensor([[0.4, -0.2], [0.1, 0.3]]))
    model.bias.copy_(torch.tensor([0.05, -0.05]))
    return model


def close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize('mrdib', [None, {}, {'control': 'l2'}])
def test_worked_example(mrdib):
    model = make_example(mrdib).eval()
    emb = model.embed()
    close(emb.item[:, 2:], [[1.11, -0.49], [1.15, 0.65], [-0.09, 0.34], [1.80, -0.70]])
    close(emb.user @ emb.item.t(), SCORES)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(4)).t()
    close(model.predict(pairs).view(3, 4), SCORES)
    assert model.recommend(k=2)[1].tolist() == [[3, -1], [0, 2], [1, -1]]
    terms = model.loss(BATCH)
    close(terms['task'], 1.5825)
    close(terms['reg'], 3.5899)


def test_unimodal_scores_of_the_worked_example():
    model = make_example()
    codes, emb = model.modality_embeddings(), model()
    parts = {m: user @ item.t() for m, (user, item) in model.unimodal(codes, emb).items()}
    close(parts['image'], IMAGE_SCORES)
    close(parts['text'], TEXT_SCORES)
    # The score is their sum, but for the ID factors and the bias: it cannot carry synergy.
    ids = emb.user[:, :2] @ emb.item[:, :2].t()
    bias = emb.user[:, 2:] @ model.bias
    close(bias, [0.1, -0.075, -0.05])
    close(ids + parts['image'] + parts['text'] + bias.unsqueeze(1), SCORES)


def test_unique_of_the_worked_example():
    terms = make_example({'redundancy': None}).eval().loss(BATCH)
    src, pos, neg = BATCH
    expected = 0.0
    for part in (torch.tensor(IMAGE_SCORES), torch.tensor(TEXT_SCORES)):
        expected += torch.nn.functional.softplus(part[src, neg] - part[src, pos]).mean()
    close(terms['unique'], expected)


def test_users_have_no_code():
    model = make_example({'redundancy': 'mine'})
    assert list(model.mrdib.critics) == ['item_0_1']
    mrdib = MRdIB({'image': 2, 'text': 2})
    assert list(make_example(mrdib).mrdib.critics) == ['item_0_1']
    # The rate is over items alone.
    item = torch.cat([x[1] for x in make_example().modality_embeddings().values()])
    terms = make_example(CodePenalty({'image': 2, 'text': 2})).loss(BATCH)
    image, text = item[:4], item[4:]
    rows = torch.cat([BATCH.dst_pos_index, BATCH.dst_neg_index])
    expected = 0.5 * (image[rows].square().sum(1) + text[rows].square().sum(1)).mean()
    torch.testing.assert_close(terms['bottleneck'], expected)


def test_items_without_a_modality_lose_its_term():
    data = example()
    data['item'].has_image = torch.tensor([True, False, True, True])
    model = VBPR(data, channels=2)
    model.load_state_dict(make_example().state_dict())
    emb, full = model.embed(), make_example().embed()
    close(emb.item[1, 2:], [0.6 + 0.05, 0.5 - 0.05])  # the text, and the bias
    assert torch.equal(emb.item[[0, 2, 3]], full.item[[0, 2, 3]])


def test_initialization():
    data = example()
    data['item'].x_image = torch.randn(4, 300)
    data['item'].x_text = torch.randn(4, 100)
    model = VBPR(data, channels=64)
    for name in ('image', 'text'):  # one linear layer on all features
        std = float(model.lins[name].weight.detach().std())
        assert std == pytest.approx((2 / (400 + 64)) ** 0.5, rel=0.05)
    assert (model.bias == 0).all()
    assert model.user_emb.weight.abs().max() <= (6 / (3 + 128)) ** 0.5
    assert model.out_channels == 128
