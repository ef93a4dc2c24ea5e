import copy
import math
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mrdib_pyg.nn import MRdIB, PIDTerms, Posterior, VariationalBottleneck
from mrdib_pyg.nn.mutual_information import CLUB, MINE, NWJ, Gaussian, InfoNCE

ROOT = Path(__file__).resolve().parents[2]
CHANNELS = {'image': 6, 'text': 6}
ESTIMATORS = {'mine': MINE, 'nwj': NWJ, 'infonce': InfoNCE, 'club': CLUB, 'gaussian': Gaussian}
NUM_USERS, NUM_ITEMS = 12, 15


def make_triplet(num=40, num_users=NUM_USERS, num_items=NUM_ITEMS):
    # Repeats, and rows that are never read: user 0 and item 0.
    return (
        torch.randint(1, num_users, (num,)),
        torch.randint(1, num_items, (num,)),
        torch.randint(1, num_items, (num,)),
    )


def make_pairs(channels=CHANNELS, dtype=torch.float32):
    return {
        name: (
            torch.randn(NUM_USERS, width, dtype=dtype, requires_grad=True),
            torch.randn(NUM_ITEMS, width, dtype=dtype, requires_grad=True),
        )
        for name, width in channels.items()
    }


def randomized(mrdib):
    """Leaves the start: bottlenecks are no identity any more, and their noise level is set."""
    for name, width in mrdib.channels.items():
        if len(mrdib.bottlenecks) > 0:
            mrdib.bottlenecks[f'modality_{name}'](torch.randn(20, width))
    with torch.no_grad():
        for param in mrdib.parameters():
            param.add_(0.1 * torch.randn_like(param))
    return mrdib


def mean(values):
    return sum(values) / len(values) if len(values) > 0 else 0.0


def kl_of(posterior, row):
    if posterior.logstd is None:
        return 0.0
    total = 0.0
    for mu, logstd in zip(posterior.mu[row].tolist(), posterior.logstd[row].tolist()):
        total += 0.5 * (mu**2 + math.exp(2 * logstd) - 2 * logstd - 1)
    return total


def softplus(x):
    return math.log1p(math.exp(x))


def naive(mrdib, codes, triplet, user_embedding=None, fused=None, masks=None):
    """The terms, a triplet at a time; masks are (user, item) lists of booleans by modality."""
    src, pos, neg = (index.tolist() for index in triplet)
    sides, shared = {}, False
    for name, code in codes.items():
        if isinstance(code, Posterior):
            shared = user_embedding is None
            code = (code, code) if shared else (None, code)
        sides[name] = code

    def has(name, side, row):
        return masks is None or masks[name][side] is None or masks[name][side][row]

    rate = unique = 0.0
    for name, (user, item) in sides.items():
        rates, losses = [], []
        for u, i, j in zip(src, pos, neg):
            if user is not None and has(name, 0, u):
                rates.append(kl_of(user, u))
            rates += [kl_of(item, row) for row in (i, j) if has(name, 1, row)]
            code = user_embedding[u] if user is None else user.z[u]
            if has(name, 0, u) and has(name, 1, i) and has(name, 1, j):
                losses.append(softplus(-float(code @ item.z[i] - code @ item.z[j])))
        rate += mean(rates)
        unique += mean(losses)

    redundant = []
    for (a, name_1), (b, name_2) in combinations(enumerate(mrdib.channels), 2):
        estimates = []
        for s, side in enumerate(('user', 'item')):
            z = [sides[name][s] for name in (name_1, name_2)]
            if any(x is None for x in z) or (shared and side == 'user'):
                continue
            rows = sorted({*src}) if side == 'user' else sorted({*pos, *neg})
            if shared:
                rows = sorted({*src, *pos, *neg})
            rows = [r for r in rows if has(name_1, s, r) and has(name_2, s, r)]
            critic = mrdib.critics[f'{side}_{a}_{b}']
            estimates.append(float(critic(z[0].z[rows], z[1].z[rows])))
        redundant.append(mean(estimates))

    synergistic = None
    if fused is not None:
        user, item = fused
        synergistic = mean(
            [softplus(-float(user[u] @ item[i] - user[u] @ item[j])) for u, i, j in zip(*triplet)]
        )
    redundant = sum(redundant) / max(len(mrdib.channels) - 1, 1)
    return rate, redundant, unique, synergistic


def check(mrdib, codes, triplet, masks=None, **kwargs):
    """Compares with the naive terms, in evaluation mode and without gradients."""
    mrdib.eval()
    with torch.no_grad():
        present = None
        if masks is not None:
            present = {
                name: tuple(None if m is None else torch.tensor(m) for m in pair)
                for name, pair in masks.items()
            }
        terms = mrdib.loss(codes, *triplet, present=present, **kwargs)
        expected = naive(mrdib, codes, triplet, masks=masks, **kwargs)
    for name, actual, value in zip(PIDTerms._fields, terms, expected):
        assert (actual is None) == (value is None), name
        if value is not None:
            assert actual.shape == ()
            assert float(actual) == pytest.approx(value, rel=1e-4, abs=1e-6), name
    return terms


