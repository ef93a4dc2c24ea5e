import pytest
import torch

from mrdib_pyg.nn.mutual_information.running_standardization import RunningStandardization


def test_running_standardization():
    module = RunningStandardization(3).double()
    assert str(module) == 'RunningStandardization(3)'
    x = 0.02 * torch.randn(64, 3, dtype=torch.double) + 5
    assert torch.allclose(module.eval()(x), x)  # nothing seen yet

    out = module.train()(x)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(out.var(dim=0, correction=0), torch.ones(3).double())
    assert torch.equal(module.eval()(x), out)

    module.reset_parameters()
    assert torch.allclose(module(x), x)


def test_equal_weights_then_momentum():
    module = RunningStandardization(1, momentum=0.25)
    for value in (1.0, 2.0, 6.0, 7.0):
        module(torch.full((4, 1), value))
    assert module.mean.item() == pytest.approx(4.0)
    module(torch.full((4, 1), 8.0))
    assert module.mean.item() == pytest.approx(5.0)


def test_rows_are_independent():
    # Constants to the gradient: an output row knows nothing of the others.
    module = RunningStandardization(2)
    x = torch.randn(8, 2, requires_grad=True)
    module(x)[3].sum().backward()
    assert x.grad[3].abs().min() > 0
    assert x.grad.abs().sum() == x.grad[3].abs().sum()


def test_constant_columns_and_single_rows():
    module = RunningStandardization(2)
    x = torch.tensor([[3.0, 1.0], [3.0, 2.0]])
    assert torch.isfinite(module(x)).all() and module(x)[:, 0].abs().max() == 0
    mean = module.mean.clone()
    module(x[:1])
    module(x[:0])
    assert torch.equal(module.mean, mean)
