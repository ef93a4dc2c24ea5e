import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_tables import GATES, normalized, random_tables, table

from mrdib_pyg.pid import PID, decompose
from mrdib_pyg.pid._decompose import (
    atoms,
    choose_bins,
    decompose_pairs,
    joint_table,
    quantile_bins,
    user_weights,
)

MEASURES = ['broja', 'imin', 'mmi']
AND = 1.5 - 0.75 * math.log2(3)  # the information of one input of an AND gate
# Redundant, unique, unique, synergistic in bits.
BROJA = {
    'and': (AND, 0, 0, 0.5),
    'or': (AND, 0, 0, 0.5),
    'xor': (0, 0, 0, 1),
    'unq': (0, 1, 0, 0),
    'rdn': (1, 0, 0, 0),
    'copy': (0, 1, 1, 0),
    'sum': (0.5, 0, 0, 1),
    'rdn+xor': (1, 0, 0, 1),
}
OTHERS = {
    ('imin', 'copy'): (1, 0, 0, 1),
    ('imin', 'and'): (AND, 0, 0, 0.5),
    ('imin', 'xor'): (0, 0, 0, 1),
    ('imin', 'unq'): (0, 1, 0, 0),
    ('imin', 'rdn'): (1, 0, 0, 0),
    ('mmi', 'copy'): (1, 0, 0, 1),
    ('mmi', 'and'): (AND, 0, 0, 0.5),
    ('mmi', 'unq'): (0, 1, 0, 0),
    ('mmi', 'rdn+xor'): (1, 0, 0, 1),
}


def flat(pid):
    return [pid.redundant, *pid.unique, pid.synergistic, pid.total]


def information(p):
    """The mutual information of a joint distribution of two, in nats, from its definition."""
    p = p / p.sum()
    product = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
    return sum(float(a * (a / b).log()) for a, b in zip(p[p > 0], product[p > 0]))


@pytest.mark.parametrize('name', BROJA)
def test_known_values_of_broja(name):
    pid = decompose(GATES[name], base='bits')
    assert flat(pid)[:4] == pytest.approx(BROJA[name], abs=1e-6)


@pytest.mark.parametrize('measure,name', OTHERS)
def test_known_values_of_other_measures(measure, name):
    pid = decompose(GATES[name], measure, base='bits')
    assert flat(pid)[:4] == pytest.approx(OTHERS[measure, name], abs=1e-12)


def test_symmetric_additive_parts_are_not_unique():
    # The warning of the docstring: y follows the sum of two independent signs.
    p = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.5, 0.5], [0.1, 0.9]]])
    for measure in ('broja', 'mmi'):
        pid = decompose(p, measure)
        assert pid.unique == pytest.approx((0, 0), abs=1e-7)
        assert pid.redundant > 0.05 and pid.synergistic > 0.05


def test_result():
    pid = decompose(GATES['unq'])
    assert isinstance(pid, PID)
    redundant, unique, synergistic, total = pid
    assert unique == pytest.approx((math.log(2), 0), abs=1e-7)
    assert all(type(value) is float for value in (redundant, *unique, synergistic, total))
    assert pid.informations == pytest.approx((math.log(2), 0), abs=1e-7)
    in_bits = decompose(GATES['unq'], base='bits')
    assert flat(in_bits) == pytest.approx([value / math.log(2) for value in flat(pid)])


def joint_tables():
    """Small tables of counts with many zeros, at least one not."""
    return (
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
        .flatmap(
            lambda sizes: st.lists(
                st.sampled_from([0, 0, 1, 2, 5, 100]),
                min_size=math.prod(sizes), max_size=math.prod(sizes),
            ).map(lambda counts: torch.tensor(counts).view(sizes))
        )
        .filter(lambda counts: bool(counts.any()))
    )  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(joint_tables(), st.randoms(use_true_random=False))
