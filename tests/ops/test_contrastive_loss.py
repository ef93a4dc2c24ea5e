import sys

import pytest
import torch
import torch.nn.functional as F

from mrdib_pyg.ops._contrastive_loss import contrastive_loss

contrastive_loss_module = sys.modules['mrdib_pyg.ops._contrastive_loss']


def example(dtype=torch.float64):
    """Pairs with repeats; a candidate and an anchor that none names."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 4, generator=generator, dtype=dtype, requires_grad=True)
    y = torch.randn(5, 4, generator=generator, dtype=dtype, requires_grad=True)
    return x, y, torch.tensor([0, 1, 1, 4, 5, 5, 5]), torch.tensor([0, 0, 1, 1, 3, 3, 4])


def naive(x, y, i, j, temperature):
    return F.cross_entropy(x[i] @ y[j].t() / temperature, torch.arange(i.numel()))


@pytest.mark.parametrize('budget', [1, 10, 2**18])
@pytest.mark.parametrize('temperature', [0.2, 1.0])
def test_against_cross_entropy(budget, temperature, monkeypatch):
    monkeypatch.setattr(contrastive_loss_module, '_MAX_SCORES', budget)
    x, y, i, j = example()
    loss, expected = contrastive_loss(x, y, i, j, temperature), naive(x, y, i, j, temperature)
    torch.testing.assert_close(loss, expected)
    for actual, wanted in zip(
        torch.autograd.grad(3 * loss, (x, y)), torch.autograd.grad(3 * expected, (x, y))
    ):
        torch.testing.assert_close(actual, wanted)


def test_gradcheck():
    x, y, i, j = example()
    assert torch.autograd.gradcheck(lambda x, y: contrastive_loss(x, y, i, j, 0.5), (x, y))
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, y.detach(), i, j, 0.5), x)


def test_the_same_tensor_on_both_sides():
    x, _, i, _ = example()
    torch.testing.assert_close(contrastive_loss(x, x, i, i, 0.2), naive(x, x, i, i, 0.2))


def test_large_scores_do_not_overflow():
    x, y, i, j = example(torch.float32)
    loss = contrastive_loss(x, y, i, j, 1e-4)
    torch.testing.assert_close(loss, naive(x, y, i, j, 1e-4))
    loss.backward()
    assert x.grad.isfinite().all() and y.grad.isfinite().all()


def test_similarities_never_exist_as_a_whole():
    x = torch.randn(2000, 4, requires_grad=True)
    index = torch.arange(2000)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], id):
        contrastive_loss(x, x, index, index)
    assert max(saved) <= 2000 * 4


def test_without_gradients():
    x, y, i, j = example()
    with torch.no_grad():
        assert not contrastive_loss(x, y, i, j).requires_grad


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('nan')])
def test_errors(temperature):
    with pytest.raises(ValueError, match="'temperature' must be positive"):
        contrastive_loss(*example(), temperature)


@pytest.mark.parametrize('dtypes', [(torch.bfloat16, torch.float32), (torch.float16,) * 2])
def test_half_precision_is_computed_in_single(dtypes):
    x, y, i, j = example(torch.float32)
    x, y = x.detach().to(dtypes[0]), y.detach().to(dtypes[1])
    loss = contrastive_loss(x, y, i, j)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, naive(x.float(), y.float(), i, j, 1.0))


def test_autocast_does_not_reach_it():
    x, y, i, j = example(torch.float32)
    expected = contrastive_loss(x, y, i, j)
    with torch.autocast('cpu', torch.bfloat16):
        loss = contrastive_loss(x, y, i, j)
    assert torch.equal(loss, expected)
    loss.backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize('lengths', [(1, 4), (4, 1), (3, 4)])
def test_indices_of_other_lengths_are_refused(lengths):
    x, y, i, j = example()
    with pytest.raises(ValueError, match="'anchor_index' and 'candidate_index' must be"):
        contrastive_loss(x, y, i[: lengths[0]], j[: lengths[1]])
