import sys

import pytest
import torch
import torch.nn.functional as F

from mrdib_pyg.ops import edge_cosine

# The function hides the module of the same name.
edge_cosine_module = sys.modules['mrdib_pyg.ops.item_graphs']


def test_against_all_pairs(monkeypatch):
    x = torch.randn(9, 5)
    x[4] = 0.0
    edge_index = torch.cartesian_prod(torch.arange(9), torch.arange(9)).t()
    expected = F.normalize(x) @ F.normalize(x).t()
    for budget in (5, 35, 2**22):
        monkeypatch.setattr(edge_cosine_module, '_MAX_GATHERED', budget)
        torch.testing.assert_close(edge_cosine(x, edge_index).view(9, 9), expected)
    assert edge_cosine(x, edge_index[:, :0]).shape == (0,)
    assert edge_cosine(torch.full((2, 3), 0.1), torch.tensor([[0], [1]])) <= 1


def test_both_directions_have_the_same_bits():
    x = torch.randn(50, 33)
    edge_index = torch.randint(50, (2, 400))
    assert torch.equal(edge_cosine(x, edge_index), edge_cosine(x, edge_index.flip(0)))


def test_data_types():
    edge_index = torch.tensor([[0, 1], [1, 2]])
    for dtype in (torch.float16, torch.long):
        assert edge_cosine(torch.ones(3, 4).to(dtype), edge_index).dtype == torch.float32
    assert edge_cosine(torch.ones(3, 4).double(), edge_index).dtype == torch.float64
    x = torch.ones(3, 4, requires_grad=True)
    assert not edge_cosine(x, edge_index).requires_grad


def test_errors():
    with pytest.raises(ValueError, match="'x' must be a matrix"):
        edge_cosine(torch.ones(3), torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"'edge_index' .*\[3\]"):
        edge_cosine(torch.ones(3, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"'edge_index' .*\[0, 3\) \(got 3\)"):
        edge_cosine(torch.ones(3, 2), torch.tensor([[0], [3]]))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_rows_that_are_not_finite_are_refused(value):
    x = torch.tensor([[1.0, 2.0], [value, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match="row 1 of 'x' holds NaN or infinity"):
        edge_cosine(x, torch.tensor([[0], [2]]))
