import pytest
import torch
import torch.nn.functional as F
from contract import RecommenderContract, check_trainable_features, make_batch, make_data, moved
from toy import BATCH, IMAGE, ITEM, MEAN_ITEM, MEAN_USER, TEXT, USER, close, toy

from mrdib_pyg.nn.models import BM3
from mrdib_pyg.training.step import LossWeights

SCORES = [
    [4.8805, 1.8496, 4.5275, 1.5436],
    [3.0033, 1.7859, 0.7114, -0.7816],
    [5.5798, 1.9903, 5.5745, 2.0972],
]
PREDICTOR = torch.tensor([[1, 0.5], [-0.5, 1]])


class TestBM3(RecommenderContract):
    name = 'bm3'
    task_is_bpr = False
    is_random = True


class TestBM3WithoutDropout(RecommenderContract):
    name = 'bm3'
    settings = {
        'dropout': 0.0,
        'num_layers': 2,
        'feature_scaling': 'standard',
        'trainable_features': True,
    }
    task_is_bpr = False


def test_trainable_features():
    check_trainable_features(BM3, lambda model: model.tables, dropout=0.0)


@torch.no_grad()
def make_example(mrdib=None, dropout=0.0, data=None):
    data = toy(image=IMAGE, text=TEXT) if data is None else data
    model = BM3(data, channels=2, num_layers=2, dropout=dropout, mrdib=mrdib)
    model.user_emb.weight.copy_(USER)
    model.item_emb.weight.copy_(ITEM)
    bias = torch.tensor([0.05, -0.05])
    model.lins['image'].weight.copy_(torch.tensor([[0.5, 0, 0.1], [0, 0.2, -0.3]]))
    model.lins['image'].bias.copy_(bias)
    model.lins['text'].weight.copy_(torch.tensor([[0.4, -0.2], [0.1, 0.3]]))
    model.lins['text'].bias.copy_(-bias)
    model.predictor.weight.copy_(PREDICTOR.t())
    model.predictor.bias.zero_()
    return model


def cosine(x, y, rows=slice(None)):
    return F.cosine_similarity(x, y)[rows].mean()


@pytest.mark.parametrize('mrdib', [None, {'control': 'l2'}])
def test_worked_example(mrdib):
    model = make_example(mrdib)
    emb = model.embed()
    close(emb.user @ emb.item.t(), SCORES)
    terms = model.loss(BATCH)
    close(terms['task'].detach(), 0.4631 + 0.0770)
    # The sum of four numbers that are rounded to four digits.
    expected = torch.tensor(0.7144 + 0.2080 + 0.1056 + 0.1056)
    torch.testing.assert_close(terms['content'].detach(), expected, atol=2e-4, rtol=0)
    close(terms['reg'].detach(), 1.9312)
    assert model.loss_weights == {'task': 1.0, 'content': 2.0, 'reg': 0.1}
    loss = LossWeights(model.loss_weights)(terms)
    close(loss.detach(), 3.0001)


@torch.no_grad()
def test_parts_of_the_worked_example():
    model = make_example()
    emb, (src, pos, _) = model.embed(), BATCH
    item = MEAN_ITEM + ITEM
    close(1 - cosine(emb.user[src], item[pos]), 0.4631)
    close(1 - cosine(emb.item[pos], MEAN_USER[src]), 0.0770)
    for m, expected in (('image', 0.2080), ('text', 0.7144)):
        z = model.modality_embeddings()[m][1]
        close(1 - cosine(model.predictor(z), item, pos), expected)
        close(1 - cosine(model.predictor(z), z, pos), 0.1056)
        with torch.enable_grad():  # a loss may follow
            emb = model.fuse({name: (None, z) for name in model.modalities})
        close(model.extra_losses(emb, BATCH)['content'] / 2, expected + 0.1056)


def test_negatives_are_not_read():
    model = make_example()
    terms = model.loss(BATCH)
    other = model.loss(BATCH._replace(dst_neg_index=torch.tensor([1, 1, 0])))
    assert all(torch.equal(terms[name], other[name]) for name in terms)


def test_targets_are_constants_that_lose_entries():
    """The gradient is that of the predictions alone."""
    model = make_example(dropout=0.5).train()
    emb = model.fuse(model.modality_embeddings())
    assert not any(x.requires_grad for x in emb.views['targets'])
    tables = [MEAN_USER, MEAN_ITEM + ITEM]
    dropped = 0
    for target, table in zip(emb.views['targets'], tables):
        kept = target != 0
        close(target, F.normalize(table * kept))
        dropped += int((~kept).sum())
    assert 0 < dropped < 14
    other = model.fuse(model.modality_embeddings())
    assert not torch.equal(emb.views['targets'][1], other.views['targets'][1])
    model.eval()
    for target, table in zip(model.fuse({}).views['targets'], tables):
        close(target, F.normalize(table))


