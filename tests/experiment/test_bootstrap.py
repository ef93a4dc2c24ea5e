import math

import numpy as np
import pytest

from mrdib_pyg.experiment.summary import bootstrap_gain, resample_sums


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_constant_ratio_has_no_spread(rng):
    baseline = rng.random((3, 200))
    out = bootstrap_gain(1.2 * baseline, baseline, num_samples=100)
    assert out.gain == pytest.approx(0.2)
    assert (out.low, out.high) == pytest.approx((0.2, 0.2))


def test_interval_has_the_width_of_the_closed_form():
    """Over a constant baseline the gain is a mean, whose standard error is known: that of the mean
    over users, where all seeds say the same, and that of the mean over seeds, where all users do.
    """
    num_users, num_seeds, p = 2000, 40, 0.3
    hits = (np.arange(num_users) < p * num_users).astype(float)[None].repeat(3, axis=0)
    effect = np.linspace(0.2, 0.4, num_seeds)[:, None].repeat(50, axis=1)
    for values, error in (
        (hits, math.sqrt(p * (1 - p) / num_users) / 0.25),
        (effect, effect[:, 0].std() / math.sqrt(num_seeds) / 0.25),
    ):
        out = bootstrap_gain(values, np.full_like(values, 0.25), num_samples=4000)
        assert out.gain == pytest.approx(p / 0.25 - 1)
        assert out.replicates.std() == pytest.approx(error, rel=0.05)
        assert out.low == pytest.approx(out.gain - 1.96 * error, abs=0.1 * error)
        assert out.high == pytest.approx(out.gain + 1.96 * error, abs=0.1 * error)


def test_pairs_are_kept(rng):
    """Users differ far more than the two metrics do of one user."""
    baseline = rng.exponential(size=(1, 1000)).repeat(3, axis=0)
    treated = baseline + 0.1 + 0.01 * rng.standard_normal((3, 1000))
    paired = bootstrap_gain(treated, baseline)
    unpaired = bootstrap_gain(treated[:, rng.permutation(1000)], baseline)
    assert paired.gain == pytest.approx(unpaired.gain)
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)


def test_seeds_do_not_count_as_users(rng):
    """The same users measured with more equal seeds tell no more than with three."""
    treated, baseline = rng.random((1, 300)), rng.random((1, 300))
    few, many = (
        bootstrap_gain(treated.repeat(n, axis=0), baseline.repeat(n, axis=0)) for n in (3, 9)
    )
    assert few[:3] == pytest.approx(many[:3])


def test_seeds_that_disagree_widen_the_interval(rng):
    """Two seeds that agree by chance are no evidence, and three are the least to have any."""
    baseline = rng.random((5, 500)) + 1
    effect = np.array([0.5, 0.5, -0.4, 0.1, -0.3])[:, None]
    out = bootstrap_gain(baseline * (1 + effect), baseline)
    assert out.low < 0 < out.high and out.high - out.low > 0.4
    two = bootstrap_gain((baseline * (1 + effect))[:2], baseline[:2])
    assert two.gain == pytest.approx(0.5) and math.isnan(two.low) and math.isnan(two.high)


def test_draws_are_fixed(rng):
    treated, baseline = rng.random((3, 50)), rng.random((3, 50))
    first = bootstrap_gain(treated, baseline, seed=1)
    assert bootstrap_gain(treated, baseline, seed=1)[:3] == first[:3]
    assert bootstrap_gain(treated, baseline, seed=2)[:3] != first[:3]


def test_resamples_are_of_the_same_size(rng):
    sums = resample_sums(np.ones((70_000, 3, 2)), num_samples=130, seed=0)  # in three chunks
    assert sums.shape == (130, 2) and (sums == 210_000).all()
    values = rng.random((40, 1, 1)).repeat(3, axis=1)
    sums = resample_sums(values, num_samples=20_000, seed=0)
    assert sums.mean() == pytest.approx(values.sum(), rel=0.01)
    assert sums.std() == pytest.approx(3 * values.std() * math.sqrt(40), rel=0.03)


def test_a_naive_reference(rng):
    values = rng.random((7, 4, 2))
    out = resample_sums(values, num_samples=20, seed=3, stream=2)
    users, seeds = np.random.default_rng(3), np.random.default_rng([3, 2])
    drawn = users.integers(7, size=(20, 7))
    times = seeds.multinomial(4, [0.25] * 4, size=20)
    for i in range(20):
        rows = [values[u, s] * times[i, s] for u in drawn[i] for s in range(4)]
        assert out[i] == pytest.approx(np.sum(rows, axis=0))
    other = resample_sums(values, num_samples=20, seed=3, stream=1)  # of another model
    assert not np.allclose(other, out)


def test_nothing_to_gain_over():
    out = bootstrap_gain(np.ones((1, 5)), np.zeros((1, 5)), num_samples=10)
    assert not math.isfinite(out.gain) and not math.isfinite(out.low)


@pytest.mark.parametrize('shapes', [((1, 3), (2, 3)), ((3,), (3,)), ((1, 0), (1, 0))])
def test_refuses(shapes):
    with pytest.raises(ValueError, match='must have the same shape'):
        bootstrap_gain(*(np.ones(shape) for shape in shapes))
