import copy
import math

import pytest
import torch

from mrdib_pyg.nn.mutual_information import MINE


def test_independent(read):
    assert abs(read(MINE, 0)) < 0.1


@pytest.mark.parametrize('nats', [2, 6])
def test_staircase(read, nats):
    assert 0.75 * nats <= read(MINE, nats, num_rows=512) <= nats + 0.2


@pytest.mark.slow
@pytest.mark.parametrize('nats', [4, 8, 10])
def test_long_staircase(read, nats):
    low = 0.75 if nats <= 6 else 0.6  # a batch of 512 rows hardly ever shows the tail beyond
    assert low * nats <= read(MINE, nats, num_rows=512) <= nats + 0.2


def test_bound(gaussian_pair):
    mine, (z1, z2) = MINE(20, 20).double().eval(), gaussian_pair(32, 4, dtype=torch.double)
    joint, product = mine.critic(z1, z2, 7)
    expected = joint.mean() - product.exp().mean().log()
    torch.testing.assert_close(mine(z1, z2), expected)
    torch.testing.assert_close(mine.learning_loss(z1, z2), -expected)


def test_moving_average_corrects_the_gradient(gaussian_pair):
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


def test_large_scores(gaussian_pair):
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


def test_errors():
    with pytest.raises(ValueError, match=r"'num_derangements' must be positive \(got 0\)"):
        MINE(3, 4, num_derangements=0)
    with pytest.raises(ValueError, match=r"'momentum' must be in \(0, 1\] \(got 0.0\)"):
        MINE(3, 4, momentum=0.0)


def test_a_batch_that_is_not_finite_leaves_no_trace():
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
