import pytest
import torch
from estimator_contract import EstimatorContract

from mrdib_pyg.nn.mutual_information import CLUB

# d rho^2 / (1 - rho^2) where the truth is so many nats in 20 coordinates.
OPTIMUM = {2: 4.43, 4: 9.84, 6: 16.44, 8: 24.51, 10: 34.37}


def test_independent(read):
    assert abs(read(CLUB, 0)) < 0.1


@pytest.mark.parametrize('nats', [2, 4, 6, 8, 10])
def test_staircase(read, nats):
    assert read(CLUB, nats) == pytest.approx(OPTIMUM[nats], rel=0.1)


@pytest.fixture
def club():
    club = CLUB(3, 4, hidden_channels=8).double()
    club(torch.randn(16, 3).double() + 1, 2 * torch.randn(16, 4).double())
    return club.eval()


def log_prob(club, z1, z2):
    mu, logstd = club.q(club.norm_1(z1))
    q = torch.distributions.Normal(mu, logstd.exp())
    return lambda z: q.log_prob(club.norm_2(z)).sum(dim=-1)


@pytest.mark.parametrize('num_rows', [2, 5, 64])
def test_equals_all_pairs(club, num_rows):
    z1 = torch.randn(num_rows, 3, dtype=torch.double, requires_grad=True)
    z2 = torch.randn(num_rows, 4, dtype=torch.double, requires_grad=True)
    inputs = [z1, z2, *club.parameters()]
    out = club(z1, z2)

    q = log_prob(club, z1, z2)
    product = torch.stack([q(z2[j]) for j in range(num_rows)])
    expected = q(z2).mean() - product.mean()
    torch.testing.assert_close(out, expected)
    grads = zip(torch.autograd.grad(out, inputs), torch.autograd.grad(expected, inputs))
    for grad, other in grads:
        torch.testing.assert_close(grad, other)


def test_far_from_the_origin():
    # The moments are taken around the mean of the batch: no digits are lost in float32.
    club = CLUB(3, 4).eval()
    z1, z2 = torch.randn(64, 3), torch.randn(64, 4)
    out = club(z1, z2 + 1000)
    torch.testing.assert_close(out, club.double()(z1, z2 + 1000).float(), rtol=1e-3, atol=1e-2)


def test_learning_loss(club):
    z1, z2 = torch.randn(8, 3).double(), torch.randn(8, 4).double()
    torch.testing.assert_close(club.learning_loss(z1, z2), -log_prob(club, z1, z2)(z2).mean())


def test_logstd_is_clamped(club):
    for bias, value in [(100.0, 3.0), (-100.0, -5.0)]:
        torch.nn.init.constant_(club.q.lin_2.bias, bias)
        _, logstd = club.q(torch.randn(8, 3).double())
        assert (logstd == value).all()


class TestCLUB(EstimatorContract):
    cls = CLUB
