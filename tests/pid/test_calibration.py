import torch

from mrdib_pyg.pid.sources import Calibration


def test_recovers_log_odds():
    x = torch.randn(20_000, 1).double()
    odds = 1.5 * x[:, 0]
    y = (torch.rand(20_000) < odds.sigmoid()).long()
    found = Calibration(x, y)(x)
    near = x[:, 0].abs() < 2
    assert float((found - odds)[near].abs().max()) < 0.35
    # And what is no line.
    y = (torch.rand(20_000) < (2 * x[:, 0].square() - 2).sigmoid()).long()
    found = Calibration(x, y)(torch.tensor([[0.0], [1.5], [-1.5]]))
    assert found[0] < -1.5 and found[1] > 1.5 and found[2] > 1.5


def test_products_of_two_numbers():
    x = torch.randn(20_000, 2).double()
    y = (x[:, 0] * x[:, 1] > 0).long()
    found = Calibration(x, y, products=True)(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    assert found[0] > 1 and found[1] < -1


def test_constant_and_extreme_numbers():
    x = torch.stack([torch.randn(500), torch.full((500,), 3.0)], dim=-1)
    y = (x[:, 0] > 0).long()
    calibration = Calibration(x, y)
    assert calibration(torch.tensor([[1e30, 3.0], [0.0, 1e30]])).isfinite().all()