def test_codes_do_not_reach_the_score():
    data = make_data()
    model = moved(BM3(data, channels=8, mrdib={'redundancy': None})).eval()
    before = model.embed()
    terms = model.loss(make_batch(data))
    with torch.no_grad():
        for param in model.mrdib.parameters():
            param.add_(torch.randn_like(param))
    assert torch.equal(model.embed().user, before.user)
    assert torch.equal(model.embed().item, before.item)
    after = model.loss(make_batch(data))
    assert torch.equal(after['task'], terms['task'])
    # But they reach the content, by which the tables learn, and the joint predictor.
    for name in ('content', 'synergistic', 'unique'):
        assert not torch.equal(after[name], terms[name]), name
    table = model.item_emb.weight
    assert (torch.autograd.grad(after['unique'], table, retain_graph=True)[0] != 0).any()


@pytest.mark.parametrize('missing', [False, True])
def test_unimodal_and_joint_predictors(missing):
    data = toy(image=IMAGE, text=TEXT)
    if missing:
        data['item'].has_image = torch.tensor([True, False, True, False])
        data['item'].has_text = torch.tensor([True, True, True, False])
    model = make_example({'redundancy': None}, data=data).eval()
    terms = model.loss(BATCH)
    with torch.no_grad():
        item = MEAN_ITEM + ITEM
        codes = {m: z for m, (_, z) in model.modality_embeddings().items()}
        user = MEAN_USER @ PREDICTOR
        masks = {m: torch.ones(4, dtype=torch.bool) for m in codes}
        if missing:
            masks = {m: data['item'][f'has_{m}'] for m in codes}
        total = sum(z * masks[m].unsqueeze(1) for m, z in codes.items())
        count = sum(mask.float() for mask in masks.values()).clamp(min=1).unsqueeze(1)
        src, pos, neg = BATCH

        def bpr(item, mask):
            score = user @ (item @ PREDICTOR).t()
            value = F.softplus(score[src, neg] - score[src, pos])
            return value[mask[pos] & mask[neg]].mean()

        close(terms['synergistic'].detach(), bpr(item + total / count, torch.ones(4).bool()))
        expected = 0.0
        for m, z in codes.items():
            mask = masks[m]
            if (mask[pos] & mask[neg]).any():
                expected = expected + bpr(z, mask)
        close(terms['unique'].detach(), expected)


def test_synergistic_takes_a_weight():
    plain, model = make_example(), make_example({})
    assert 'synergistic' not in plain.loss_weights
    assert LossWeights(model.loss_weights).weights['synergistic'] == 0.0
    terms = model.loss(BATCH)
    assert terms['synergistic'].requires_grad and terms['synergistic'] != terms['task']
    without = LossWeights(model.loss_weights)(terms)
    weighted = LossWeights(model.loss_weights, {'synergistic': 0.5})(terms)
    torch.testing.assert_close(weighted, without + 0.5 * terms['synergistic'])
    assert 'synergistic' not in make_example({'control': 'noise'}).loss(BATCH)


def test_content_is_a_mean_over_the_items_that_have_it():
    data = toy(image=IMAGE, text=TEXT)
    data['item'].has_image = torch.tensor([True, True, False, True])
    data['item'].has_text = torch.tensor([False, False, False, True])
    model = make_example(data=data)
    with torch.no_grad():
        content = model.loss(BATCH)['content']  # the positive items are 2, 1, 3
        item, expected = MEAN_ITEM + ITEM, 0.0
        for (_, z), rows in zip(model.modality_embeddings().values(), ([1, 3], [3])):
            online = z @ PREDICTOR
            expected = expected + 2 - cosine(online, item, rows) - cosine(online, z, rows)
        close(content, expected)
        data['item'].has_text[3] = False  # no item of the batch has a text
        other = make_example(data=data).loss(BATCH)['content']
    online = (IMAGE @ model.lins['image'].weight.t() + model.lins['image'].bias).detach()
    assert torch.isfinite(other) and other < content and online.shape == (4, 2)


def test_refuses_settings():
    with pytest.raises(ValueError, match=r"'dropout' must lie in \[0, 1\) \(got 1.0\)"):
        BM3(make_data(), dropout=1.0)
    with pytest.raises(ValueError, match=r"'num_layers' must be at least 0 \(got -1\)"):
        BM3(make_data(), num_layers=-1)
