from typing import NamedTuple

import numpy as np


class Gain(NamedTuple):
    r"""A relative gain, with its bootstrap replicates.

    Args:
        gain (float): The gain, 0.1 for 10 %.
        low (float): The lower end of its 95 % interval.
        high (float): The upper end.
        replicates (numpy.ndarray): The gain in each resample.
    """

    gain: float
    low: float
    high: float
    replicates: np.ndarray


def bootstrap_gain(
    treated: np.ndarray, baseline: np.ndarray, num_samples: int = 2000, seed: int = 0
) -> Gain:
    r"""The relative gain of one metric over another, with an interval by a bootstrap over users,

    .. math::
        \frac{\sum_s \frac{1}{U} \sum_u a_{su}}{\sum_s \frac{1}{U} \sum_u b_{su}} - 1

    for users :math:`u` and training seeds :math:`s`. Users are drawn with replacement, the same
    ones in both metrics and in all seeds: both are measured on the same users, who therefore are
    the only units that can be taken for independent. The interval says what other users like these
    would give; that other seeds differ as well is told by the differences seed by seed.

    The interval is that of the percentiles 2.5 and 97.5. The same arguments give the same draws,
    which depend on the number of users alone, so that replicates of several models may be averaged.

    Args:
        treated (numpy.ndarray): The metric of each seed and user, ``[S, U]``.
        baseline (numpy.ndarray): That of what it is compared with, ``[S, U]``.
        num_samples (int, optional): The number of resamples. (default: :obj:`2000`)
        seed (int, optional): Seeds the draws. (default: :obj:`0`)

    Raises:
        ValueError: If the shapes differ, or are not of two dimensions.
    """
    if treated.shape != baseline.shape or treated.ndim != 2 or treated.shape[1] == 0:
        raise ValueError(
            f"'treated' and 'baseline' must have the same shape [S, U] (got {treated.shape} and "
            f'{baseline.shape})'
        )
    # Users are resampled as wholes, so the sums over seeds are all that is needed of them.
    sums = np.stack([x.sum(axis=0, dtype=np.float64) for x in (treated, baseline)], axis=1)
    resampled = resample_sums(sums, num_samples, seed)
    return ratio_gain(sums.sum(axis=0), resampled)


def ratio_gain(total: np.ndarray, resampled: np.ndarray) -> Gain:
    r"""Returns the gain of the first of two sums over the second, given the same sums of resamples
    ``[num_samples, 2]``; NaN where the second is zero.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        replicates = resampled[:, 0] / resampled[:, 1] - 1
        return make_gain(float(np.divide(total[0], total[1]) - 1), replicates)


def make_gain(gain: float, replicates: np.ndarray) -> Gain:
    r"""Adds the 95 % interval of its replicates to a gain."""
    low, high = np.percentile(replicates, [2.5, 97.5])
    return Gain(gain, float(low), float(high), replicates)


def resample_sums(values: np.ndarray, num_samples: int, seed: int) -> np.ndarray:
    r"""Returns the column sums of resamples of the rows, ``[num_samples, C]`` of ``[U, C]``."""
    rng = np.random.default_rng(seed)
    num_users = values.shape[0]
    out = np.empty((num_samples, values.shape[1]))
    step = max(1, 2**22 // num_users)  # bounds the memory of the counts
    for start in range(0, num_samples, step):
        count = min(step, num_samples - start)
        drawn = rng.integers(num_users, size=(count, num_users))
        drawn += np.arange(count)[:, None] * num_users
        counts = np.bincount(drawn.ravel(), minlength=count * num_users)
        out[start : start + count] = counts.reshape(count, num_users) @ values
    return out