# -- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize('redundancy', [*ESTIMATORS, None])
def test_values_of_pairs(redundancy):
    mrdib = randomized(MRdIB(CHANNELS, redundancy=redundancy))
    codes = mrdib(make_pairs())
    fused = (torch.randn(NUM_USERS, 5), torch.randn(NUM_ITEMS, 5))
    if redundancy is None:
        terms = mrdib.loss(codes, *make_triplet())
        assert float(terms.redundant) == 0.0 and len(mrdib.critics) == 0
    else:
        check(mrdib, codes, make_triplet(), fused=fused)


def test_values_of_three_modalities():
    mrdib = randomized(MRdIB({'image': 6, 'text': 4, 'audio': 5}))
    x = make_pairs(mrdib.channels)
    assert len(mrdib.critics) == 6  # three pairs, for users and for items
    check(mrdib, mrdib(x), make_triplet())


@pytest.mark.parametrize('num_modalities', [1, 2, 3, 5])
def test_the_pressure_on_a_code_does_not_depend_on_the_number_of_modalities(num_modalities):
    """Modalities that all hold the same: one code feels the same pull from one or four others."""
    names = [f'm{i}' for i in range(num_modalities)]
    mrdib = MRdIB(dict.fromkeys(names, 6), redundancy='gaussian').double().eval()
    generator = torch.Generator().manual_seed(0)
    draw = dict(dtype=torch.float64, generator=generator)
    rows = 200
    common, noise = torch.randn(rows, 6, **draw), torch.randn(2, rows, 6, **draw)
    first = (common + noise[0]).requires_grad_()
    x = dict.fromkeys(names, common + noise[1])
    x['m0'] = first
    index = torch.arange(rows)
    out = mrdib.loss(
        {name: Posterior(z, z) for name, z in x.items()}, *[index] * 3, user_embedding=common
    ).redundant
    if num_modalities == 1:
        assert float(out) == 0.0 and not out.requires_grad
        return
    pair = MRdIB({'a': 6, 'b': 6}, redundancy='gaussian').double().eval()
    codes = {'a': Posterior(first, first), 'b': Posterior(x['m1'], x['m1'])}
    expected = pair.loss(codes, *[index] * 3, user_embedding=common).redundant
    grads = [torch.autograd.grad(term, first)[0] for term in (out, expected)]
    torch.testing.assert_close(*grads)


def test_one_modality_has_no_redundancy():
    mrdib = randomized(MRdIB({'image': 6}))
    terms = check(mrdib, mrdib(make_pairs({'image': 6})), make_triplet())
    assert float(terms.redundant) == 0.0 and len(mrdib.critics) == 0


def test_values_of_items_with_a_user_embedding():
    mrdib = randomized(MRdIB(CHANNELS, user_codes=False)).eval()
    assert list(mrdib.critics) == ['item_0_1']
    user_embedding = torch.randn(NUM_USERS, 6)
    items = {name: item for name, (_, item) in make_pairs().items()}
    triplet = make_triplet()
    terms = check(mrdib, mrdib(items), triplet, user_embedding=user_embedding)
    pairs = {name: (None, item) for name, item in items.items()}
    for a, b in zip(terms, check(mrdib, mrdib(pairs), triplet, user_embedding=user_embedding)):
        assert (a is b is None) or torch.equal(a, b)


def test_values_of_one_id_space():
    mrdib = randomized(MRdIB(CHANNELS, user_codes=False))
    x = {name: torch.randn(NUM_USERS + NUM_ITEMS, 6) for name in CHANNELS}
    src, pos, neg = make_triplet()
    triplet = (src, pos + NUM_USERS, neg + NUM_USERS)
    check(mrdib, mrdib(x), triplet)
    masks = {
        'image': [bool(torch.rand(()) < 0.7) for _ in range(NUM_USERS + NUM_ITEMS)],
        'text': [True] * (NUM_USERS + NUM_ITEMS),
    }
    with torch.no_grad():
        present = {name: torch.tensor(mask) for name, mask in masks.items()}
        terms = mrdib.loss(mrdib(x), *triplet, present=present)
        pairs = {name: (mask, mask) for name, mask in masks.items()}
        # The naive redundancy reads the item mask of all rows, which here is the mask of all.
        expected = naive(mrdib, mrdib(x), triplet, masks=pairs)
    for actual, value in zip(terms[:3], expected):
        assert float(actual) == pytest.approx(value, rel=1e-4)


