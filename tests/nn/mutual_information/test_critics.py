import copy
import math

import pytest
import torch
from estimator_contract import EstimatorContract

from mrdib_pyg.nn.mutual_information import MINE, NWJ, InfoNCE
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


def test_scores_under_autocast_are_of_full_precision():
    """Of the encodings, which may be rounded, no product is: both paths give one score."""
    critic = Critic(16, 16, hidden_channels=64).eval()
    z = 5 * torch.randn(32, 16)
    with torch.autocast('cpu', torch.bfloat16):
        joint, product = critic(z, z, 31)
        every = critic.all_pairs(z, z)
    assert joint.dtype == product.dtype == every.dtype == torch.float32
    torch.testing.assert_close(every.diagonal(), joint, rtol=1e-5, atol=1e-4)
    rest = every[~torch.eye(32, dtype=torch.bool)].sort().values
    torch.testing.assert_close(product.sort().values, rest, rtol=1e-5, atol=1e-4)


class OfDerangements(EstimatorContract):
    """Bounds whose product of the marginals is sampled by derangements."""

    is_bound = True

    def test_independent(self, read):
        assert abs(read(self.cls, 0)) < 0.1

    @pytest.mark.parametrize('nats', [2, 6])
    def test_staircase(self, read, nats):
        assert 0.75 * nats <= read(self.cls, nats, num_rows=512) <= nats + 0.2

    @pytest.mark.slow
    @pytest.mark.parametrize('nats', [4, 8, 10])
    def test_long_staircase(self, read, nats):
        low = 0.75 if nats <= 6 else 0.6  # a batch of 512 rows hardly ever shows the tail beyond
        assert low * nats <= read(self.cls, nats, num_rows=512) <= nats + 0.2

    def test_refuses_no_derangement(self):
        with pytest.raises(ValueError, match=r"'num_derangements' .* \(got 0\)"):
            self.cls(3, 4, num_derangements=0)


class TestMINE(OfDerangements):
    cls = MINE

    def test_bound(self, gaussian_pair):
        mine, (z1, z2) = MINE(20, 20).double().eval(), gaussian_pair(32, 4, dtype=torch.double)
        joint, product = mine.critic(z1, z2, 7)
        expected = joint.mean() - product.exp().mean().log()
        torch.testing.assert_close(mine(z1, z2), expected)
        torch.testing.assert_close(mine.learning_loss(z1, z2), -expected)

    def test_moving_average_corrects_the_gradient(self, gaussian_pair):
        mine = MINE(20, 20, momentum=0.25).double()
        average, params = None, list(mine.parameters())
        for i in range(6):
            z1, z2 = gaussian_pair(32, 6, dtype=torch.double)
            plain = copy.deepcopy(mine)
            torch.manual_seed(i)
            out = mine(z1, z2)
            torch.manual_seed(i)
            joint, product = plain.critic(z1, z2, 7)

            mean = product.exp().mean()
            weight = max(1 / (i + 1), 0.25)
            average = mean.item() if i == 0 else (1 - weight) * average + weight * mean.item()
            assert mine.log_average.item() == pytest.approx(math.log(average))
            torch.testing.assert_close(out, joint.mean() - mean.log())
            expected = torch.autograd.grad(joint.mean() - mean / average, list(plain.parameters()))
            for grad, other in zip(torch.autograd.grad(out, params), expected):
                torch.testing.assert_close(grad, other)

        state = mine.log_average.clone(), mine.num_batches.clone()
        mine.eval()(z1, z2)
        assert torch.equal(mine.log_average, state[0]) and torch.equal(mine.num_batches, state[1])
        assert mine.num_batches == 6
        mine.reset_parameters()
        assert mine.log_average.item() == 0 and mine.num_batches == 0

    def test_large_scores(self, gaussian_pair):
        # The bound does not know the offset of the critic, whose exponential overflows here.
        mine, codes = MINE(20, 20), gaussian_pair(64, 2)
        shifted = copy.deepcopy(mine)
        with torch.no_grad():
            shifted.critic.encoder_1.lin_2.bias[-1] += 1000
        for _ in range(2):
            outs = []
            for model in (mine, shifted):
                torch.manual_seed(0)
                outs.append(model(*codes))
                model.zero_grad()
                outs[-1].backward()
            torch.testing.assert_close(outs[0], outs[1], rtol=1e-3, atol=1e-3)
            assert all(torch.isfinite(param.grad).all() for param in shifted.parameters())

    def test_refuses_a_momentum_of_zero(self):
        with pytest.raises(ValueError, match=r"'momentum' must be in \(0, 1\] \(got 0.0\)"):
            MINE(3, 4, momentum=0.0)

    def test_a_batch_that_is_not_finite_leaves_no_trace(self):
        z1, z2 = torch.randn(2, 32, 4)
        mine = MINE(4, 4, 8)
        mine(z1, z2)
        before = {name: x.clone() for name, x in mine.named_buffers()}
        bad = z1.clone()
        bad[0, 0] = float('nan')
        assert mine(bad, z2).isnan()
        for name, x in mine.named_buffers():  # but what the other code says of itself
            assert x.isfinite().all() if 'encoder_2' in name else torch.equal(x, before[name])
        assert mine(z1, z2).isfinite()


