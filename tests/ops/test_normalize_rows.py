import pytest
import torch
import torch.nn.functional as F

from mrdib_pyg.ops import edge_cosine, feature_knn_graph
from mrdib_pyg.ops.rows import normalize_rows


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
