import copy
import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from mrdib_pyg.nn import Posterior, VariationalBottleneck
from mrdib_pyg.nn.bottleneck import (
    MAX_LOGSTD,
    MIN_LOGSTD,
    EncodedPosterior,
    encode,
    encode_rows,
    encode_rows_reference,
    kl_of_rows,
    kl_of_rows_reference,
    product_of_experts,
    rate_of,
)


def random_posterior(num_rows=6, channels=4, dtype=torch.float64):
    mu, logstd = torch.randn(2, num_rows, channels, dtype=dtype)
    return Posterior(mu, mu, logstd)


def logstd_of(bottleneck, x):
    return bottleneck(x).logstd


# -- Posterior ---------------------------------------------------------------------------------


def test_kl_equals_that_of_distributions():
    _, mu, logstd = random_posterior()
    q = Independent(Normal(mu, logstd.exp()), 1)
    p = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    torch.testing.assert_close(Posterior(mu, mu, logstd).kl(), kl_divergence(q, p))


def test_kl_is_of_mu_not_of_the_sample():
    _, mu, logstd = random_posterior()
    assert torch.equal(Posterior(mu + 1, mu, logstd).kl(), Posterior(mu, mu, logstd).kl())


def test_kl_is_zero_only_at_the_prior():
    zero = torch.zeros(3, 4)
    assert Posterior(zero, zero, zero).kl().tolist() == [0.0] * 3
    assert (Posterior(zero, zero, zero + 1e-3).kl() > 0).all()


def test_kl_keeps_small_rates_in_single_precision():
    # Near the prior the rate is logstd ** 2 for each dimension; 1 + x - 1 would round it away.
    zero, logstd = torch.zeros(1, 1), torch.full((1, 1), 1e-3)
    exact = Posterior(zero.double(), zero.double(), logstd.double()).kl()
    torch.testing.assert_close(Posterior(zero, zero, logstd).kl().double(), exact, rtol=0.1, atol=0)


def test_kl_of_a_deterministic_code_is_zero():
    x = torch.randn(3, 4)
    assert Posterior(x, x).kl().tolist() == [0.0] * 3


def test_kl_gradcheck():
    _, mu, logstd = random_posterior()
    inputs = (mu.requires_grad_(), logstd.requires_grad_())
    assert torch.autograd.gradcheck(lambda mu, logstd: Posterior(mu, mu, logstd).kl(), inputs)


def test_kl_of_low_precision_is_summed_in_single_precision():
    _, mu, logstd = random_posterior(channels=64, dtype=torch.float32)
    mu, logstd = mu.bfloat16(), logstd.bfloat16()
    kl = Posterior(mu, mu, logstd).kl()
    assert kl.dtype == torch.float32
    exact = Posterior(mu.double(), mu.double(), logstd.double()).kl()
    torch.testing.assert_close(kl.double(), exact, rtol=1e-5, atol=0)


# -- VariationalBottleneck ---------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_fresh_bottleneck_returns_its_input(dtype):
    bottleneck = VariationalBottleneck(8).to(dtype).eval()
    x = torch.randn(5, 8, dtype=dtype)
    out = bottleneck(x)
    assert torch.equal(out.z, x)
    assert torch.equal(out.mu, x)
    assert out.z.dtype == out.logstd.dtype == dtype


def test_another_width_has_no_residual():
    bottleneck = VariationalBottleneck(8, 3).eval()
    x = torch.randn(5, 8)
    out = bottleneck(x)
    assert out.z.shape == out.mu.shape == out.logstd.shape == (5, 3)
    torch.testing.assert_close(out.mu, x @ bottleneck.lin.weight[:3].t())
    assert out.mu.abs().sum() > 0