class TestNWJ(OfDerangements):
    cls = NWJ

    def test_bound(self, gaussian_pair):
        nwj, (z1, z2) = NWJ(20, 20).double().eval(), gaussian_pair(32, 4, dtype=torch.double)
        joint, product = nwj.critic(z1, z2, 7)
        expected = 1 + joint.mean() - product.exp().mean()
        torch.testing.assert_close(nwj(z1, z2), expected)
        # Tangent to the bound of Donsker and Varadhan, hence below it for the same critic.
        mine = MINE(20, 20).double().eval()
        mine.critic.load_state_dict(nwj.critic.state_dict())
        assert nwj(z1, z2) < mine(z1, z2)


class TestInfoNCE(EstimatorContract):
    cls = InfoNCE
    is_bound = True

    def test_independent(self, read):
        assert abs(read(InfoNCE, 0, num_steps=200, num_test_rows=512)) < 0.1

    @pytest.mark.parametrize('nats', [2, 6])
    def test_staircase(self, read, nats):
        # Below both, and not far: the bound that is left loses about a nat near ln N.
        out = read(InfoNCE, nats, num_steps=200, num_test_rows=512)
        limit = min(nats, math.log(512))
        assert 0.7 * limit <= out <= limit + 0.05

    @pytest.mark.slow
    @pytest.mark.parametrize('nats', [4, 8, 10])
    def test_long_staircase(self, read, nats):
        limit = min(nats, math.log(512))
        out = read(InfoNCE, nats, num_rows=512, num_test_rows=512)
        assert 0.8 * limit <= out <= limit + 0.05

    @pytest.mark.parametrize('num_rows', [2, 3, 16])
    def test_never_above_log_n(self, num_rows):
        for scale in (1.0, 100.0):
            estimator = InfoNCE(3, 3)
            with torch.no_grad():
                for param in estimator.parameters():
                    param.mul_(scale)
            z = torch.randn(num_rows, 3)
            assert estimator(z, z) <= math.log(num_rows) + 1e-5

    def test_bound(self):
        estimator = InfoNCE(3, 4, hidden_channels=8).double().eval()
        z1, z2 = torch.randn(6, 3).double(), torch.randn(6, 4).double()
        score = estimator.critic.all_pairs(z1, z2)
        rows = [(score[i, i].exp() / score[i].exp().sum()).log() for i in range(6)]
        columns = [(score[i, i].exp() / score[:, i].exp().sum()).log() for i in range(6)]
        expected = math.log(6) + (sum(rows) + sum(columns)) / 12
        torch.testing.assert_close(estimator(z1, z2), expected)
        torch.testing.assert_close(estimator.learning_loss(z1, z2), -expected)
