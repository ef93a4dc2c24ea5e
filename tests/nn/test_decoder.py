"""The unique decoders of MRdIB against many negatives."""

import copy
import math

import pytest
import torch
from torch import nn

from mrdib_pyg.nn import MRdIB, Posterior, attach, capture
from mrdib_pyg.ops._fixed_shapes import fixed_shapes

NUM_USERS, NUM_ITEMS, WIDTH = 9, 13, 4
NAMES = ('image', 'text', 'audio')


def make(num_modalities=2, num_rows=30, dtype=torch.float64, **settings):
    """A layer, its inputs, and a batch in which positives are negatives of other rows."""
    torch.manual_seed(0)
    channels = dict.fromkeys(NAMES[:num_modalities], WIDTH)
    settings = {'redundancy': None, 'decoder': 'nce', 'num_negatives': 8, **settings}
    mrdib = MRdIB(channels, **settings).to(dtype)
    x = {
        name: tuple(
            torch.randn(n, WIDTH, dtype=dtype, requires_grad=True) for n in (NUM_USERS, NUM_ITEMS)
        )
        for name in channels
    }
    triplet = tuple(torch.randint(n, (num_rows,)) for n in (NUM_USERS, NUM_ITEMS, NUM_ITEMS))
    return mrdib, x, triplet


def plain(x):
    return {name: tuple(Posterior(z, z) for z in pair) for name, pair in x.items()}


def draw(neg, num, keep):
    """The positions of a batch with the smallest random keys, of those that may be drawn."""
    key = torch.rand(neg.numel())
    positions = [b for b in key.argsort().tolist() if keep is None or keep[b]]
    return [int(neg[b]) for b in positions[:num]]


def naive(x, triplet, num, masks=None):
    """The losses and what they certify, a row at a time, with the draws of the global generator."""
    src, pos, neg = (index.tolist() for index in triplet)
    losses, information = [], []
    for name, (user, item) in x.items():
        has_user, has_item = (None, None) if masks is None else masks[name]
        keep = None if has_item is None else [bool(has_item[j]) for j in neg]
        drawn = draw(triplet[2], num, keep)
        rows = []
        for u, i in zip(src, pos):
            if has_user is not None and not has_user[u] or has_item is not None and not has_item[i]:
                continue
            scores = torch.stack([user[u] @ item[j] for j in [i, *(j for j in drawn if j != i)]])
            rows.append(scores.logsumexp(0) - scores[0])
        losses.append(torch.stack(rows).mean() if rows else user.new_zeros(()))
        bound = math.log(len(drawn) + 1) - float(losses[-1].detach()) if rows else 0.0
        information.append(bound)
    return torch.stack(losses).sum(), information


def check(mrdib, x, triplet, masks=None):
    torch.manual_seed(1)
    terms = mrdib.loss(plain(x), *triplet, present=masks)
    torch.manual_seed(1)
    expected, information = naive(x, triplet, mrdib.num_negatives, masks)
    torch.testing.assert_close(terms.unique, expected)
    assert list(terms.information) == list(x)
    for value, bound in zip(terms.information.values(), information):
        assert value.shape == () and not value.requires_grad
        assert float(value) == pytest.approx(bound)
    leaves = [leaf for pair in x.values() for leaf in pair]
    if expected.requires_grad:
        grads = [
            torch.autograd.grad(loss, leaves, allow_unused=True)
            for loss in (terms.unique, expected)
        ]
        for a, b in zip(*grads):
            torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)
    return terms


@pytest.mark.parametrize('num_modalities', [1, 2, 3])
@pytest.mark.parametrize('num_negatives', [1, 8, 30, 100])
def test_values(num_modalities, num_negatives):
    check(*make(num_modalities, num_negatives=num_negatives))


def masks_of(share):
    generator = torch.Generator().manual_seed(2)
    return {
        'image': tuple(torch.rand(n, generator=generator) < share for n in (NUM_USERS, NUM_ITEMS)),
        'text': (None, torch.rand(NUM_ITEMS, generator=generator) < share),
    }


@pytest.mark.parametrize('num_negatives', [3, 8, 100])
@pytest.mark.parametrize('share', [0.0, 0.4, 0.8, 1.0])
def test_masks(share, num_negatives):
    mrdib, x, triplet = make(num_negatives=num_negatives)
    masks = masks_of(share)
    terms = check(mrdib, x, triplet, masks)
    if share == 0.0:
        assert float(terms.unique.detach()) == 0.0 and not any(terms.information.values())
    # What is missing has no influence, whatever it holds.
    with torch.no_grad():
        for name, pair in masks.items():
            for z, mask in zip(x[name], pair):
                if mask is not None:
                    z[~mask] = 1e3
    torch.manual_seed(1)
    assert torch.equal(mrdib.loss(plain(x), *triplet, present=masks).unique, terms.unique)


