import math

import pytest
import torch
from estimator_contract import EstimatorContract

from mrdib_pyg.nn.mutual_information import Gaussian


@pytest.mark.parametrize('nats', [2, 4, 6, 8, 10])
def test_staircase(gaussian_pair, nats):
    assert Gaussian(20, 20)(*gaussian_pair(4096, nats)).item() == pytest.approx(nats, rel=0.05)


@pytest.mark.parametrize(('num_rows', 'channels'), [(2048, 64), (512, 64), (258, 64), (50, 8)])
def test_unbiased_on_independent_codes(num_rows, channels):
    gaussian = Gaussian(channels, channels)
    outs = torch.stack([gaussian(*torch.randn(2, num_rows, channels)) for _ in range(40)])
    assert abs(outs.mean()) < 4 * outs.std() / math.sqrt(40) < 0.2
    if num_rows == 2048:  # each of them, too
        assert outs.abs().max() < 0.15


@pytest.mark.parametrize('num_rows', [81, 100, 512])
def test_unbiased_on_dependent_codes(gaussian_pair, num_rows):
    gaussian = Gaussian(20, 20)
    outs = torch.stack([gaussian(*gaussian_pair(num_rows, 6)) for _ in range(200)])
    assert abs(outs.mean() - 6) < 4 * outs.std() / math.sqrt(200) < 0.5


@pytest.mark.parametrize(('c1', 'c2'), [(1, 1), (3, 5), (5, 3)])
def test_closed_form(c1, c2):
    # With a vanishing ridge: the plain estimate less the bias that Wishart matrices are known for.
    z1, n = torch.randn(200, c1, dtype=torch.double), 199
    z2 = z1 @ torch.randn(c1, c2, dtype=torch.double) + torch.randn(200, c2, dtype=torch.double)
    cov = torch.cov(torch.cat([z1, z2], dim=1).t())
    plain = cov[:c1, :c1].logdet() + cov[c1:, c1:].logdet() - cov.logdet()

    def bias(c):
        psi = [torch.digamma(torch.tensor((n - i) / 2).double()) for i in range(c)]
        return sum(psi) - c * math.log(n / 2)

    expected = 0.5 * (plain - bias(c1) - bias(c2) + bias(c1 + c2))
    out = Gaussian(c1, c2, ridge=1e-12)(z1, z2)
    torch.testing.assert_close(out, expected, rtol=1e-8, atol=1e-8)


def test_invariance(gaussian_pair):
    # Linear maps of either code, and exchanging them, change nothing.
    z1, z2 = gaussian_pair(256, 4, dtype=torch.double)
    gaussian = Gaussian(20, 20, ridge=1e-10)
    out = gaussian(z1, z2)
    torch.testing.assert_close(gaussian(z2, z1), out)
    torch.testing.assert_close(gaussian(1e-3 * z1 + 7, -50 * z2 - 9), out)
    matrix = torch.randn(20, 20, dtype=torch.double)
    torch.testing.assert_close(gaussian(z1 @ matrix, z2), out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('num_rows', [64, 20, 9])
def test_gradcheck(num_rows):
    z1 = torch.randn(num_rows, 3, dtype=torch.double, requires_grad=True)
    z2 = torch.randn(num_rows, 4, dtype=torch.double) + 0.5 * z1[:, :1].detach()
    z2.requires_grad_()
    if num_rows == 64:
        assert torch.autograd.gradcheck(Gaussian(3, 4), (z1, z2))
    else:  # the intensity of the shrinkage is a constant: finite, and of the right sign
        before = Gaussian(3, 4)(z1, z2)
        grads = torch.autograd.grad(before, (z1, z2))
        after = Gaussian(3, 4)(z1 - 0.01 * grads[0], z2 - 0.01 * grads[1])
        assert after < before or before.abs() < 1e-12


def test_constant_columns(gaussian_pair):
    # They are left out, of the correction as well.
    z1, z2 = gaussian_pair(128, 4, dtype=torch.double)
    constant = torch.full((128, 1), 0.1, dtype=torch.double)
    wide = [torch.cat([z, constant, 3 * constant], dim=1).requires_grad_() for z in (z1, z2)]
    out = Gaussian(22, 22)(*wide)
    torch.testing.assert_close(out, Gaussian(20, 20)(z1, z2))
    out.backward()
    assert all(torch.isfinite(z.grad).all() for z in wide)

    all_constant = torch.ones(64, 3, requires_grad=True)
    out = Gaussian(3, 4)(all_constant, torch.randn(64, 4))
    out.backward()
    assert abs(out) < 1e-4 and torch.isfinite(all_constant.grad).all()


@pytest.mark.parametrize('num_rows', [10, 64, 1024])
def test_equal_codes(num_rows):
    # Infinite in truth; here the ridge is the limit.
    z1 = torch.randn(num_rows, 8, requires_grad=True)
    out = Gaussian(8, 8)(z1, z1.clone())
    out.backward()
    assert torch.isfinite(z1.grad).all()
    if num_rows == 1024:
        assert 30 < out <= 8 * -0.5 * math.log(2e-5) + 1
    # Linearly dependent coordinates of one code alone are no information.
    z1, z2 = torch.randn(1024, 4), torch.randn(1024, 4)
    out = Gaussian(8, 4)(torch.cat([z1, z1], dim=1), z2)
    assert abs(out) < 0.1


@pytest.mark.parametrize('num_rows', [2, 3, 8, 32, 60, 80])
def test_shrinkage(gaussian_pair, num_rows):
    gaussian = Gaussian(20, 20)
    independent, dependent = [
        torch.stack([gaussian(*gaussian_pair(num_rows, nats)) for _ in range(40)]).mean()
        for nats in (0, 6)
    ]
    assert abs(independent) < 0.1
    assert -1e-5 <= dependent < 6
    if num_rows >= 32:
        assert dependent > 0.3


def test_not_finite():
    # Whoever watches the loss is to see it: no error from inside a decomposition.
    for num_rows in (8, 64):
        z1 = torch.randn(num_rows, 3)
        z1[2, 1] = torch.nan
        assert not torch.isfinite(Gaussian(3, 4)(z1, torch.randn(num_rows, 4)))


def test_no_parameters():
    gaussian = Gaussian(3, 4)
    assert not list(gaussian.parameters()) and not gaussian.state_dict()
    assert gaussian.learning_loss(torch.randn(8, 3), torch.randn(8, 4)) == 0
    with pytest.raises(ValueError, match=r"'ridge' must be positive \(got 0.0\)"):
        Gaussian(3, 4, ridge=0.0)


class TestGaussian(EstimatorContract):
    cls = Gaussian