def test_missing_rows_are_left_out():
    mrdib = randomized(MRdIB(CHANNELS, redundancy='nwj')).eval()
    masks = {
        'image': ([u % 3 > 0 for u in range(NUM_USERS)], [i % 4 > 0 for i in range(NUM_ITEMS)]),
        'text': (None, [i % 5 > 0 for i in range(NUM_ITEMS)]),
    }
    x = make_pairs()
    triplet = make_triplet()
    terms = check(mrdib, mrdib(x), triplet, masks=masks)
    # What is missing has no influence, whatever it holds.
    with torch.no_grad():
        x['image'][1][::4] = 1e3
        x['image'][0][::3] = 1e3
        present = {
            name: tuple(None if m is None else torch.tensor(m) for m in pair)
            for name, pair in masks.items()
        }
        again = mrdib.loss(mrdib(x), *triplet, present=present)
    for a, b in zip(terms[:3], again[:3]):
        assert torch.equal(a, b)


def test_masks_of_ones_change_nothing():
    mrdib = randomized(MRdIB(CHANNELS)).eval()
    codes, triplet = mrdib(make_pairs()), make_triplet()
    ones = (torch.ones(NUM_USERS, dtype=torch.bool), torch.ones(NUM_ITEMS, dtype=torch.bool))
    masked = mrdib.loss(codes, *triplet, present=dict.fromkeys(CHANNELS, ones))
    for actual, expected in zip(masked[:3], mrdib.loss(codes, *triplet)[:3]):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


def test_nothing_present_gives_zeros():
    mrdib = randomized(MRdIB(CHANNELS))
    x = make_pairs()
    none = (torch.zeros(NUM_USERS, dtype=torch.bool), torch.zeros(NUM_ITEMS, dtype=torch.bool))
    terms = mrdib.loss(mrdib(x), *make_triplet(), present=dict.fromkeys(CHANNELS, none))
    assert [float(t.detach()) for t in terms[:3]] == [0.0, 0.0, 0.0]
    sum(terms[:3]).backward()
    assert (x['image'][0].grad == 0).all()


def test_empty_batch():
    mrdib = MRdIB(CHANNELS)
    empty = torch.empty(0, dtype=torch.long)
    terms = mrdib.loss(mrdib(make_pairs()), empty, empty, empty)
    assert [float(t.detach()) for t in terms[:3]] == [0.0, 0.0, 0.0]


def test_unimodal_scores_can_be_given():
    mrdib = randomized(MRdIB(CHANNELS)).eval()
    codes, triplet = mrdib(make_pairs()), make_triplet()
    given = {name: (torch.randn(NUM_USERS, 3), torch.randn(NUM_ITEMS, 3)) for name in CHANNELS}
    unique = mrdib.loss(codes, *triplet, unimodal=given).unique
    src, pos, neg = triplet
    expected = sum(
        F.softplus(-(u[src] * (i[pos] - i[neg])).sum(-1)).mean() for u, i in given.values()
    )
    torch.testing.assert_close(unique, expected)

    name, *others = CHANNELS
    unique = mrdib.loss(codes, *triplet, unimodal={name: given[name]}).unique
    pairs = [given[name], *((u.z, i.z) for u, i in (codes[other] for other in others))]
    expected = sum(F.softplus(-(u[src] * (i[pos] - i[neg])).sum(-1)).mean() for u, i in pairs)
    torch.testing.assert_close(unique, expected)
    with pytest.raises(ValueError, match=r"'unimodal' .*\['taste'\]"):
        mrdib.loss(codes, *triplet, unimodal={**given, 'taste': given[name]})


def test_order_of_triplets_is_irrelevant():
    mrdib = randomized(MRdIB(CHANNELS)).eval()
    codes, triplet = mrdib(make_pairs()), make_triplet()
    perm = torch.randperm(40)
    permuted = mrdib.loss(codes, *(index[perm] for index in triplet))
    for actual, expected in zip(permuted[:3], mrdib.loss(codes, *triplet)[:3]):
        torch.testing.assert_close(actual, expected)
    assert torch.equal(permuted.redundant, mrdib.loss(codes, *triplet).redundant)


def test_repeats_count_in_the_rate_but_not_in_the_redundancy():
    mrdib = randomized(MRdIB(CHANNELS)).eval()
    codes = mrdib(make_pairs())
    once = mrdib.loss(codes, torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([5, 6]))
    index = torch.tensor([0, 0, 0, 1])
    src, pos, neg = (
        torch.tensor([1, 2])[index],
        torch.tensor([3, 4])[index],
        torch.tensor([5, 6])[index],
    )
    repeated = mrdib.loss(codes, src, pos, neg)
    assert torch.equal(once.redundant, repeated.redundant)
    assert not torch.isclose(once.bottleneck, repeated.bottleneck)


