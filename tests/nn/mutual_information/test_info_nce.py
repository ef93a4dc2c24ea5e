import math

import pytest
import torch

from mrdib_pyg.nn.mutual_information import InfoNCE


def test_independent(read):
    assert abs(read(InfoNCE, 0, num_steps=200, num_test_rows=512)) < 0.1


@pytest.mark.parametrize('nats', [2, 6])
def test_staircase(read, nats):
    # Below both, and not far: the bound that is left loses about a nat near ln N.
    out = read(InfoNCE, nats, num_steps=200, num_test_rows=512)
    limit = min(nats, math.log(512))
    assert 0.7 * limit <= out <= limit + 0.05


@pytest.mark.slow
@pytest.mark.parametrize('nats', [4, 8, 10])
def test_long_staircase(read, nats):
    limit = min(nats, math.log(512))
    out = read(InfoNCE, nats, num_rows=512, num_test_rows=512)
    assert 0.8 * limit <= out <= limit + 0.05


@pytest.mark.parametrize('num_rows', [2, 3, 16])
def test_never_above_log_n(num_rows):
    for scale in (1.0, 100.0):
        estimator = InfoNCE(3, 3)
        with torch.no_grad():
            for param in estimator.parameters():
                param.mul_(scale)
        z = torch.randn(num_rows, 3)
        assert estimator(z, z) <= math.log(num_rows) + 1e-5


def test_bound():
    estimator = InfoNCE(3, 4, hidden_channels=8).double().eval()
    z1, z2 = torch.randn(6, 3).double(), torch.randn(6, 4).double()
    score = estimator.critic.all_pairs(z1, z2)
    rows = [(score[i, i].exp() / score[i].exp().sum()).log() for i in range(6)]
    columns = [(score[i, i].exp() / score[:, i].exp().sum()).log() for i in range(6)]
    expected = math.log(6) + (sum(rows) + sum(columns)) / 12
    torch.testing.assert_close(estimator(z1, z2), expected)
    torch.testing.assert_close(estimator.learning_loss(z1, z2), -expected)
