"""What holds for every estimator of mutual information. A new one is tested by one more subclass:

class TestMyEstimator(EstimatorContract):
    cls = MyEstimator
"""

from copy import deepcopy

import pytest
import torch

from mrdib_pyg.nn.mutual_information import MutualInformation


def build(cls, dtype=torch.float64, num_steps=3, scale=1.0):
    r"""An estimator that has seen a few batches, so that no running statistic is trivial."""
    torch.manual_seed(12345)
    estimator = cls(3, 4, hidden_channels=8).to(dtype)
    params = list(estimator.parameters())
    optimizer = torch.optim.SGD(params, lr=0.1) if params else None
    for _ in range(num_steps):
        z1, z2 = rows(16, dtype)
        loss = estimator.learning_loss(scale * z1, scale * z2)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    estimator.zero_grad()
    return estimator


def rows(num_rows, dtype=torch.float64, requires_grad=False):
    z1 = torch.randn(num_rows, 3, dtype=dtype)
    z2 = torch.cat([z1, z1[:, :1]], dim=1) + torch.randn(num_rows, 4, dtype=dtype)
    return z1.requires_grad_(requires_grad), z2.requires_grad_(requires_grad)


def gradients(out, inputs):
    grads = torch.autograd.grad(out, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs)]


class EstimatorContract:
    #: The estimator.
    cls: type[MutualInformation]
    #: Whether it is a lower bound, whose critic ascends what the codes descend.
    is_bound: bool = False

    def test_repr_and_interface(self):
        estimator = self.cls(3, 4)
        assert isinstance(estimator, MutualInformation)
        assert str(estimator) == f'{self.cls.__name__}(3, 4, hidden_channels=64)'
        assert (
            str(self.cls(3, 4, hidden_channels=8))
            == f'{self.cls.__name__}(3, 4, hidden_channels=8)'
        )
        for method in (estimator, estimator.learning_loss, estimator.penalty):
            out = method(*rows(64, torch.float32))
            assert out.size() == () and out.dtype == torch.float32

    @pytest.mark.parametrize('training', [False, True])
    def test_penalty_gradients(self, training):
        # The codes get the derivative of the estimate, the critic that of its own loss. Both are
        # compared with plain autograd on copies that draw the same numbers.
        estimator = build(self.cls).train(training)
        codes = rows(16, requires_grad=True)
        copies = [deepcopy(estimator) for _ in range(3)]

        def call(i, name):
            torch.manual_seed(1)
            return getattr(copies[i], name)(*codes)

        penalty, estimate, loss = call(0, 'penalty'), call(1, 'forward'), call(2, 'learning_loss')
        assert torch.equal(penalty, estimate)
        assert penalty.abs() > 1e-4

        params = [list(copy.parameters()) for copy in copies]
        out = gradients(penalty, [*codes, *params[0]])
        of_estimate = gradients(estimate, [*codes, *params[1]])
        for grad, other in zip(out, of_estimate[:2] + gradients(loss, [*codes, *params[2]])[2:]):
            assert torch.isfinite(grad).all() and grad.abs().max() > 0
            torch.testing.assert_close(grad, other)

        if self.is_bound:  # a bound: its critic climbs what the codes descend
            for grad, other in zip(out[2:], of_estimate[2:]):
                torch.testing.assert_close(grad, -other)
        for first, second in zip(copies[0].buffers(), copies[2].buffers()):
            assert torch.equal(first, second)

    def test_penalty_makes_codes_independent(self):
        # One optimizer for both sides. A critic that the penalty trained in the wrong direction
        # would leave the codes alone.
        torch.manual_seed(0)
        estimator = self.cls(2, 2, hidden_channels=16)
        mix = torch.nn.Parameter(torch.tensor(1.5))
        optimizer = torch.optim.Adam([mix, *estimator.parameters()], lr=0.01)
        for _ in range(250):
            z1, noise = torch.randn(2, 128, 2)
            optimizer.zero_grad()
            estimator.penalty(z1, mix * z1 + noise).backward()
            optimizer.step()
        assert mix.abs() < 0.3

    def test_gradcheck(self):
        estimator = build(self.cls).eval()
        assert torch.autograd.gradcheck(estimator, rows(20, requires_grad=True))

    def test_all_parameters_learn(self):
        if not list(self.cls(3, 4).parameters()):
            pytest.skip('has nothing to learn')
        torch.manual_seed(0)
        estimator = self.cls(3, 4, hidden_channels=8)
        estimator.learning_loss(*rows(32, torch.float32)).backward()
        for name, param in estimator.named_parameters():
            assert torch.isfinite(param.grad).all(), name
            assert param.grad.abs().max() > 0, name

    def test_randomness(self):
        estimator, (z1, z2) = build(self.cls), rows(32)
        outs = []
        for _ in range(2):
            torch.manual_seed(7)
            outs.append(deepcopy(estimator)(z1, z2))
        assert torch.equal(outs[0], outs[1])

        estimator.eval()
        state = torch.get_rng_state()
        buffers = deepcopy(list(estimator.buffers()))
        assert torch.equal(estimator(z1, z2), estimator(z1, z2))
        estimator.learning_loss(z1, z2)
        estimator.penalty(z1, z2)
        assert torch.equal(torch.get_rng_state(), state)
        for first, second in zip(buffers, estimator.buffers()):
            assert torch.equal(first, second)

    def test_training_does_not_depend_on_scale(self):
        z1, z2 = rows(32)
        out = build(self.cls).eval()(z1, z2)
        for scale in (0.02, 50.0):
            torch.testing.assert_close(
                build(self.cls, scale=scale).eval()(scale * z1, scale * z2),
                out,
                rtol=1e-6,
                atol=1e-6,
            )

    @pytest.mark.parametrize('num_rows', [0, 1])
    def test_too_few_rows(self, num_rows):
        estimator = build(self.cls)
        buffers = deepcopy(list(estimator.buffers()))
        for name in ('forward', 'learning_loss', 'penalty'):
            codes = rows(num_rows, requires_grad=True)
            out = getattr(estimator, name)(*codes)
            assert out.item() == 0
            out.backward()
            for x in [*codes, *estimator.parameters()]:
                assert x.grad.abs().sum() == 0
        for first, second in zip(buffers, estimator.buffers()):
            assert torch.equal(first, second)

    @pytest.mark.parametrize('num_rows', [2, 3, 5])
    def test_few_rows(self, num_rows):
        estimator = build(self.cls)
        for name in ('forward', 'learning_loss', 'penalty'):
            codes = rows(num_rows, requires_grad=True)
            out = getattr(estimator, name)(*codes)
            out.backward()
            assert torch.isfinite(out)
            assert all(torch.isfinite(x.grad).all() for x in codes)

    def test_dtypes(self):
        estimator = build(self.cls).eval()
        z1, z2 = rows(64)
        expected = estimator(z1, z2)
        assert expected.dtype == torch.float64
        out = deepcopy(estimator).float()(z1.float(), z2.float())
        assert out.dtype == torch.float32
        torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)

        # Low precision in the codes, or in the parameters as well.
        for dtype in (torch.float32, torch.bfloat16):
            model = deepcopy(estimator).to(dtype)
            for training in (False, True):
                model.train(training)
                codes = [z.bfloat16().requires_grad_() for z in (z1, z2)]
                out = model.penalty(*codes)
                out.backward()
                assert out.dtype == torch.float32
                torch.testing.assert_close(out.double(), expected, rtol=0.5, atol=0.5)
                for x in [*codes, *model.parameters()]:
                    assert torch.isfinite(x.grad).all()

    def test_reset_parameters(self):
        estimator = build(self.cls)
        before = deepcopy(estimator.state_dict())
        estimator.reset_parameters()
        fresh = self.cls(3, 4, hidden_channels=8).double()
        after = estimator.state_dict()
        for name, value in dict(fresh.named_buffers()).items():
            assert torch.equal(after[name], value), name
        for name, _ in estimator.named_parameters():
            assert not torch.equal(after[name], before[name]), name

    def test_state_dict_and_deepcopy(self):
        estimator, codes = build(self.cls), rows(32)
        other = self.cls(3, 4, hidden_channels=8).double()
        other.load_state_dict(estimator.state_dict())
        for copy in (other, deepcopy(estimator)):
            for training in (True, False):
                outs = []
                for model in (deepcopy(estimator), copy):
                    model.train(training)
                    torch.manual_seed(1)
                    outs.append((deepcopy(model)(*codes), deepcopy(model).penalty(*codes)))
                assert not outs[0][0].isnan()
                assert torch.equal(outs[0][0], outs[1][0])
        # A copy after a backward pass: nothing of a graph is kept.
        estimator.penalty(*rows(8, requires_grad=True)).backward()
        deepcopy(estimator)

    def test_repeated_calls_before_backward(self):
        # Running statistics move between the two, which must not spoil the first one's graph.
        estimator = build(self.cls)
        codes = rows(16, requires_grad=True), rows(8, requires_grad=True)
        sum(estimator.penalty(*pair) for pair in codes).backward()
        for pair in codes:
            assert all(z.grad.abs().max() > 0 for z in pair)

    def test_compile(self):
        # In training mode, which draws numbers and moves buffers.
        torch.compiler.reset()
        estimator = build(self.cls, torch.float32)
        copy = deepcopy(estimator)
        codes = rows(32, torch.float32, requires_grad=True)
        compiled = torch.compile(copy.penalty, backend='aot_eager', fullgraph=True)
        for _ in range(2):
            outs = []
            for model, penalty in [(estimator, estimator.penalty), (copy, compiled)]:
                torch.manual_seed(1)
                out = penalty(*codes)
                outs.append([out, *gradients(out, [*codes, *model.parameters()]), *model.buffers()])
            for out, expected in zip(outs[1], outs[0]):
                torch.testing.assert_close(out, expected)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"'in_channels_1' must be positive \(got 0\)"):
            self.cls(0, 4)
        with pytest.raises(ValueError, match=r"'in_channels_2' must be positive \(got -1\)"):
            self.cls(3, -1)
        with pytest.raises(ValueError, match=r"'hidden_channels' must be positive \(got 0\)"):
            self.cls(3, 4, 0)
        estimator = self.cls(3, 4)
        for method in (estimator, estimator.learning_loss, estimator.penalty):
            with pytest.raises(ValueError, match=r"'z1' must have shape \[N, 3\] \(got \[5, 4\]\)"):
                method(torch.randn(5, 4), torch.randn(5, 4))
            with pytest.raises(ValueError, match=r"'z2' must have shape \[N, 4\] \(got \[4\]\)"):
                method(torch.randn(5, 3), torch.randn(4))
            with pytest.raises(ValueError, match=r'paired row by row \(got 5 and 6 rows\)'):
                method(torch.randn(5, 3), torch.randn(6, 4))

    def test_autocast(self):
        """Scores are not rounded, on whichever path they are computed."""
        estimator = build(self.cls, torch.float32).eval()
        z1, z2 = rows(64, torch.float32)
        expected = estimator(z1, z2)
        with torch.autocast('cpu', torch.bfloat16):
            out = estimator(z1, z2)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, expected, rtol=0.05, atol=0.05)