# -- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('redundancy', ESTIMATORS)
def test_critics_ascend_what_encoders_descend(redundancy, training):
    """One backward pass of a weighted sum: encoders get the derivative of the weighted estimate,
    critics that of the loss they learn by, which for a bound is minus the bound.
    """
    weight = 0.25
    mrdib = MRdIB(CHANNELS, redundancy=redundancy).train(training)
    codes = {name: tuple(Posterior(x, x) for x in pair) for name, pair in make_pairs().items()}
    triplet = make_triplet()
    leaves = [side.z for pair in codes.values() for side in pair]
    critics = copy.deepcopy(mrdib.critics)

    torch.manual_seed(1)
    mrdib.loss(codes, *triplet).total(redundant=weight).backward()

    def reference(method):
        total = 0.0
        torch.manual_seed(1)
        users, items = triplet[0].unique(), torch.cat(triplet[1:]).unique()
        for key, s, rows in (('item_0_1', 1, items), ('user_0_1', 0, users)):
            critic = copy.deepcopy(critics[key])
            z = [codes[name][s].z[rows] for name in CHANNELS]
            total = total + getattr(critic, method)(*z) / 2
            used[key] = critic
        return weight * total

    used = {}
    expected = torch.autograd.grad(reference('forward'), leaves)
    for leaf, grad in zip(leaves, expected):
        torch.testing.assert_close(leaf.grad, grad)
        assert (grad != 0).any()

    loss = reference('learning_loss')
    for key, critic in used.items():
        params = dict(critic.named_parameters())
        if len(params) == 0:
            continue
        grads = torch.autograd.grad(loss, params.values(), retain_graph=True)
        for (name, _), grad in zip(params.items(), grads):
            actual = mrdib.critics[key].get_parameter(name).grad
            torch.testing.assert_close(actual, grad, msg=lambda m, n=name: f'{n}: {m}')
    if redundancy in ('mine', 'nwj', 'infonce'):
        estimate = reference('forward')
        params = list(used['item_0_1'].parameters())
        grads = torch.autograd.grad(estimate, params)
        for param, grad in zip(mrdib.critics['item_0_1'].parameters(), grads):
            torch.testing.assert_close(param.grad, -grad)


