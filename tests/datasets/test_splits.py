import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrdib_pyg.datasets import split_interactions
from mrdib_pyg.datasets.splits import k_core, leave_one_out_split, random_split, temporal_split

DATA = Path(os.environ.get('MRDIB_DATA', '../shared/data'))
MASK = 2**64 - 1
#: Distinct pairs of user and item, in any order.
PAIRS = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=120).flatmap(
    lambda pairs: st.permutations(sorted(pairs))
)


def split_mix(x):
    """SplitMix64 in plain integers."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def naive_random_split(pairs, seed):
    label = {}
    for user in {user for user, _ in pairs}:
        items = [item for u, item in pairs if u == user]
        start = split_mix(split_mix(seed & MASK) ^ user)
        items.sort(key=lambda item: split_mix(start ^ item))
        n = len(items)
        held_out = 0 if n < 3 else 2 if n < 10 else n // 5
        for place, item in enumerate(items):
            test = place < held_out // 2
            label[user, item] = 2 if test else 1 if place < held_out else 0
    return [label[pair] for pair in pairs]


def columns(pairs):
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def test_split_mix_is_the_published_one():
    # The first outputs of the generator started at 1234567, whose state grows by a constant.
    assert split_mix(1234567) == 6457827717110365317
    assert split_mix(1234567 + 0x9E3779B97F4A7C15) == 3203168211198807973


@settings(deadline=None, max_examples=60)
@given(PAIRS, st.integers(-(2**70), 2**70))
def test_random_split_against_plain_python(pairs, seed):
    assert random_split(*columns(pairs), seed).tolist() == naive_random_split(pairs, seed)


def test_random_split_sizes():
    for n in range(1, 60):
        label = random_split(np.zeros(n, dtype=np.int64), np.arange(n))
        train, val, test = np.bincount(label, minlength=3)
        if n < 3:
            assert (train, val, test) == (n, 0, 0)
        elif n < 10:
            assert (train, val, test) == (n - 2, 1, 1)
        else:
            assert val + test == n // 5 and 0 <= val - test <= 1


def test_random_split_depends_on_the_seed_and_not_on_the_order():
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.permutation(40 * 50)[:1500], 50)
    label = random_split(user, item, 3)
    assert (label != random_split(user, item, 4)).any()
    order = rng.permutation(1500)
    assert (random_split(user[order], item[order], 3) == label[order]).all()
    assert (random_split(user.astype(np.int32), item.astype(np.int32), 3) == label).all()


def test_random_split_is_even():
    """Every place of the table is as likely to be held out."""
    user, item = np.divmod(np.arange(4000 * 20), 20)
    share = np.bincount(item, weights=random_split(user, item) > 0) / 4000
    assert abs(share - 0.2).max() < 5 * (0.2 * 0.8 / 4000) ** 0.5


@pytest.mark.skipif(not (DATA / 'amazon-baby').is_dir(), reason="'MRDIB_DATA' is not there")
def test_random_split_has_the_sizes_of_published_data():
    table = np.loadtxt(DATA / 'amazon-baby' / 'baby.inter', dtype=np.int64, skiprows=1)
    user, item, label = table[:, :3].T
    ours = random_split(user, item)
    for value in range(3):
        count = np.bincount(user[ours == value], minlength=user.max() + 1)
        assert (count == np.bincount(user[label == value], minlength=user.max() + 1)).all()


@settings(deadline=None, max_examples=40)
@given(PAIRS, st.data())
def test_leave_one_out_split_against_plain_python(pairs, data):
    time = data.draw(st.lists(st.integers(0, 5), min_size=len(pairs), max_size=len(pairs)))
    label = leave_one_out_split(columns(pairs)[0], np.array(time, dtype=np.int64))
    expected = [0] * len(pairs)
    for user in {user for user, _ in pairs}:
        rows = [row for row, (u, _) in enumerate(pairs) if u == user]
        rows.sort(key=lambda row: (time[row], row))
        if len(rows) >= 3:
            expected[rows[-1]], expected[rows[-2]] = 2, 1
    assert label.tolist() == expected


def test_temporal_split():
    time = np.random.default_rng(0).permutation(1000)
    label = temporal_split(time, (0.7, 0.2, 0.1))
    assert (label == np.digitize(time, [700, 900])).all()
    # A moment is not torn apart, and nobody trains on the future.
    time = np.repeat([3.5, 1.5, 2.5], [10, 70, 20])
    assert Counter(zip(time, temporal_split(time).tolist())) == {
        (1.5, 0): 70, (2.5, 1): 20, (3.5, 2): 10
    }  # fmt: skip
    assert (temporal_split(np.arange(7), (1, 0, 0)) == 0).all()
    assert temporal_split(np.arange(0)).size == 0


def test_temporal_split_refuses():
    with pytest.raises(ValueError, match='add up to 1'):
        temporal_split(np.arange(5), (0.5, 0.1, 0.1))
    with pytest.raises(ValueError, match='add up to 1'):
        temporal_split(np.arange(5), (1.5, -0.5, 0))
    with pytest.raises(ValueError, match='no interaction is left for training'):
        temporal_split(np.ones(9))


def test_split_interactions():
    user, item = columns([(0, i) for i in range(12)])
    time = np.arange(12)[::-1]
    assert (split_interactions('random', user, item, seed=5) == random_split(user, item, 5)).all()
    label = split_interactions('leave_one_out', user, item, time)
    assert label.tolist() == [2, 1] + [0] * 10
    label = split_interactions('temporal', user, item, time, ratios=(0.5, 0.25, 0.25))
    assert label.tolist() == [2] * 3 + [1] * 3 + [0] * 6
    with pytest.raises(ValueError, match="'strategy' needs to be one of.*'newest'"):
        split_interactions('newest', user, item)
    with pytest.raises(ValueError, match='there are no times'):
        split_interactions('temporal', user, item)


@settings(deadline=None, max_examples=50)
@given(PAIRS, st.integers(1, 5), st.integers(1, 5))
def test_k_core_against_plain_python(pairs, k_user, k_item):
    rows = list(range(len(pairs)))
    while True:
        users = Counter(pairs[row][0] for row in rows)
        items = Counter(pairs[row][1] for row in rows)
        left = [
            row for row in rows
            if users[pairs[row][0]] >= k_user and items[pairs[row][1]] >= k_item
        ]  # fmt: skip
        if left == rows:
            break
        rows = left
    assert k_core(*columns(pairs), (k_user, k_item)).tolist() == rows


def test_k_core_takes_many_rounds():
    """A chain, of which each round takes one link from each end, and a square that stays."""
    chain = [(n, n) for n in range(50)] + [(n, n + 1) for n in range(50)]
    square = [(100 + u, 100 + i) for u in range(2) for i in range(2)]
    kept = k_core(*columns(chain + square), 2)
    assert kept.tolist() == [100, 101, 102, 103]
    assert k_core(*columns(chain), 2).size == 0