def test_noise_starts_at_a_tenth_of_the_first_input_in_training():
    bottleneck = VariationalBottleneck(8)
    x = 0.02 * torch.randn(50, 8)
    expected = math.log(0.1 * float(x.square().mean().sqrt()))
    bottleneck.eval()
    bottleneck(100 * x)  # an evaluation is no start
    assert not bottleneck.is_initialized
    bottleneck.train()
    torch.testing.assert_close(logstd_of(bottleneck, x), torch.full((50, 8), expected))
    # It is kept, whatever comes later, in training and in evaluation.
    torch.testing.assert_close(logstd_of(bottleneck, 100 * x), torch.full((50, 8), expected))
    torch.testing.assert_close(logstd_of(bottleneck.eval(), x), torch.full((50, 8), expected))

    other = VariationalBottleneck(8)
    other.load_state_dict(bottleneck.state_dict())
    torch.testing.assert_close(logstd_of(other, 100 * x), torch.full((50, 8), expected))

    bottleneck.reset_parameters()
    bottleneck.train()
    torch.testing.assert_close(
        logstd_of(bottleneck, 10 * x), torch.full((50, 8), expected + 2.3026)
    )


def test_noise_scale():
    bottleneck = VariationalBottleneck(4, noise_scale=0.5)
    logstd = logstd_of(bottleneck, torch.full((2, 4), 2.0))
    torch.testing.assert_close(logstd, torch.zeros(2, 4))


def test_rows_of_zeros_are_no_start():
    bottleneck = VariationalBottleneck(4)
    assert (logstd_of(bottleneck, torch.zeros(3, 4)) == MIN_LOGSTD + 0.5).all()
    torch.testing.assert_close(
        logstd_of(bottleneck, torch.ones(3, 4)), torch.full((3, 4), math.log(0.1))
    )


def test_sample_has_the_mean_and_spread_it_says():
    bottleneck = VariationalBottleneck(3)
    out = bottleneck(torch.tensor([[1.0, -2.0, 3.0]]).expand(20000, 3))
    torch.testing.assert_close(out.z.mean(dim=0), out.mu[0], atol=0.01, rtol=0)
    torch.testing.assert_close(out.z.std(dim=0), out.logstd[0].exp(), atol=0.005, rtol=0)
    assert not torch.equal(out.z[0], out.z[1])


def test_code_is_the_sample_in_training_only():
    bottleneck = VariationalBottleneck(3)
    x = torch.randn(4, 3)
    assert not torch.equal(bottleneck(x).z, bottleneck(x).z)
    bottleneck.eval()
    assert torch.equal(bottleneck(x).z, bottleneck(x).z)
    torch.manual_seed(1)
    first = bottleneck.train()(x).z
    torch.manual_seed(1)
    assert torch.equal(bottleneck(x).z, first)


def test_logstd_is_clamped():
    bottleneck = VariationalBottleneck(4)
    assert (logstd_of(bottleneck, torch.full((3, 4), 1e9)) == MAX_LOGSTD - 0.5).all()
    bottleneck.reset_parameters()
    assert (logstd_of(bottleneck, torch.full((3, 4), 1e-9)) == MIN_LOGSTD + 0.5).all()
    with torch.no_grad():
        bottleneck.lin.bias[4:] = torch.tensor([-100.0, 100.0, 10.5, 0.0])
    assert logstd_of(bottleneck, torch.ones(1, 4)).tolist() == [[MIN_LOGSTD, MAX_LOGSTD, 1, -9.5]]


@pytest.mark.parametrize('scale', [1e-6, 1e-4, 1e3])
def test_spread_learns_whatever_the_scale_of_the_input(scale):
    bottleneck = VariationalBottleneck(4)
    bottleneck(scale * torch.randn(50, 4)).kl().mean().backward()
    assert bottleneck.lin.bias.grad[4:].ne(0).all()


def test_rows_that_overflow_are_no_start():
    bottleneck = VariationalBottleneck(4)
    bottleneck(torch.full((3, 4), torch.inf))
    torch.testing.assert_close(
        logstd_of(bottleneck, torch.ones(3, 4)), torch.full((3, 4), math.log(0.1))
    )


def test_empty_input():
    bottleneck = VariationalBottleneck(4)
    out = bottleneck(torch.empty(0, 4))
    assert out.z.shape == out.logstd.shape == (0, 4)
    assert out.kl().shape == (0,)
    assert not bottleneck.is_initialized