def test_one_optimizer_trains_both_sides():
    # Codes that share everything: critics find that out, and then the encoder unlearns it.
    torch.manual_seed(0)
    signal = torch.randn(256, 4)
    x = {'image': signal @ torch.randn(4, 6), 'text': signal @ torch.randn(4, 6)}
    mrdib = MRdIB(CHANNELS, user_codes=False)
    items = torch.arange(256)
    triplet, users = (items, items, items.roll(1)), torch.zeros(256, 6)

    def estimate():
        return mrdib.loss(mrdib(x), *triplet, user_embedding=users).redundant

    mrdib.bottlenecks.requires_grad_(False)
    heads = list(mrdib.bottlenecks.parameters())
    others = list(mrdib.critics.parameters())
    # Nothing below the heads learns here, so that they are to move on their own.
    optimizer = torch.optim.Adam([{'params': others}, {'params': heads, 'lr': 5e-2}], lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        estimate().backward()
        optimizer.step()
    found = float(estimate().detach())
    mrdib.bottlenecks.requires_grad_(True)
    for _ in range(150):
        optimizer.zero_grad()
        estimate().backward()
        optimizer.step()
    assert found > 1.0
    assert float(estimate().detach()) < 0.7 * found


@pytest.mark.parametrize('bottleneck', ['late', 'early', 'complete'])
@pytest.mark.parametrize('redundancy', ['mine', 'nwj', 'infonce', 'club'])
def test_every_parameter_gets_a_gradient(redundancy, bottleneck):
    mrdib = MRdIB(CHANNELS, redundancy, bottleneck, fused_channels=6)
    x = make_pairs()
    codes = mrdib(x)
    fused = tuple(sum(codes[name][s].z for name in CHANNELS) for s in (0, 1))
    terms = mrdib.loss(codes, *make_triplet(), fused=mrdib.encode_fused(fused))
    loss = terms.synergistic + terms.total(bottleneck=0.1, redundant=0.1, unique=0.1)
    loss.backward()
    for name, param in mrdib.named_parameters():
        assert torch.isfinite(param.grad).all(), name
        assert (param.grad != 0).any(), name
    for pair in x.values():
        for tensor in pair:
            assert torch.isfinite(tensor.grad).all() and (tensor.grad[1:] != 0).any()
            assert (tensor.grad[0] == 0).all()  # a row that no triplet names


def test_gradcheck_of_the_terms():
    mrdib = randomized(MRdIB({'image': 2, 'text': 2}, redundancy=None)).double().eval()
    x = make_pairs(mrdib.channels, dtype=torch.float64)
    triplet = make_triplet()

    def run(*leaves):
        terms = mrdib.loss(mrdib({'image': leaves[:2], 'text': leaves[2:]}), *triplet)
        return terms.total(bottleneck=0.3, unique=0.7)

    assert torch.autograd.gradcheck(run, (*x['image'], *x['text']))


def test_terms_have_no_memory():
    mrdib = MRdIB(CHANNELS)
    state = copy.deepcopy(mrdib.state_dict())
    x, first, second = make_pairs(), make_triplet(), make_triplet()

    def gradients(interrupted):
        mrdib.load_state_dict(state)
        mrdib.zero_grad()
        torch.manual_seed(3)
        loss = mrdib.loss(mrdib(x), *first).total(0.1, 0.1, 0.1)
        if interrupted:
            mrdib.loss(mrdib(x), *second).total(0.1, 0.1, 0.1)
        loss.backward()
        return [param.grad.clone() for param in mrdib.parameters()]

    for actual, expected in zip(gradients(True), gradients(False)):
        assert torch.equal(actual, expected)


# -- bottleneck positions ----------------------------------------------------------------------


def test_early_encodes_the_fusion_only():
    mrdib = MRdIB(CHANNELS, bottleneck='early', fused_channels=6)
    x = make_pairs()
    codes = mrdib(x)
    assert len(mrdib.bottlenecks) == 0
    for name, pair in codes.items():
        assert all(c.logstd is None and torch.equal(c.z, t) for c, t in zip(pair, x[name]))
    triplet = make_triplet()
    fused = mrdib.encode_fused(x['image'])
    terms = mrdib.loss(codes, *triplet, fused=fused)
    rows = torch.cat([fused[0].kl()[triplet[0]], fused[1].kl()[torch.cat(triplet[1:])]])
    torch.testing.assert_close(terms.bottleneck, rows.mean())


def test_complete_adds_both_rates():
    mrdib = randomized(MRdIB(CHANNELS, bottleneck='complete', fused_channels=6)).eval()
    x, triplet = make_pairs(), make_triplet()
    codes, fused = mrdib(x), mrdib.encode_fused(x['image'])
    total = mrdib.loss(codes, *triplet, fused=fused).bottleneck
    mrdib.fused_bottleneck = None
    late = mrdib.loss(codes, *triplet).bottleneck
    rows = torch.cat([fused[0].kl()[triplet[0]], fused[1].kl()[torch.cat(triplet[1:])]])
    torch.testing.assert_close(total, late + rows.mean())


@pytest.mark.parametrize('bottleneck', ['early', 'complete'])
def test_a_fusion_that_passed_no_bottleneck_is_refused(bottleneck):
    """Its rate would be lost in silence."""
    mrdib = MRdIB(CHANNELS, bottleneck=bottleneck, fused_channels=6)
    x, triplet = make_pairs(), make_triplet()
    codes, fused = mrdib(x), mrdib.encode_fused(x['image'])
    for given in (None, x['image'], (fused[0].z, fused[1])):
        with pytest.raises(ValueError, match="'fused' must"):
            mrdib.loss(codes, *triplet, fused=given)
    mrdib.loss(codes, *triplet, fused=fused)


def test_late_leaves_the_fusion_alone():
    mrdib = MRdIB(CHANNELS)
    user, item = torch.randn(3, 6), torch.randn(4, 6)
    out = mrdib.encode_fused((user, item))
    assert torch.equal(out[0].z, user) and torch.equal(out[1].z, item)
    assert torch.equal(mrdib.encode_fused(item).z, item)
    assert mrdib.encode_fused((None, item))[0] is None


def test_fresh_layer_is_the_identity_in_evaluation():
    mrdib = MRdIB(CHANNELS, bottleneck='complete', fused_channels=6).eval()
    x = make_pairs()
    for name, pair in mrdib(x).items():
        assert all(torch.equal(code.z, t) for code, t in zip(pair, x[name]))
    assert torch.equal(mrdib.encode_fused(x['image'])[1].z, x['image'][1])


def test_users_and_items_share_a_bottleneck():
    mrdib = MRdIB(CHANNELS)
    user, item = mrdib(make_pairs())['image']
    assert user.logstd[0, 0] == item.logstd[0, 0]
    assert isinstance(mrdib.bottlenecks['modality_image'], VariationalBottleneck)


# -- the module --------------------------------------------------------------------------------


def test_total_weighs_the_named_terms():
    terms = PIDTerms(*(torch.tensor(v) for v in (2.0, 3.0, 5.0, 7.0)))
    assert float(terms.total(bottleneck=1.0, redundant=0.5, unique=0.1)) == 4.0
    assert float(terms.total()) == 0.0  # the synergistic term is the task loss: never added
    assert float(terms.total(redundant=1.0)) == 3.0
    for name in ('bottleneck', 'redundant', 'unique'):
        with pytest.raises(ValueError, match=f"'{name}' must"):
            terms.total(**{name: -1.0})
    with pytest.raises(ValueError, match='got nan'):
        terms.total(unique=math.nan)
    with pytest.raises(TypeError):
        terms.total(synergistic=1.0)


def test_a_weight_of_zero_leaves_a_term_out():
    # Also where it is not finite, and without a graph to walk through.
    terms = PIDTerms(torch.tensor(math.inf), torch.tensor(math.nan), torch.tensor(1.0))
    assert float(terms.total(unique=2.0)) == 2.0


def test_deepcopy_state_dict_and_config():
    mrdib = randomized(MRdIB(CHANNELS, 'nwj', 'complete', fused_channels=6, hidden_channels=8))
    x, triplet = make_pairs(), make_triplet()

    def loss(layer):
        return layer.loss(layer(x), *triplet, fused=layer.encode_fused(x['image']))

    loss(mrdib)  # sets noise level and running statistics
    rebuilt = MRdIB(**mrdib.config)
    rebuilt.load_state_dict(mrdib.state_dict())
    for other in (copy.deepcopy(mrdib), rebuilt):
        assert other.config == mrdib.config
        torch.manual_seed(5)
        actual = loss(other)
        state = copy.deepcopy(mrdib.state_dict())
        torch.manual_seed(5)
        expected = loss(mrdib)
        mrdib.load_state_dict(state)
        for a, b in zip(actual[:3], expected[:3]):
            assert torch.equal(a, b)


def test_copies_share_nothing():
    mrdib = MRdIB(CHANNELS)
    other = copy.deepcopy(mrdib)
    own = {p.data_ptr() for p in mrdib.parameters()}
    assert not own & {p.data_ptr() for p in other.parameters()}


def test_reset_parameters():
    mrdib = MRdIB(CHANNELS, bottleneck='complete', fused_channels=6)
    x = make_pairs()
    mrdib.loss(mrdib(x), *make_triplet(), fused=mrdib.encode_fused(x['image']))
    randomized(mrdib)
    torch.manual_seed(4)
    mrdib.reset_parameters()
    first = copy.deepcopy(mrdib.state_dict())
    randomized(mrdib)
    torch.manual_seed(4)
    mrdib.reset_parameters()
    for name, value in mrdib.state_dict().items():
        assert torch.equal(value, first[name]), name
    assert (mrdib.fused_bottleneck.lin.weight == 0).all()
    assert not mrdib.fused_bottleneck.is_initialized


def test_own_estimator():
    made = []

    def factory(in_channels_1, in_channels_2, hidden_channels):
        made.append((in_channels_1, in_channels_2, hidden_channels))
        return MINE(in_channels_1, in_channels_2, hidden_channels, num_derangements=1)

    mrdib = MRdIB({'a': 6, 'b': 4}, redundancy=factory, hidden_channels=8)
    assert made == [(6, 4, 8), (6, 4, 8)]
    assert mrdib.critics['item_0_1'].num_derangements == 1


@pytest.mark.parametrize('name', ['type', 'keys', 'forward'])
def test_names_of_modalities_are_free(name):
    mrdib = MRdIB({name: 6, 'text': 6})
    x = make_pairs(mrdib.channels)
    assert set(mrdib.loss(mrdib(x), *make_triplet())._fields) == set(PIDTerms._fields)


def test_double_precision():
    mrdib = MRdIB(CHANNELS).double()
    terms = mrdib.loss(mrdib(make_pairs(dtype=torch.float64)), *make_triplet())
    assert all(term.dtype == torch.float64 for term in terms[:3])


def test_drop_user_critics():
    mrdib = MRdIB(CHANNELS)
    mrdib.drop_user_critics()
    assert list(mrdib.critics) == ['item_0_1']
    assert MRdIB(**mrdib.config).state_dict().keys() == mrdib.state_dict().keys()


@pytest.mark.parametrize(
    'args, kwargs, message',
    [
        (({},), {}, "'channels' is empty"),
        ((CHANNELS, 'mimo'), {}, r"'redundancy' must be one of .*\(got 'mimo'\)"),
        ((CHANNELS,), {'bottleneck': 'middle'}, r"'late', 'early' or 'complete' \(got 'middle'\)"),
        ((CHANNELS,), {'bottleneck': 'early'}, "set 'fused_channels' to its width"),
        (({'a': 0},), {}, "the width of 'a' must be positive"),
        (({'a': 0}, None, 'early', 4), {}, "the width of 'a' must be positive"),
        (({'a': 2}, None, 'early', -1), {}, "the width of 'fused' must be positive"),
        (({'a.b': 2},), {}, "name of a modality .*got 'a.b'"),
    ],
)
def test_refused_settings(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        MRdIB(*args, **kwargs)


def test_an_estimator_is_copied_or_refused():
    shared = MINE(6, 6)
    before = copy.deepcopy(shared.state_dict())
    mrdib = MRdIB({'image': 6, 'text': 6}, redundancy=lambda *widths: shared)
    mrdib.reset_parameters()
    mrdib.loss(mrdib(make_pairs(mrdib.channels)), *make_triplet()).redundant.backward()
    assert all(torch.equal(before[key], value) for key, value in shared.state_dict().items())
    assert all(param.grad is None for param in shared.parameters())
    with pytest.raises(TypeError, match="'redundancy' .*got MINE"):
        MRdIB({'image': 6, 'text': 6}, redundancy=shared)


def test_refused_inputs():
    mrdib = MRdIB(CHANNELS)
    with pytest.raises(ValueError, match=r"'channels', \['image', 'text'\] \(got \["):
        mrdib({'image': torch.zeros(3, 6)})
    with pytest.raises(ValueError, match=r'\[N, 6\]'):
        mrdib({'image': torch.zeros(3, 5), 'text': torch.zeros(3, 6)})
    codes = mrdib(make_pairs())
    src, pos, neg = make_triplet()
    with pytest.raises(ValueError, match=r"'channels', .*\(got \['text'\]\)"):
        mrdib.loss({'text': codes['text']}, src, pos, neg)
    with pytest.raises(ValueError, match=r"'src_index'.*\(got \[40\], \[40\] and \[39\]\)"):
        mrdib.loss(codes, src, pos, neg[1:])
    items = {name: (None, item) for name, (_, item) in codes.items()}
    with pytest.raises(ValueError, match="'image'.*'user_embedding'"):
        mrdib.loss(items, src, pos, neg)
    with pytest.raises(TypeError, match="mask of 'text' .*float32"):
        mrdib.loss(codes, src, pos, neg, present={'text': torch.ones(NUM_ITEMS)})
    with pytest.raises(ValueError, match=r"'present' .*\['audio'\]"):
        mrdib.loss(codes, src, pos, neg, present={'audio': None})
    present = torch.ones(NUM_ITEMS, dtype=torch.bool)
    for wrong in (present[1:], present.unsqueeze(1), (None, present[1:]), [present, None]):
        with pytest.raises(ValueError, match="mask of 'text' .*got the shape"):
            mrdib.loss(codes, src, pos, neg, present={'text': wrong})
    with pytest.raises(ValueError, match=r'\(got \[3, 5\] and \[4, 6\]\)'):
        rows = torch.zeros(3, 5), torch.zeros(4, 6)
        mrdib({'image': rows, 'text': rows})
    fused = torch.zeros(3, 6), torch.zeros(NUM_ITEMS, 6)
    with pytest.raises(IndexError, match=r"'src_index' must lie in \[0, 3\)"):
        mrdib.loss(codes, src, pos, neg, fused=fused)


def test_early_bottleneck_refuses_other_widths():
    mrdib = MRdIB(CHANNELS, bottleneck='early', fused_channels=6)
    with pytest.raises(ValueError, match=r"the rows of 'image' must have the shape \[N, 6\]"):
        mrdib({'image': torch.zeros(3, 7), 'text': torch.zeros(3, 6)})


def test_what_is_no_dictionary_of_tensors_is_refused():
    with pytest.raises(TypeError, match=r"'channels' must map the name .* \(got \[6, 6\]\)"):
        MRdIB([6, 6])
    mrdib, x = MRdIB(CHANNELS), torch.randn(4, 6)
    with pytest.raises(TypeError, match=r'dictionary .*\(got'):
        mrdib([x, x])
    with pytest.raises(TypeError, match=r"rows of 'image' must be a tensor .* \(got ndarray\)"):
        mrdib({'image': (None, x.numpy()), 'text': (None, x)})
    with pytest.raises(TypeError, match=r"'text' must be a tensor .* \(got torch.int64\)"):
        mrdib({'image': x, 'text': x.long()})


def test_modalities_with_different_numbers_of_rows_are_refused():
    mrdib = MRdIB(CHANNELS)
    a, b = torch.randn(5, 6), torch.randn(4, 6)
    for image, text in ((a, b), ((a, a), (a, b)), ((a, a), (b, a)), ((None, a), (None, b))):
        with pytest.raises(ValueError, match=r"\['image', 'text'\] .*\(got \["):
            mrdib({'image': image, 'text': text})
    mrdib({'image': (a, b), 'text': (None, b)})


def test_modalities_of_different_forms_are_refused():
    mrdib, triplet = MRdIB(CHANNELS), make_triplet()
    image, text = make_pairs().values()
    codes = mrdib({'image': image[1], 'text': text})
    for names in (('image', 'text'), ('text', 'image')):
        with pytest.raises(ValueError, match="'codes' must have one form"):
            mrdib.loss({name: codes[name] for name in names}, *triplet)


@pytest.mark.parametrize('which, bound', [(0, NUM_USERS), (1, NUM_ITEMS), (2, NUM_ITEMS)])
@pytest.mark.parametrize('beyond', [True, False])
def test_index_beyond_the_rows(which, bound, beyond):
    mrdib = MRdIB(CHANNELS)
    triplet = [index.clone() for index in make_triplet()]
    triplet[which][3] = bound if beyond else -1
    name = ('src_index', 'dst_pos_index', 'dst_neg_index')[which]
    with pytest.raises(IndexError, match=rf"'{name}' must lie in \[0, {bound}\)"):
        mrdib.loss(mrdib(make_pairs()), *triplet)


def test_index_beyond_the_user_embedding():
    mrdib = MRdIB(CHANNELS, user_codes=False)
    codes = mrdib({name: (None, item) for name, (_, item) in make_pairs().items()})
    with pytest.raises(IndexError, match=r"'src_index' must lie in \[0, 3\)"):
        mrdib.loss(codes, *make_triplet(), user_embedding=torch.zeros(3, 6))


def test_repr():
    assert repr(MRdIB(CHANNELS)) == f"MRdIB({CHANNELS}, redundancy='mine', bottleneck='late')"
    assert repr(PIDTerms(1.0, 2.0, 3.0)).startswith('PIDTerms(bottleneck=1.0')


# -- compilers and processes -------------------------------------------------------------------


# torch reads the gradient of a tensor between two graphs.
@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor:UserWarning')
@pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning')
@pytest.mark.parametrize('redundancy', [None, 'mine'])
def test_step_compiles(redundancy):
    mrdib = randomized(MRdIB(CHANNELS, redundancy=redundancy))
    x, triplet = make_pairs(), make_triplet()

    def step(x, src, pos, neg):
        codes = mrdib(x)
        fused = tuple(codes['image'][s].z + codes['text'][s].z for s in (0, 1))
        terms = mrdib.loss(codes, src, pos, neg, fused=fused)
        return terms.synergistic + terms.total(bottleneck=0.1, unique=0.1), terms.redundant

    state = copy.deepcopy(mrdib.state_dict())
    results = []
    torch._dynamo.reset()
    for function in (step, torch.compile(step, backend='aot_eager', fullgraph=True)):
        mrdib.load_state_dict(state)
        mrdib.zero_grad()
        torch.manual_seed(7)
        loss, redundant = function(x, *triplet)
        # Its rows are drawn in another way where shapes must not depend on the batch.
        assert redundant.isfinite() and (redundant != 0) == (redundancy is not None)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in mrdib.bottlenecks.parameters())])
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