@pytest.mark.parametrize('measure', MEASURES)
def test_properties(measure, counts, random):
    pid = decompose(counts, measure)
    values = flat(pid)
    p = counts.double()

    # Non-negative and consistent.
    assert min(values) >= 0
    assert sum(values[:4]) == pytest.approx(pid.total, abs=1e-12)
    assert pid.total == pytest.approx(information(p.flatten(0, 1)), abs=1e-12)
    expected = information(p.sum(1)), information(p.sum(0))
    assert pid.informations == pytest.approx(expected, abs=1e-12)

    # Symmetric in the sources.
    swapped = decompose(counts.transpose(0, 1), measure)
    assert flat(swapped) == pytest.approx([values[i] for i in (0, 2, 1, 3, 4)], abs=3e-8)

    # Names of symbols do not matter, nor symbols that never occur.
    renamed = counts
    for dim, size in enumerate(counts.shape):
        order = random.sample(range(size), size)
        renamed = renamed.index_select(dim, torch.tensor(order))
        renamed = torch.cat([renamed, torch.zeros_like(renamed.narrow(dim, 0, 1))], dim)
    assert flat(decompose(renamed, measure)) == pytest.approx(values, abs=3e-8)

    # Nor does a source's symbol split at random, nor a target's.
    dim = random.randrange(3)
    split = torch.cat([p, p.narrow(dim, 0, 1) / 3], dim)
    split.narrow(dim, 0, 1).mul_(2 / 3)
    assert flat(decompose(split, measure)) == pytest.approx(values, abs=3e-8)


@settings(max_examples=15, deadline=None)
@given(joint_tables())
def test_measures_in_order(counts):
    # Of these three BROJA sees the least redundancy (Bertschinger et al. 2014, lemma 4).
    broja, imin, mmi = (decompose(counts, measure).redundant for measure in MEASURES)
    assert broja <= imin + 3e-8
    assert imin <= mmi + 1e-12
    assert min(decompose(counts, 'mmi').unique) == 0


def test_equal_sources_are_redundant():
    p = random_tables(6, 6, 3)['equal sources'][0]
    for measure in MEASURES:
        pid = decompose(p, measure)
        assert flat(pid) == pytest.approx([pid.total, 0, 0, 0, pid.total], abs=1e-7)
    # A source that says nothing leaves all to the other one.
    p = torch.rand(5, 1, 3, dtype=torch.double).expand(5, 4, 3)
    for measure in MEASURES:
        pid = decompose(p, measure)
        assert flat(pid) == pytest.approx([0, pid.total, 0, 0, pid.total], abs=1e-7)


def test_counts_types_and_scales():
    counts = torch.randint(1, 9, (3, 4, 2))
    expected = flat(decompose(counts))
    double = counts.double()
    for other in (counts.float(), counts.to(torch.uint8), double * 1e300, double * 1e-300):
        assert flat(decompose(other)) == pytest.approx(expected, abs=1e-7)
    probabilities = (counts.double() / counts.sum()).requires_grad_()
    assert flat(decompose(probabilities)) == pytest.approx(expected, abs=1e-7)
    assert flat(decompose(counts > 4, 'mmi')) == flat(decompose((counts > 4).long(), 'mmi'))


@pytest.mark.parametrize('sizes', [(12, 12, 2), (10, 10, 10)])
def test_large_tables(sizes):
    # What holds at the minimum, whatever the solver: y -> x1 -> x2 has nothing unique to x2, and
    # sources that are independent given y have no synergy under BROJA's own minimiser.
    chain = random_tables(*sizes)['first is enough']
    values = atoms(chain)
    assert float(values[:, 2].max()) < 1e-6
    assert float(values[:, 3].max()) < 1e-6
    split = normalized(torch.rand(1, *sizes, dtype=torch.double))
    coarse = atoms(split)
    fine = atoms(split.repeat_interleave(2, dim=1) / 2)
    torch.testing.assert_close(fine, coarse, rtol=0, atol=1e-6)