@pytest.mark.parametrize('out_channels', [None, 5])
def test_every_parameter_gets_a_gradient_at_once(out_channels):
    bottleneck = VariationalBottleneck(8, out_channels)
    out = bottleneck(torch.randn(6, 8))
    (out.kl().mean() + out.z.square().sum()).backward()
    width = bottleneck.out_channels
    for param in bottleneck.parameters():
        assert torch.isfinite(param.grad).all()
        assert (param.grad[:width] != 0).any()  # the mean
        assert (param.grad[width:] != 0).any()  # the log standard deviation


def test_gradcheck_of_the_rate_through_the_bottleneck():
    bottleneck = VariationalBottleneck(3).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    bottleneck(x)  # from here on the noise level is a constant
    with torch.no_grad():
        bottleneck.lin.weight.normal_()
    assert torch.autograd.gradcheck(lambda x: bottleneck(x).kl(), (x,))


def test_low_precision():
    bottleneck = VariationalBottleneck(16).bfloat16()
    out = bottleneck(torch.randn(6, 16).bfloat16())
    assert out.z.dtype == torch.bfloat16
    assert all(torch.isfinite(t).all() for t in out)
    out.kl().mean().backward()
    assert torch.isfinite(bottleneck.lin.weight.grad).all()


def test_autocast():
    bottleneck = VariationalBottleneck(16).eval()
    x = torch.randn(6, 16)
    with torch.autocast('cpu', torch.bfloat16):
        out = bottleneck(x)
    assert torch.equal(out.mu, x)


def test_deepcopy_and_state_dict():
    bottleneck = VariationalBottleneck(4)
    x = torch.randn(5, 4)
    bottleneck(x)
    with torch.no_grad():
        bottleneck.lin.weight.normal_()
    bottleneck.eval()
    for other in (copy.deepcopy(bottleneck), VariationalBottleneck(4).eval()):
        other.load_state_dict(bottleneck.state_dict())
        for actual, expected in zip(other(x), bottleneck(x)):
            assert torch.equal(actual, expected)


def test_compiles_as_one_graph():
    bottleneck = VariationalBottleneck(8)
    reference = copy.deepcopy(bottleneck)
    compiled = torch.compile(bottleneck, fullgraph=True, backend='aot_eager')
    x = torch.randn(6, 8)
    for _ in range(2):  # the start of the noise level, and what follows
        torch.manual_seed(0)
        out = compiled(x)
        torch.manual_seed(0)
        expected = reference(x)
        torch.testing.assert_close(out, expected)
        x = 10 * x
    out.kl().sum().backward()
    assert bottleneck.lin.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'kwargs, message',
    [
        ({'in_channels': 0}, r"'in_channels' and 'out_channels' must be positive \(got 0 and 0\)"),
        ({'in_channels': 4, 'out_channels': -1}, r'must be positive \(got 4 and -1\)'),
        ({'in_channels': 4, 'noise_scale': 0.0}, r"'noise_scale' must be positive and finite"),
        ({'in_channels': 4, 'noise_scale': math.inf}, r"'noise_scale' must be .* \(got inf\)"),
        ({'in_channels': 4, 'noise_scale': math.nan}, r"'noise_scale' must be positive"),
    ],
)
def test_refused_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        VariationalBottleneck(**kwargs)


@pytest.mark.parametrize('shape', [(3, 5), (4,), (2, 3, 4)])
def test_refused_input(shape):
    with pytest.raises(ValueError, match=r"'x' must have the shape \[N, 4\] \(got \["):
        VariationalBottleneck(4)(torch.zeros(shape))


def test_repr():
    assert repr(VariationalBottleneck(8)) == 'VariationalBottleneck(8, 8)'
    assert repr(VariationalBottleneck(8, 3)) == 'VariationalBottleneck(8, 3)'


# -- product_of_experts ------------------------------------------------------------------------