class Model(nn.Module):
    """A recommender whose forward pass returns the loss, as DDP wants it."""

    def __init__(self):
        super().__init__()
        self.user = nn.Embedding(NUM_USERS, 6)
        self.item = nn.ModuleDict({name: nn.Embedding(NUM_ITEMS, 6) for name in CHANNELS})
        self.mrdib = MRdIB(CHANNELS)

    def forward(self, src, pos, neg):
        user = self.user.weight
        codes = self.mrdib({name: (user, emb.weight) for name, emb in self.item.items()})
        fused = tuple(codes['image'][s].z + codes['text'][s].z for s in (0, 1))
        terms = self.mrdib.loss(codes, src, pos, neg, fused=fused)
        return terms.synergistic + terms.total(bottleneck=0.1, redundant=0.1, unique=0.1)


def run_distributed(rank, folder):
    """Some steps of one of two processes; asserts what is the same in both."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/init', rank=rank, world_size=2
    )
    torch.manual_seed(0)
    model = Model()
    reference = copy.deepcopy(model)
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=0.01)  # one, for both sides
    for step in range(3):
        torch.manual_seed(100 + step)
        batches = [make_triplet(), make_triplet()]
        expected = [torch.zeros_like(p) for p in model.parameters()]
        for r, batch in enumerate(batches):  # what one process alone would average
            single = copy.deepcopy(reference)
            torch.manual_seed(10 * step + r)
            single(*batch).backward()
            for total, param in zip(expected, single.parameters()):
                total += param.grad / 2
        optimizer.zero_grad()
        torch.manual_seed(10 * step + rank)
        wrapped(*batches[rank]).backward()
        for param, grad in zip(model.parameters(), expected):
            torch.testing.assert_close(param.grad, grad, rtol=1e-4, atol=1e-6)
        optimizer.step()
        for param in model.parameters():
            both = [torch.empty_like(param) for _ in range(2)]
            torch.distributed.all_gather(both, param.detach())
            assert torch.equal(*both)
        # DDP takes the buffers (noise level, moving averages) of the first process.
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
        reference.load_state_dict(model.state_dict())
    # While DDP still holds the group, its end may wait for a thread that waits for this one.
    del wrapped
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_distributed(tmp_path):
    # As a script, because a started process has to import what it runs by name.
    paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, __file__, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == 'done'


if __name__ == '__main__':
    # A fork does not import everything a second and a third time, where it is safe.
    method = 'fork' if sys.platform == 'linux' else 'spawn'
    torch.multiprocessing.start_processes(
        run_distributed, args=(sys.argv[1],), nprocs=2, start_method=method
    )
    print('done')