def test_pairs():
    # y = x0 xor x1, and x2 repeats y.
    joint = torch.zeros(2, 2, 2, 2)
    for a in range(2):
        for b in range(2):
            joint[a, b, a ^ b, a ^ b] = 1
    out = decompose_pairs(joint, base='bits')
    assert list(out) == [(0, 1), (0, 2), (1, 2)]
    assert flat(out[0, 1]) == pytest.approx([0, 0, 0, 1, 1], abs=1e-6)
    for pair in [(0, 2), (1, 2)]:
        assert flat(out[pair]) == pytest.approx([0, 0, 1, 0, 1], abs=1e-6)

    joint = torch.rand(2, 3, 4, 2)
    out = decompose_pairs(joint, 'imin')
    assert flat(out[1, 2]) == pytest.approx(flat(decompose(joint.double().sum(0), 'imin')))
    counts = torch.rand(3, 2, 2)
    assert decompose_pairs(counts, 'mmi') == {(0, 1): decompose(counts, 'mmi')}


def test_errors():
    good = table((0, 0, 0), (1, 1, 1))
    with pytest.raises(TypeError, match="'table' must be a tensor .got list.; see torch.as_tensor"):
        decompose([[[1.0]]])
    with pytest.raises(TypeError, match="'table' must hold real numbers .got torch.complex64."):
        decompose(torch.ones(2, 2, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r'shape \[num_x1, num_x2, num_y\] \(got \[2, 2\]\)$'):
        decompose(torch.ones(2, 2))
    with pytest.raises(ValueError, match='see decompose_pairs for more sources'):
        decompose(torch.ones(2, 2, 2, 2))
    with pytest.raises(ValueError, match=r"'table' must have the shape .*\(got \[2, 2\]\)"):
        decompose_pairs(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"'table' must not be empty \(got \[2, 0, 2\]\)"):
        decompose(torch.ones(2, 0, 2))
    with pytest.raises(ValueError, match=r"'table' must have some mass \(got only zeros\)"):
        decompose(torch.zeros(2, 2, 2))
    for wrong in (-1.0, math.nan, math.inf):
        bad = good.clone()
        bad[0, 1, 1] = wrong
        message = re.escape(f'finite and not negative (got {wrong:g} at [0, 1, 1])')
        with pytest.raises(ValueError, match=message):
            decompose(bad)
    for call in (decompose, decompose_pairs):
        with pytest.raises(ValueError, match="'measure' must be one of broja, imin, mmi .got 'pm'"):
            call(good, 'pm')
        with pytest.raises(ValueError, match="'base' must be one of nats, bits .got 'hartleys'"):
            call(good, base='hartleys')


def test_bins_hold_equally_many():
    bins = quantile_bins(torch.randn(1200).double(), 12)
    assert torch.bincount(bins).tolist() == [100] * 12
    score = torch.tensor([0.0] * 90 + [1.0] * 10)
    assert torch.unique(quantile_bins(score, 12)).numel() == 2  # equal scores share a bin
    assert quantile_bins(torch.zeros(5), 12).unique().numel() == 1


def test_number_of_bins_keeps_the_bias_small():
    for n in (50, 400, 3000, 100_000):
        bins = choose_bins(n)
        assert 2 <= bins <= 12 and (bins == 2 or bins**2 / (2 * n) <= 0.01)
    assert choose_bins(100_000) == 12 and choose_bins(100_000, 5) == 5


def test_tables_against_counting():
    user = torch.tensor([3, 3, 8, 8, 1, 1])
    x, y = torch.tensor([0, 1, 1, 2, 2, 0]), torch.tensor([0, 1, 0, 1, 0, 1])
    weights = user_weights(user, 20, seed=1)
    assert torch.equal(weights[0], torch.ones(6).double())
    assert torch.equal(weights.sum(dim=1), torch.full((21,), 6.0).double())
    for a, b in ((0, 1), (2, 3), (4, 5)):  # a user is drawn as a whole
        assert torch.equal(weights[:, a], weights[:, b])
    assert torch.equal(weights, user_weights(user, 20, seed=1))
    table = joint_table(weights, x, y)
    for r in range(21):
        expected = torch.zeros(3, 2).double()
        for i in range(6):
            expected[x[i], y[i]] += weights[r, i] / 6
        assert torch.allclose(table[r], expected)