def test_product_equals_the_product_of_densities():
    posteriors = [random_posterior(1, 1) for _ in range(3)]
    out = product_of_experts(posteriors)
    grid = torch.linspace(-30, 30, 600001, dtype=torch.float64)
    log_density = Normal(0.0, 1.0).log_prob(grid)
    for _, mu, logstd in posteriors:
        log_density += Normal(mu.item(), logstd.exp().item()).log_prob(grid)
    weight = log_density.softmax(dim=0)
    mean = (weight * grid).sum()
    std = (weight * (grid - mean).square()).sum().sqrt()
    torch.testing.assert_close(out.mu.squeeze(), mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(out.logstd.exp().squeeze(), std, atol=1e-6, rtol=1e-6)
    assert torch.equal(out.z, out.mu)


def test_missing_modalities_drop_out():
    first, second = random_posterior(), random_posterior()
    masks = [
        torch.tensor([True, True, False, False, True, False]),
        torch.tensor([True, False, True, False, True, False]),
    ]
    out = product_of_experts([first, second], masks)
    both, only_1 = product_of_experts([first, second]), product_of_experts([first])
    only_2 = product_of_experts([second])
    for row, expected in [(0, both), (1, only_1), (2, only_2), (4, both)]:
        torch.testing.assert_close(out.mu[row], expected.mu[row])
        torch.testing.assert_close(out.logstd[row], expected.logstd[row])
    for row in (3, 5):  # nothing is left but the prior
        assert (out.mu[row] == 0).all() and (out.logstd[row] == 0).all()
        assert out.kl()[row] == 0


def test_masks_of_ones_change_nothing():
    posteriors = [random_posterior(), random_posterior()]
    masks = [torch.ones(6, dtype=torch.bool), None]
    for actual, expected in zip(
        product_of_experts(posteriors, masks), product_of_experts(posteriors)
    ):
        assert torch.equal(actual, expected)


def test_deterministic_experts_have_unit_variance():
    x, y = torch.randn(2, 3, 4)
    out = product_of_experts([Posterior(x, x), Posterior(y, y)], training=True)
    torch.testing.assert_close(out.mu, (x + y) / 3)
    assert torch.equal(out.z, out.mu)  # no noise where no expert has any


def test_product_is_sampled_in_training():
    posteriors = [random_posterior(1, 1), random_posterior(1, 1)]
    posteriors = [Posterior(*(t.expand(50000, 1) for t in p)) for p in posteriors]
    out = product_of_experts(posteriors, training=True)
    torch.testing.assert_close(out.z.mean(), out.mu[0, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(out.z.std(), out.logstd[0, 0].exp(), atol=0.02, rtol=0)


def test_product_gradcheck():
    inputs = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, False])

    def run(x):
        posteriors = [Posterior(x[0], x[0], x[1]), Posterior(x[2], x[2], x[3])]
        return product_of_experts(posteriors, [None, mask]).kl()

    assert torch.autograd.gradcheck(run, (inputs,))


def test_product_refuses():
    with pytest.raises(ValueError, match="'posteriors' must .*got none"):
        product_of_experts([])
    with pytest.raises(ValueError, match=r'one entry per posterior \(got 2 for 1\)'):
        product_of_experts([random_posterior()], [None, None])
    x = torch.zeros(3, 2)
    for other in (torch.zeros(1, 2), torch.zeros(3, 1)):
        with pytest.raises(ValueError, match="'posteriors' must be of one shape"):
            product_of_experts([Posterior(x, x), Posterior(other, other)])
    for mask in (torch.ones(3, 1, dtype=torch.bool), torch.ones(1, dtype=torch.bool)):
        with pytest.raises(ValueError, match='each mask hold one value a row'):
            product_of_experts([Posterior(x, x)], [mask])


def test_product_does_not_read_what_is_missing():
    x = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]])
    mask = torch.tensor([True, False])
    out = product_of_experts([Posterior(x, x, x)], [mask])
    assert out.mu[1].eq(0).all() and out.logstd[1].eq(0).all()


