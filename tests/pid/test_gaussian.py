import math

import pytest
import torch

from mrdib_pyg.pid import PID, decompose, gaussian_pid


def flat(pid):
    return [pid.redundant, *pid.unique, pid.synergistic, pid.total]


def covariance(*weights, noise=1.0, mixing=None):
    """That of sources, mixed from independent ones, and their weighted sum with noise."""
    weights = torch.tensor(weights, dtype=torch.double)
    if mixing is None:
        mixing = torch.eye(len(weights)).double()
    sources = mixing @ mixing.t()
    cross = sources @ weights
    target = weights @ cross + noise**2
    top = torch.cat([sources, cross[:, None]], dim=1)
    return torch.cat([top, torch.cat([cross, target[None]])[None]])


def information(cov, source):
    """From determinants."""
    target = [len(cov) - 1]
    both = [*source, *target]
    dets = [torch.linalg.det(cov[index][:, index]) for index in (source, target, both)]
    return 0.5 * math.log(dets[0] * dets[1] / dets[2])


def test_two_independent_sources():
    # Two equal parts: each tells ln(3/2) / 2 nats, both ln(3) / 2.
    pid = gaussian_pid(covariance(1, 1))
    assert isinstance(pid, PID)
    one, both = 0.5 * math.log(1.5), 0.5 * math.log(3)
    assert flat(pid) == pytest.approx([one, 0, 0, both - one, both])
    in_bits = gaussian_pid(covariance(1, 1), base='bits')
    assert flat(in_bits) == pytest.approx([value / math.log(2) for value in flat(pid)])


def test_blocks_against_determinants():
    for seed in range(5):
        torch.manual_seed(seed)
        mixing = torch.randn(5, 5, dtype=torch.double)
        cov = covariance(*torch.randn(5).tolist(), mixing=mixing)
        pid = gaussian_pid(cov, sizes=(2, 3))
        i1, i2 = information(cov, [0, 1]), information(cov, [2, 3, 4])
        assert pid.total == pytest.approx(information(cov, [0, 1, 2, 3, 4]))
        assert pid.redundant == pytest.approx(min(i1, i2))
        assert pid.informations == pytest.approx((i1, i2))
        assert sum(flat(pid)[:4]) == pytest.approx(pid.total)
        assert min(flat(pid)) >= 0

        order = [2, 3, 4, 0, 1, 5]
        swapped = gaussian_pid(cov[order][:, order], sizes=(3, 2))
        assert flat(swapped) == pytest.approx([flat(pid)[i] for i in (0, 2, 1, 3, 4)])
        scale = torch.rand(6, dtype=torch.double) * 1000 + 1e-3
        scaled = gaussian_pid(cov * scale * scale[:, None], sizes=(2, 3))
        assert flat(scaled) == pytest.approx(flat(pid))


def test_equal_suppressed_and_constant_sources():
    equal = covariance(1, 0, mixing=torch.tensor([[1.0, 0], [1, 0]]).double())
    one = 0.5 * math.log(2)
    assert flat(gaussian_pid(equal)) == pytest.approx([one, 0, 0, 0, one])
    # The second source is the noise of the first: nothing alone, but with it.
    suppressed = covariance(1, -1, mixing=torch.tensor([[1.0, 1], [0, 1]]).double())
    first, both = 0.5 * math.log(2 / 1.5), 0.5 * math.log(2)
    assert flat(gaussian_pid(suppressed)) == pytest.approx([0, first, 0, both - first, both])
    constant = covariance(1, 0, mixing=torch.tensor([[1.0, 0], [0, 0]]).double())
    assert flat(gaussian_pid(constant)) == pytest.approx([0, one, 0, 0, one])
    assert flat(gaussian_pid(torch.eye(3))) == [0, 0, 0, 0, 0]


@pytest.mark.parametrize('weights,mixing', [
    ((0.6, 0.3), [[1, 0], [0, 1]]),
    ((0.5, 0.3), [[1, 0], [0.6, 0.8]]),
])  # fmt: skip
def test_equals_decompose_on_binned_samples(weights, mixing):
    # Stated error: .01 nats, for what 20 bins lose (about 3 % of the information) and for the
    # bias of the sample, cells / 2N = .004.
    cov = covariance(*weights, mixing=torch.tensor(mixing).double())
    num, bins = 1_000_000, 20
    sample = torch.randn(num, 3, dtype=torch.double) @ torch.linalg.cholesky(cov).t()
    binned = torch.empty(num, 3, dtype=torch.long)
    for i, column in enumerate(sample.t()):
        edges = column.sort().values[num // bins :: num // bins][: bins - 1].contiguous()
        binned[:, i] = torch.bucketize(column.contiguous(), edges)
    index = (binned * torch.tensor([bins**2, bins, 1])).sum(dim=1)
    counts = torch.bincount(index, minlength=bins**3).view(bins, bins, bins)
    expected = gaussian_pid(cov)
    assert expected.unique[0] > 0.04 and expected.synergistic > 0.01
    for measure in ('broja', 'mmi'):
        assert flat(decompose(counts, measure)) == pytest.approx(flat(expected), abs=0.01)


def test_errors():
    good = covariance(1, 1)
    with pytest.raises(TypeError, match="'covariance' must be a tensor of real numbers"):
        gaussian_pid([[1.0]])
    with pytest.raises(ValueError, match="'base' must be one of nats, bits"):
        gaussian_pid(good, base='dits')
    with pytest.raises(ValueError, match="'sizes' must be two positive numbers"):
        gaussian_pid(good, sizes=(2, 0))
    with pytest.raises(ValueError, match=r"shape \[4, 4\].*'sizes' \(1, 2\).*\(got \[3, 3\]\)"):
        gaussian_pid(good, sizes=(1, 2))

    def changed(row, column, value):
        cov = good.clone()
        cov[row, column] = value
        return cov

    with pytest.raises(ValueError, match='must be finite'):
        gaussian_pid(changed(0, 1, math.nan))
    with pytest.raises(ValueError, match=r"'covariance' must have variances >= 0 \(got -1\)"):
        gaussian_pid(changed(0, 0, -1))
    with pytest.raises(ValueError, match="'covariance' must have a target that varies"):
        gaussian_pid(changed(2, 2, 0))
    with pytest.raises(ValueError, match='must be symmetric'):
        gaussian_pid(changed(0, 1, 0.5))
    with pytest.raises(ValueError, match='must be symmetric, with zeros in the rows of constant'):
        gaussian_pid(changed(0, 0, 0))
    with pytest.raises(ValueError, match='must be positive semi-definite'):
        gaussian_pid(changed(2, 2, 0.5))
    with pytest.raises(ValueError, match="'covariance' must leave some variance"):
        gaussian_pid(covariance(1, 1, noise=0.0))