def test_one_id_space_and_a_user_embedding():
    mrdib, x, triplet = make(user_codes=False)
    user = torch.randn(NUM_USERS, WIDTH, dtype=torch.float64)
    items = {name: item for name, (_, item) in x.items()}
    torch.manual_seed(1)
    terms = mrdib.loss(
        {m: Posterior(z, z) for m, z in items.items()}, *triplet, user_embedding=user
    )
    torch.manual_seed(1)
    expected, _ = naive({m: (user, z) for m, z in items.items()}, triplet, 8)
    torch.testing.assert_close(terms.unique, expected)

    src, pos, neg = triplet
    shared = {m: torch.cat([user, z]) for m, z in items.items()}
    shifted = (src, pos + NUM_USERS, neg + NUM_USERS)
    torch.manual_seed(1)
    again = mrdib.loss({m: Posterior(z, z) for m, z in shared.items()}, *shifted)
    torch.testing.assert_close(again.unique, expected)


def test_unimodal_scores_and_the_fusion():
    mrdib, x, triplet = make()
    given = {name: tuple(torch.randn_like(z) for z in pair) for name, pair in x.items()}
    fused = tuple(torch.randn(n, 5, dtype=torch.float64) for n in (NUM_USERS, NUM_ITEMS))
    torch.manual_seed(1)
    terms = mrdib.loss(plain(x), *triplet, fused=fused, unimodal=given)
    torch.manual_seed(1)
    torch.testing.assert_close(terms.unique, naive(given, triplet, 8)[0])
    bpr = MRdIB(mrdib.channels, redundancy=None).double()
    expected = bpr.loss(plain(x), *triplet, fused=fused)
    torch.testing.assert_close(terms.synergistic, expected.synergistic)
    assert expected.information is None


def test_one_negative_is_bpr():
    """One negative for all rows, which is the positive of none."""
    mrdib, x, (src, pos, neg) = make(num_negatives=1)
    pos, neg = pos % 12, torch.full_like(neg, 12)
    bpr = MRdIB(mrdib.channels, redundancy=None).double()
    actual, expected = (layer.loss(plain(x), src, pos, neg) for layer in (mrdib, bpr))
    torch.testing.assert_close(actual.unique, expected.unique)
    assert torch.equal(actual.bottleneck, expected.bottleneck)


def test_information_of_codes_that_say_all_and_of_those_that_say_nothing():
    mrdib, x, _ = make(num_negatives=12)
    index = torch.arange(NUM_USERS)
    one_hot = torch.eye(NUM_ITEMS, dtype=torch.float64)
    codes = {
        'image': (50 * one_hot[:NUM_USERS], one_hot),
        'text': (0 * one_hot[:NUM_USERS], one_hot),
    }
    negatives = torch.arange(NUM_USERS) % 4 + NUM_USERS  # none is a positive
    terms = mrdib.loss(plain(codes), index, index, negatives)
    assert float(terms.information['image']) == pytest.approx(math.log(NUM_USERS + 1))
    assert float(terms.information['text']) == pytest.approx(0.0, abs=1e-12)


def test_gradcheck():
    mrdib, x, triplet = make(num_rows=12)
    masks = masks_of(0.7)

    def unique(*leaves):
        torch.manual_seed(3)
        codes = {'image': leaves[:2], 'text': leaves[2:]}
        return mrdib.eval().loss(mrdib(codes), *triplet, present=masks).unique

    assert torch.autograd.gradcheck(unique, (*x['image'], *x['text']))


@pytest.mark.parametrize('bottleneck', ['late', 'early', 'complete'])
@pytest.mark.parametrize('redundancy', ['mine', 'gaussian', None])
def test_every_parameter_gets_a_gradient(redundancy, bottleneck):
    mrdib, x, triplet = make(
        redundancy=redundancy, bottleneck=bottleneck, fused_channels=WIDTH, dtype=torch.float32
    )
    codes = mrdib(x)
    fused = tuple(sum(codes[name][s].z for name in x) for s in (0, 1))
    terms = mrdib.loss(codes, *triplet, fused=mrdib.encode_fused(fused))
    loss = terms.synergistic + terms.total(bottleneck=0.1, redundant=0.1, unique=0.1)
    loss.backward()
    for name, param in mrdib.named_parameters():
        assert torch.isfinite(param.grad).all() and (param.grad != 0).any(), name