def test_product_of_narrow_experts_in_half_precision():
    mu, logstd = torch.randn(3, 4).half(), torch.full((3, 4), -6.2).half()
    out = product_of_experts([Posterior(mu, mu, logstd)] * 2)
    assert out.mu.dtype == out.logstd.dtype == torch.float16
    torch.testing.assert_close(out.mu, mu, rtol=1e-3, atol=1e-3)
    expected = torch.full_like(logstd, -6.2 - 0.5 * math.log(2))
    torch.testing.assert_close(out.logstd, expected, rtol=1e-3, atol=1e-3)


def test_a_sample_knows_its_rate_and_another_posterior_does_not_inherit_it():
    torch.manual_seed(0)
    bottleneck = VariationalBottleneck(4)
    x = torch.randn(6, 4)
    user, item = encode(bottleneck, (x[:2], x[2:]))
    for posterior, size in ((bottleneck(x), 6), (user, 2), (item, 4)):
        assert isinstance(posterior, EncodedPosterior) and posterior.rate.shape == (size,)
        assert rate_of(posterior) is posterior.rate
        torch.testing.assert_close(posterior.rate, posterior.kl())
        moved = posterior._replace(mu=posterior.mu + 1)
        torch.testing.assert_close(rate_of(moved), Posterior(*moved).kl())
    assert type(bottleneck.eval()(x)) is Posterior


def make_rows(num_rows=7, in_channels=4, out_channels=4, dtype=torch.float64):
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
    x, weight, bias, log_scale, noise = make_rows(out_channels=out_channels)
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


def test_gradcheck_of_rows():
    x, weight, bias, log_scale, noise = make_rows(num_rows=3, in_channels=2, out_channels=2)

    def function(x, weight, bias):
        return encode_rows(x, weight, bias, log_scale, noise, 0.5)

    assert torch.autograd.gradcheck(function, (x, weight, bias))
    assert torch.autograd.gradcheck(kl_of_rows, (x, x.detach().flip(0).requires_grad_()))


def test_clamped_rows_pass_no_gradient_to_their_spread():
    x, weight, bias, _, noise = make_rows()
    with torch.no_grad():
        bias[4:] = torch.tensor([-50.0, 50, 0, 0])
        weight[4:] = 0
    out = encode_rows(x, weight, bias, torch.zeros((), dtype=x.dtype), noise, 0.25)
    assert out[2][:, 0].eq(-10).all() and out[2][:, 1].eq(2).all()
    out[0].sum().backward()
    assert bias.grad[4:6].eq(0).all() and bias.grad[6:].ne(0).all()


def test_a_bound_itself_passes_a_gradient():
    x, weight, bias, _, noise = make_rows()
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


def test_no_rows_at_all():
    x, weight, bias, log_scale, noise = make_rows(num_rows=0)
    z, mu, logstd, kl = encode_rows(x, weight, bias, log_scale, noise, 0.25)
    (z.sum() + kl.sum() + kl_of_rows(mu, logstd).sum()).backward()
    assert weight.grad.eq(0).all() and x.grad.shape == (0, 4)


def test_half_precision_leaves_the_kl_to_its_own_function():
    x, weight, bias, log_scale, noise = (t.detach().bfloat16() for t in make_rows())
    assert encode_rows(x, weight, bias, log_scale, noise, 0.25)[3] is None


def test_the_kl_of_a_sample_has_a_gradient_to_its_mean_and_spread():
    bottleneck = VariationalBottleneck(4)
    posterior = bottleneck(torch.randn(6, 4, requires_grad=True))
    grads = torch.autograd.grad(posterior.kl().sum(), posterior[1:], retain_graph=True)
    plain = [x.detach().requires_grad_() for x in posterior]
    expected = torch.autograd.grad(Posterior(*plain).kl().sum(), plain[1:])
    for grad, other in zip(grads, expected):
        torch.testing.assert_close(grad, other)
    params = list(bottleneck.parameters())
    both = [
        torch.autograd.grad(out.sum(), params, retain_graph=True)
        for out in (posterior.kl(), posterior.rate)
    ]
    for grad, other in zip(*both):
        torch.testing.assert_close(grad, other)
