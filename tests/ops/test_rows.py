import sys

import pytest
import torch
import torch.nn.functional as F

from mrdib_pyg.ops import feature_knn_graph
from mrdib_pyg.ops.item_graphs import edge_cosine
from mrdib_pyg.ops.rows import linear_rows, normalize_rows

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


@pytest.mark.parametrize('scale', [1.0, 1e-13, 1e-30, 1e20, 1e37])
def test_any_scale(scale):
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.9]])
    expected = F.normalize(x.double(), dim=-1)
    assert torch.allclose(normalize_rows(scale * x).double(), expected, atol=1e-6)
    # Rows of several scales in one table, a row of zeros among them.
    mixed = torch.cat([x, scale * x, torch.zeros(1, 2)])
    expected = torch.cat([expected, expected, torch.zeros(1, 2, dtype=torch.double)])
    assert torch.allclose(normalize_rows(mixed).double(), expected, atol=1e-6)
    edge_index, weight = feature_knn_graph(scale * x, 2)
    assert edge_index[1].tolist() == [0, 2, 1, 2, 2, 0]
    assert weight[1] == pytest.approx(0.999783, abs=1e-5)
    cosine = edge_cosine(scale * x, torch.tensor([[0], [2]]))
    assert cosine.item() == pytest.approx(0.999783, abs=1e-5)


def test_usual_scales_give_the_bits_of_torch():
    x = torch.randn(50, 7)
    assert torch.equal(normalize_rows(x), F.normalize(x, dim=-1))


@pytest.mark.parametrize('size', [(0, 3), (3, 0)])
def test_empty(size):
    assert normalize_rows(torch.empty(size)).shape == size
