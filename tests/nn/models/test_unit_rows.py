import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mrdib_pyg.nn.models.features import unit_rows


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_equals_normalize(dtype):
    x = torch.randn(5, 3, dtype=dtype, requires_grad=True)
    weight = torch.randn_like(x)
    torch.testing.assert_close(unit_rows(x), F.normalize(x, dim=-1))
    expected = torch.autograd.grad((F.normalize(x, dim=-1) * weight).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad((unit_rows(x) * weight).sum(), x)[0], expected)


def test_gradient():
    assert gradcheck(unit_rows, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))


def test_zero_rows_stay_and_pass_nothing_on():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    out = unit_rows(x)
    torch.testing.assert_close(out, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    grad = torch.autograd.grad(out.sum(), x)[0]
    assert torch.equal(grad[0], torch.zeros(2)) and torch.isfinite(grad).all()
    assert unit_rows(torch.empty(0, 2)).shape == (0, 2)