@pytest.mark.parametrize('weight', ['bottleneck', 'redundant', 'unique'])
def test_a_weight_of_zero_leaves_a_term_out(weight):
    mrdib, x, triplet = make()
    terms = mrdib.loss(mrdib(x), *triplet)
    weights = {'bottleneck': 0.5, 'redundant': 0.5, 'unique': 0.5, weight: 0.0}
    expected = sum(w * getattr(terms, name) for name, w in weights.items())
    torch.testing.assert_close(terms.total(**weights), expected)


def test_seeds():
    mrdib, x, triplet = make()
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(mrdib.loss(plain(x), *triplet).unique)
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


def test_the_decoder_of_one_negative_draws_nothing():
    """Runs of the default stay what they were, bit for bit."""
    mrdib, x, triplet = make(decoder='bpr')
    state = torch.get_rng_state()
    mrdib.loss(plain(x), *triplet)
    assert torch.equal(torch.get_rng_state(), state)


def test_empty_batch():
    mrdib, x, _ = make()
    empty = torch.empty(0, dtype=torch.long)
    terms = mrdib.loss(plain(x), empty, empty, empty)
    assert float(terms.unique.detach()) == 0.0 and not any(terms.information.values())


def test_low_precision():
    mrdib, x, triplet = make(dtype=torch.float32)
    torch.manual_seed(1)
    expected = mrdib.loss(plain(x), *triplet)
    with torch.autocast('cpu', torch.bfloat16):
        torch.manual_seed(1)
        terms = mrdib.loss(plain(x), *triplet)
    torch.testing.assert_close(terms.unique, expected.unique)
    assert terms.information['image'].dtype == torch.float32


@pytest.mark.parametrize('masked', [False, True])
def test_compiled_and_with_fixed_shapes(masked):
    mrdib, x, triplet = make(dtype=torch.float32, num_negatives=100)  # all: no draw decides
    present = masks_of(0.5) if masked else None

    def loss(image, text):
        codes = {'image': image, 'text': text}
        terms = mrdib.loss(plain(codes), *triplet, present=present)
        return terms.unique, terms.information['image']

    expected = loss(**x)
    compiled = torch.compile(loss, fullgraph=True, backend='aot_eager')
    for a, b in zip(compiled(**x), expected):
        torch.testing.assert_close(a, b)
    with fixed_shapes():
        for a, b in zip(loss(**x), expected):
            torch.testing.assert_close(a, b)


def test_copy_config_and_repr():
    mrdib, x, triplet = make()
    assert mrdib.config['decoder'] == 'nce' and mrdib.config['num_negatives'] == 8
    assert "decoder='nce', num_negatives=8" in repr(mrdib)
    assert 'decoder' not in repr(MRdIB({'image': 4}))
    for other in (copy.deepcopy(mrdib), MRdIB(**mrdib.config).double()):
        other.load_state_dict(mrdib.state_dict())
        values = []
        for layer in (mrdib, other):
            torch.manual_seed(1)
            values.append(layer.loss(plain(x), *triplet).unique)
        assert torch.equal(*values)
    # The layer has no parameter of its own for it: either decoder takes the other's.
    MRdIB(mrdib.channels, redundancy=None).load_state_dict(mrdib.state_dict())


def test_attached():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.text = nn.Linear(5, WIDTH), nn.Linear(6, WIDTH)
            self.user = nn.Embedding(NUM_USERS, WIDTH)

        def forward(self, image, text):
            return self.image(image) + self.text(text)

    torch.manual_seed(0)
    model = Model()
    mrdib = attach(
        model, {'image': 'image', 'text': 'text'}, WIDTH,
        redundancy=None, decoder='nce', num_negatives=8,
    )  # fmt: skip
    features = torch.randn(NUM_ITEMS, 5), torch.randn(NUM_ITEMS, 6)
    triplet = tuple(torch.randint(n, (30,)) for n in (NUM_USERS, NUM_ITEMS, NUM_ITEMS))
    with capture(model) as codes:
        model(*features)
    torch.manual_seed(1)
    terms = mrdib.loss(codes, *triplet, user_embedding=model.user.weight)
    torch.manual_seed(1)
    pairs = {name: (model.user.weight, codes[name].z) for name in ('image', 'text')}
    torch.testing.assert_close(terms.unique, naive(pairs, triplet, 8)[0])
    terms.total(unique=1.0).backward()
    assert all((p.grad != 0).any() for p in (model.image.weight, model.user.weight))
    assert "decoder='nce'" in repr(mrdib)


@pytest.mark.parametrize(
    'name, value', [('decoder', 'softmax'), ('num_negatives', 0), ('num_negatives', 2.0),
                    ('num_negatives', True)],
)  # fmt: skip
def test_refused_settings(name, value):
    with pytest.raises(ValueError, match=rf"'{name}' must .*got {value!r}"):
        MRdIB({'image': 4}, **{name: value})
