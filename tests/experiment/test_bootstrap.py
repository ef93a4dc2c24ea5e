import math

import numpy as np
import pytest

from mrdib_pyg.experiment import bootstrap_gain
from mrdib_pyg.experiment.summary import resample_sums


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_constant_ratio_has_no_spread(rng):
    baseline = rng.random((3, 200))
    out = bootstrap_gain(1.2 * baseline, baseline, num_samples=100)
    assert out.gain == pytest.approx(0.2)
    assert (out.low, out.high) == pytest.approx((0.2, 0.2))


def test_interval_has_the_width_of_the_closed_form():
    """Over a constant baseline the gain is a mean, whose standard error is known."""
    num_users, p = 2000, 0.3
    hits = (np.arange(num_users) < p * num_users).astype(float)[None]
    out = bootstrap_gain(hits, np.full((1, num_users), 0.25), num_samples=4000)
    assert out.gain == pytest.approx(p / 0.25 - 1)
    error = math.sqrt(p * (1 - p) / num_users) / 0.25
    assert out.replicates.std() == pytest.approx(error, rel=0.05)
    assert out.low == pytest.approx(out.gain - 1.96 * error, abs=0.1 * error)
    assert out.high == pytest.approx(out.gain + 1.96 * error, abs=0.1 * error)


def test_pairs_are_kept(rng):
    """Users differ far more than the two metrics do of one user."""
    baseline = rng.exponential(size=(1, 1000))
    treated = baseline + 0.1 + 0.01 * rng.standard_normal((1, 1000))
    paired = bootstrap_gain(treated, baseline)
    unpaired = bootstrap_gain(treated[:, rng.permutation(1000)], baseline)
    assert paired.gain == pytest.approx(unpaired.gain)
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)


def test_seeds_do_not_count_as_users(rng):
    """The same users measured with three equal seeds tell no more than with one."""
    treated, baseline = rng.random((1, 300)), rng.random((1, 300))
    once = bootstrap_gain(treated, baseline)
    thrice = bootstrap_gain(treated.repeat(3, axis=0), baseline.repeat(3, axis=0))
    assert thrice[:3] == pytest.approx(once[:3])


def test_draws_are_fixed(rng):
    treated, baseline = rng.random((2, 50)), rng.random((2, 50))
    first = bootstrap_gain(treated, baseline, seed=1)
    assert bootstrap_gain(treated, baseline, seed=1)[:3] == first[:3]
    assert bootstrap_gain(treated, baseline, seed=2)[:3] != first[:3]


def test_resamples_are_of_the_same_size(rng):
    sums = resample_sums(np.ones((70_000, 2)), num_samples=130, seed=0)  # in three chunks
    assert sums.shape == (130, 2) and (sums == 70_000).all()
    values = rng.random((40, 1))
    sums = resample_sums(values, num_samples=20_000, seed=0)
    assert sums.mean() == pytest.approx(values.sum(), rel=0.01)
    assert sums.std() == pytest.approx(values.std() * math.sqrt(40), rel=0.03)


def test_nothing_to_gain_over():
    out = bootstrap_gain(np.ones((1, 5)), np.zeros((1, 5)), num_samples=10)
    assert not math.isfinite(out.gain) and not math.isfinite(out.low)


@pytest.mark.parametrize('shapes', [((1, 3), (2, 3)), ((3,), (3,)), ((1, 0), (1, 0))])
def test_refuses(shapes):
    with pytest.raises(ValueError, match='must have the same shape'):
        bootstrap_gain(*(np.ones(shape) for shape in shapes))
