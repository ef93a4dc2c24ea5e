import re
from pathlib import Path

import pytest
import torch

from mrdib_pyg.nn import mutual_information
from mrdib_pyg.nn.mutual_information import MutualInformation
from mrdib_pyg.nn.mutual_information.base import RunningStandardization


def test_every_estimator_is_under_the_contract():
    source = ''.join(path.read_text() for path in Path(__file__).parent.glob('test_*.py'))
    for name in set(mutual_information.__all__) - {'MutualInformation'}:
        assert re.search(rf'class Test{name}\(.*\):\n    cls = {name}\n', source), name


def test_subclass():
    # The defaults make a lower bound of any `forward`.
    class Product(MutualInformation):
        def __init__(self):
            super().__init__(1, 1)
            self.weight = torch.nn.Parameter(torch.tensor(3.0))

        def forward(self, z1, z2):
            return (self.weight * z1 * z2).sum()

    estimator = Product()
    z1, z2 = torch.tensor([[2.0]], requires_grad=True), torch.tensor([[5.0]], requires_grad=True)
    out = estimator.penalty(z1, z2)
    out.backward()
    assert out.item() == 30
    assert [z1.grad.item(), z2.grad.item(), estimator.weight.grad.item()] == [15, 6, -10]
    with pytest.raises(NotImplementedError):
        MutualInformation(1, 1)(z1, z2)


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


@pytest.mark.parametrize('constant', [0.0, 3.7, -1e-3])
def test_a_column_that_does_not_vary_is_left_out(constant):
    module = RunningStandardization(3)
    x = torch.randn(300, 3)
    x[:, 1] = constant
    x.requires_grad_()
    for _ in range(20):
        out = module(x)
    assert out[:, 1].eq(0).all() and out[:, 0].abs().mean() > 0.5
    out.square().sum().backward()
    assert x.grad[:, 1].eq(0).all()


def test_small_rows_in_half_precision():
    module = RunningStandardization(4).half()
    x = torch.randn(64, 4).mul(1e-3).half()
    x[:, 1] = 0
    out = module(x)
    assert out.dtype == torch.float16 and torch.isfinite(out).all()


@pytest.mark.parametrize('value', [float('nan'), float('inf'), 1e30])
def test_a_batch_that_is_not_finite_leaves_the_statistics_alone(value):
    """Such as one that overflowed under a gradient scaler, whose step is skipped."""
    first, x = torch.randn(16, 2), torch.randn(16, 2)
    module, expected = RunningStandardization(2), RunningStandardization(2)
    for y in (first, x):
        expected(y)
    bad = first.clone()
    bad[3, 1] = value
    for y in (bad, first, bad, x):
        module(y)
    for name, buffer in expected.named_buffers():
        assert torch.equal(module.get_buffer(name), buffer)
