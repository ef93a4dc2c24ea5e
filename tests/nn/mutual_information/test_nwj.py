import pytest
import torch

from mrdib_pyg.nn.mutual_information import MINE, NWJ


def test_independent(read):
    assert abs(read(NWJ, 0)) < 0.1


@pytest.mark.parametrize('nats', [2, 6])
def test_staircase(read, nats):
    assert 0.75 * nats <= read(NWJ, nats, num_rows=512) <= nats + 0.2


@pytest.mark.slow
@pytest.mark.parametrize('nats', [4, 8, 10])
def test_long_staircase(read, nats):
    low = 0.75 if nats <= 6 else 0.6  # a batch of 512 rows hardly ever shows the tail beyond
    assert low * nats <= read(NWJ, nats, num_rows=512) <= nats + 0.2


def test_bound(gaussian_pair):
    nwj, (z1, z2) = NWJ(20, 20).double().eval(), gaussian_pair(32, 4, dtype=torch.double)
    joint, product = nwj.critic(z1, z2, 7)
    expected = 1 + joint.mean() - product.exp().mean()
    torch.testing.assert_close(nwj(z1, z2), expected)
    # Tangent to the bound of Donsker and Varadhan, hence below it for the same critic.
    mine = MINE(20, 20).double().eval()
    mine.critic.load_state_dict(nwj.critic.state_dict())
    assert nwj(z1, z2) < mine(z1, z2)


def test_errors():
    with pytest.raises(ValueError, match=r"'num_derangements' must be positive \(got 0\)"):
        NWJ(3, 4, num_derangements=0)
