import sys

import pytest
import torch
import torch.nn.functional as F

from mrdib_pyg.ops import linear_rows

linear_rows_module = sys.modules['mrdib_pyg.ops.rows']


@pytest.mark.parametrize('budget', [1, 12, 2**18])
@pytest.mark.parametrize('trainable', [False, True])
def test_against_linear(budget, trainable, monkeypatch):
    monkeypatch.setattr(linear_rows_module, '_MAX_GATHERED', budget)
    x = torch.randn(8, 4, dtype=torch.float64, requires_grad=trainable)
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([5, 0, 5, 7, 2])  # any order, and with repeats
    out, expected = linear_rows(x, rows, weight), F.linear(x[rows], weight)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    inputs = (weight, x) if trainable else (weight,)
    for actual, wanted in zip(
        torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad)
    ):
        torch.testing.assert_close(actual, wanted)


def test_gradcheck():
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([1, 5, 1])
    assert torch.autograd.gradcheck(lambda x, weight: linear_rows(x, rows, weight), (x, weight))
    frozen = x.detach()
    assert torch.autograd.gradcheck(lambda weight: linear_rows(frozen, rows, weight), weight)


def test_no_rows():
    weight = torch.randn(3, 4, requires_grad=True)
    out = linear_rows(torch.randn(5, 4), torch.empty(0, dtype=torch.long), weight)
    assert out.shape == (0, 3)
    out.sum().backward()
    assert (weight.grad == 0).all()


def test_autocast():
    x, weight, rows = torch.randn(5, 4), torch.randn(3, 4, requires_grad=True), torch.tensor([0, 3])
    with torch.autocast('cpu', torch.bfloat16):
        out = linear_rows(x.bfloat16(), rows, weight)
        assert torch.equal(out, F.linear(x[rows].bfloat16(), weight))
    out.sum().backward()
    assert weight.grad.dtype == torch.float32
