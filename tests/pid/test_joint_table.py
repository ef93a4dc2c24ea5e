import torch

from mrdib_pyg.pid._decompose import choose_bins, joint_table, quantile_bins, user_weights


def test_bins_hold_equally_many():
    bins = quantile_bins(torch.randn(1200).double(), 12)
    assert torch.bincount(bins).tolist() == [100] * 12
    score = torch.tensor([0.0] * 90 + [1.0] * 10)
    assert torch.unique(quantile_bins(score, 12)).numel() == 2  # equal scores share a bin
    assert quantile_bins(torch.zeros(5), 12).unique().numel() == 1


def test_number_of_bins_keeps_the_bias_small():
    for n in (50, 400, 3000, 100_000):
        bins = choose_bins(n)
        assert 2 <= bins <= 12 and (bins == 2 or bins**2 / (2 * n) <= 0.01)
    assert choose_bins(100_000) == 12 and choose_bins(100_000, 5) == 5


def test_tables_against_counting():
    user = torch.tensor([3, 3, 8, 8, 1, 1])
    x, y = torch.tensor([0, 1, 1, 2, 2, 0]), torch.tensor([0, 1, 0, 1, 0, 1])
    weights = user_weights(user, 20, seed=1)
    assert torch.equal(weights[0], torch.ones(6).double())
    assert torch.equal(weights.sum(dim=1), torch.full((21,), 6.0).double())
    for a, b in ((0, 1), (2, 3), (4, 5)):  # a user is drawn as a whole
        assert torch.equal(weights[:, a], weights[:, b])
    assert torch.equal(weights, user_weights(user, 20, seed=1))
    table = joint_table(weights, x, y)
    for r in range(21):
        expected = torch.zeros(3, 2).double()
        for i in range(6):
            expected[x[i], y[i]] += weights[r, i] / 6
        assert torch.allclose(table[r], expected)
