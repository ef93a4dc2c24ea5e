import pytest
import torch

from mrdib_pyg.nn.bottleneck import (
    encode_rows,
    encode_rows_reference,
    kl_of_rows,
    kl_of_rows_reference,
)


def make(num_rows=7, in_channels=4, out_channels=4, dtype=torch.float64):
    torch.manual_seed(1)
    x = torch.randn(num_rows, in_channels, dtype=dtype, requires_grad=True)
    weight = torch.randn(2 * out_channels, in_channels, dtype=dtype, requires_grad=True)
    bias = torch.randn(2 * out_channels, dtype=dtype, requires_grad=True)
    noise = torch.randn(num_rows, out_channels, dtype=dtype)
    return x, weight, bias, torch.tensor(-1.0, dtype=dtype), noise


@pytest.mark.parametrize('residual, out_channels', [(0.25, 4), (None, 4), (None, 3)])
@pytest.mark.parametrize('is_stochastic', [True, False])
@pytest.mark.parametrize('used', [(0, 1, 2, 3), (0, 1, 2), (0,), (1,), (2,), (3,), (0, 2), (0, 3)])
@pytest.mark.parametrize('spread', [-3.0, 0.0])  # far below a standard deviation of one, and not
def test_encode_equals_its_reference(residual, out_channels, is_stochastic, used, spread):
    x, weight, bias, log_scale, noise = make(out_channels=out_channels)
    weight = (0.2 * weight).detach().requires_grad_()
    log_scale = log_scale + spread
    noise = noise if is_stochastic else None
    out = encode_rows(x, weight, bias, log_scale, noise, residual)
    assert (out[3] is not None) == is_stochastic
    if not is_stochastic:
        out = (*out[:3], kl_of_rows(*out[1:3]))
    expected = encode_rows_reference(x, weight, bias, log_scale, noise, residual)
    expected = (*expected, kl_of_rows_reference(*expected[1:]))
    for a, b in zip(out, expected):
        torch.testing.assert_close(a, b)
    factors = [torch.randn_like(out[i]) for i in used]
    grads = [
        torch.autograd.grad(
            sum((values[i] * factor).sum() for i, factor in zip(used, factors)), (x, weight, bias)
        )
        for values in (out, expected)
    ]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


def test_gradcheck():
    x, weight, bias, log_scale, noise = make(num_rows=3, in_channels=2, out_channels=2)

    def function(x, weight, bias):
        return encode_rows(x, weight, bias, log_scale, noise, 0.5)

    assert torch.autograd.gradcheck(function, (x, weight, bias))
    assert torch.autograd.gradcheck(kl_of_rows, (x, x.detach().flip(0).requires_grad_()))


def test_clamped_rows_pass_no_gradient_to_their_spread():
    x, weight, bias, _, noise = make()
    with torch.no_grad():
        bias[4:] = torch.tensor([-50.0, 50, 0, 0])
        weight[4:] = 0
    out = encode_rows(x, weight, bias, torch.zeros((), dtype=x.dtype), noise, 0.25)
    assert out[2][:, 0].eq(-10).all() and out[2][:, 1].eq(2).all()
    out[0].sum().backward()
    assert bias.grad[4:6].eq(0).all() and bias.grad[6:].ne(0).all()


def test_a_bound_itself_passes_a_gradient():
    x, weight, bias, _, noise = make()
    with torch.no_grad():
        bias[4:] = torch.tensor([-10.0, 2, 0, -11])
        weight[4:] = 0
    zero = torch.zeros((), dtype=x.dtype)
    grads = []
    for function in (encode_rows, encode_rows_reference):
        out = function(x, weight, bias, zero, noise, 0.25)
        grads.append(torch.autograd.grad((out[0] + out[2]).sum(), bias)[0])
    torch.testing.assert_close(*grads)
    assert grads[0][4:7].ne(0).all() and grads[0][7] == 0


def test_kl_equals_its_reference():
    mu = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    logstd = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    out, expected = kl_of_rows(mu, logstd), kl_of_rows_reference(mu, logstd)
    torch.testing.assert_close(out, expected)
    weight = torch.randn(5, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((out * weight).sum(), (mu, logstd)),
        torch.autograd.grad((expected * weight).sum(), (mu, logstd)),
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('shift', [0.0, -0.4, -0.6, -3.0])
def test_kl_is_exact_in_single_precision(shift):
    logstd = 0.1 * torch.rand(64, 8).neg() + shift
    out = kl_of_rows(torch.zeros_like(logstd), logstd)
    expected = kl_of_rows_reference(torch.zeros_like(logstd).double(), logstd.double())
    torch.testing.assert_close(out.double(), expected, rtol=2e-6, atol=2e-7)


def test_no_rows():
    x, weight, bias, log_scale, noise = make(num_rows=0)
    z, mu, logstd, kl = encode_rows(x, weight, bias, log_scale, noise, 0.25)
    (z.sum() + kl.sum() + kl_of_rows(mu, logstd).sum()).backward()
    assert weight.grad.eq(0).all() and x.grad.shape == (0, 4)


def test_half_precision_leaves_the_kl_to_its_own_function():
    x, weight, bias, log_scale, noise = (t.detach().bfloat16() for t in make())
    assert encode_rows(x, weight, bias, log_scale, noise, 0.25)[3] is None
