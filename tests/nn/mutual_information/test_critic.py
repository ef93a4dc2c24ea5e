import math

import pytest
import torch

from mrdib_pyg.nn.mutual_information.critics import Critic


@pytest.fixture
def distance():
    r"""A critic whose score is zero for equal rows and negative for all others."""
    critic = Critic(3, 3, hidden_channels=8).double()
    for module in (critic.encoder_1, critic.encoder_2):
        torch.nn.init.zeros_(module.lin_2.weight)
        torch.nn.init.zeros_(module.lin_2.bias)
    critic.encoder_2.load_state_dict(critic.encoder_1.state_dict())
    return critic


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('num_rows', [2, 3, 4, 5, 8, 33])
@pytest.mark.parametrize('num_derangements', [1, 4])
def test_product_is_derangement(distance, training, num_rows, num_derangements):
    distance.train(training)
    z = torch.randn(num_rows, 3, dtype=torch.double)
    for _ in range(20):
        joint, product = distance(z, z, num_derangements)
        assert joint.abs().max() < 1e-12
        num_blocks = max(num_rows // (num_derangements + 1), 1)
        size = num_rows // num_blocks
        assert product.size() == (num_blocks * size * (size - 1),)
        assert min(num_derangements, num_rows - 1) <= size - 1 <= 2 * num_derangements
        assert product.max() < -1e-6
        # No pair is used twice but for its mirror image.
        scores = product.sort().values
        if num_rows == 33:
            assert scores[::2].diff().min() > 1e-12
        pairs = distance.all_pairs(z, z).flatten()
        assert (scores.unsqueeze(1) - pairs).abs().min(dim=1).values.max() < 1e-9


def test_derangements_are_redrawn(distance):
    z = torch.randn(16, 3, dtype=torch.double)
    first, second = [distance(z, z, 1)[1].sort().values for _ in range(2)]
    assert not torch.allclose(first, second)
    distance.eval()
    first, second = [distance(z, z, 1)[1] for _ in range(2)]
    assert torch.equal(first, second)


def test_scores():
    # Against the formula of the docstring, pair by pair.
    critic = Critic(3, 4, hidden_channels=8).double().eval()
    z1, z2 = torch.randn(6, 3).double(), torch.randn(6, 4).double()
    (g1, a), (g2, b) = critic.encoder_1(z1), critic.encoder_2(z2)
    expected = torch.empty(6, 6).double()
    for i in range(6):
        for j in range(6):
            distance = (g1[i] - g2[j]).square().sum()
            expected[i, j] = a[i] + b[j] - distance / (2 * math.sqrt(8))
    torch.testing.assert_close(critic.all_pairs(z1, z2), expected)
    joint, product = critic(z1, z2, 5)
    torch.testing.assert_close(joint, expected.diagonal())
    rest = expected[~torch.eye(6, dtype=torch.bool)]
    torch.testing.assert_close(product.flatten().sort().values, rest.sort().values)
