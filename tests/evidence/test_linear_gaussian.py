"""The linear-Gaussian model against naive references, and what its evidence finds."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse

from mrdib_pyg.evidence import evidence
from mrdib_pyg.evidence.design import Block, Design, Inducing, Scaler, Targets, fill


def random_features(n, generator=None, **widths):
    return {m: torch.randn(n, d, dtype=torch.float64) for m, d in widths.items()}


def scaled(features, present=None):
    return {
        m: Scaler(m, x, (present or {}).get(m))(x, (present or {}).get(m))
        for m, x in features.items()
    }


def naive_kernel(x, amplitudes, constant):
    n = len(next(iter(x.values())))
    out = torch.eye(n, dtype=torch.float64) + constant
    for m, value in x.items():
        out += amplitudes[m] * value @ value.t()
    return out


def naive_nats(kernel, y):
    """From the density of a Gaussian with the best noise, less the constant of a unit normal."""
    n, t = y.shape
    noise = float((y * torch.linalg.solve(kernel, y)).sum()) / (n * t)
    normal = torch.distributions.MultivariateNormal(torch.zeros(n).double(), noise * kernel)
    return float(normal.log_prob(y.t()).sum()) / (n * t) + 0.5 * (1 + math.log(2 * math.pi))


def planted(n=300, t=40, a=None, constant=0.5, noise=0.3, **widths):
    """Targets drawn from the model itself."""
    features = random_features(n, **widths)
    x = scaled(features)
    y = math.sqrt(noise) * torch.randn(n, t).double()
    y += math.sqrt(constant * noise) * torch.randn(t).double()
    for m, amplitude in a.items():
        y += x[m] @ (math.sqrt(amplitude * noise) * torch.randn(widths[m], t).double())
    return features, y


@pytest.mark.parametrize('t', [3, 40])  # fewer targets than columns and items, and more
@pytest.mark.parametrize('form', ['primal', 'dual'])
def test_gradient_is_that_of_the_value(form, t):
    x = random_features(20, image=5, text=4)
    design = Design({m: Block(v) for m, v in scaled(x).items()}, Targets(torch.randn(20, t)), 100)
    objective = getattr(design, form)(['image', 'text'])
    theta = torch.tensor([-1.0, 0.5, 0.3], dtype=torch.float64)
    value, grad = objective(theta)
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = 1e-5
        slope = (objective(theta + step)[0] - objective(theta - step)[0]) / 2e-5
        assert abs(slope - float(grad[i])) < 1e-8
    kernel = naive_kernel(
        scaled(x), {'image': math.exp(-1.0), 'text': math.exp(0.5)}, math.exp(0.3)
    )
    assert value == pytest.approx(-naive_nats(kernel, design.targets.to_dense()), abs=1e-12)


def test_two_items_by_hand():
    """One column, two items: standardized and scaled it is (-1, 1), whatever it was."""
    y = torch.tensor([[1.0, 2.0], [-1.0, 0.5]]).double()
    model = evidence({'image': torch.tensor([[3.0], [7.0]])}, y)
    a, c = model.amplitudes['image'], model.constant
    kernel = torch.tensor([[1 + a + c, c - a], [c - a, 1 + a + c]], dtype=torch.float64)
    assert model.nats == pytest.approx(naive_nats(kernel, y), abs=1e-12)
    noise = float((y * torch.linalg.solve(kernel, y)).sum()) / 4
    assert model.noise == pytest.approx(noise, rel=1e-10)
    new = torch.tensor([[5.0], [9.0]])  # the mean of the two, which has no direction, and one above
    covariance = torch.tensor([[c, c], [c - a, c + a]], dtype=torch.float64)
    mean = covariance @ torch.linalg.solve(kernel, y)
    assert torch.allclose(model.predict({'image': new}), mean, atol=1e-12)
    prior = torch.tensor([c, a + c], dtype=torch.float64)
    explained = (covariance * torch.linalg.solve(kernel, covariance.t()).t()).sum(1)
    assert torch.allclose(model.variance({'image': new}), noise * (prior - explained), atol=1e-12)


@pytest.mark.parametrize('products', [(), [('image', 'text'), ('text', 'text')]])
def test_primal_and_dual_agree(products):
    features, y = planted(n=40, t=7, a={'image': 2.0, 'text': 1.0}, image=6, text=3)
    x = scaled(features)
    blocks = {m: Block(v) for m, v in x.items()}
    for a, b in products:
        blocks[f'{a}*{b}'] = Block(x[a], x[b])
    design = Design(blocks, Targets(y), 100)
    theta = torch.linspace(-1, 1, len(blocks) + 1).double()
    values = [form(list(blocks))(theta) for form in (design.primal, design.dual)]
    assert values[0][0] == pytest.approx(values[1][0], abs=1e-12)
    assert torch.allclose(values[0][1], values[1][1], atol=1e-12)
    # A model of its own for each: wide by noise without any variance.
    narrow = evidence(features, y, products=products)
    padded = {m: torch.cat([v, torch.zeros(40, 60)], 1) for m, v in features.items()}
    wide = evidence(padded, y, products=products)
    assert (narrow.form, wide.form) == ('primal', 'dual')
    assert narrow.nats == pytest.approx(wide.nats, abs=1e-9)
    new = random_features(5, image=6, text=3)
    new_padded = {m: torch.cat([v, torch.zeros(5, 60)], 1) for m, v in new.items()}
    assert torch.allclose(narrow.predict(new), wide.predict(new_padded), atol=1e-3)
    assert torch.allclose(narrow.variance(new), wide.variance(new_padded), rtol=1e-2)
    ours, theirs = narrow.leave_one_out(), wide.leave_one_out()
    assert torch.allclose(ours, theirs, atol=1e-8)


@pytest.mark.parametrize('to', [sparse.csr_array, sparse.coo_matrix, torch.Tensor.to_sparse_csr,
                                torch.Tensor.to_sparse_coo, np.asarray])  # fmt: skip
@pytest.mark.parametrize('width', [5, 60])
def test_targets_of_any_kind(to, width):
    features = random_features(30, image=width)
    y = (torch.rand(30, 50) < 0.2).double()
    other = to(y if 'torch' in str(to) or 'Tensor' in str(to) else y.numpy())
    dense, found = evidence(features, y), evidence(features, other)
    assert found.form == ('primal' if width == 5 else 'dual')
    assert found.nats == pytest.approx(dense.nats, abs=1e-10)
    new = random_features(3, image=width)
    assert torch.allclose(found.predict(new), dense.predict(new), atol=1e-7)
    assert torch.allclose(found.leave_one_out(), dense.leave_one_out(), atol=1e-9)
    assert torch.allclose(found.encode(new) @ found.coefficients(), found.predict(new), atol=1e-10)


def test_planted_amplitudes_are_recovered():
    widths = {'image': 30, 'text': 20}
    features, y = planted(400, 300, a={'image': 4.0, 'text': 1.0}, noise=0.3, **widths)
    model = evidence(features, y)
    assert model.amplitudes['image'] == pytest.approx(4.0, rel=0.1)
    assert model.amplitudes['text'] == pytest.approx(1.0, rel=0.1)
    assert model.constant == pytest.approx(0.5, rel=0.25)
    assert model.noise == pytest.approx(0.3, rel=0.02)
    # No other amplitudes are better.
    x = scaled(features)
    for factor in (0.9, 1.1):
        for m in widths:
            changed = {**model.amplitudes, m: factor * model.amplitudes[m]}
            assert naive_nats(naive_kernel(x, changed, model.constant), y) < model.nats


@pytest.mark.parametrize('text', [10, 500])
def test_a_shuffled_modality_gets_nothing(text):
    features, y = planted(200, 60, a={'image': 3.0, 'text': 3.0}, image=10, text=text)
    alone = evidence({'image': features['image']}, y)
    both = evidence(features, y)
    features['text'] = features['text'][torch.randperm(200)]
    shuffled = evidence(features, y)
    assert both.nats - alone.nats > 0.02 > 100 * abs(shuffled.nats - alone.nats)
    assert shuffled.amplitudes['text'] < 0.02 * both.amplitudes['text']


@pytest.mark.parametrize('width', [8, 90])
def test_the_order_of_items_and_modalities_is_nothing(width):
    features, y = planted(60, 10, a={'image': 2.0}, image=width, text=5)
    order = torch.randperm(60)
    first = evidence(features, y)
    other = evidence({m: features[m][order] for m in ('text', 'image')}, y[order])
    assert first.nats == pytest.approx(other.nats, abs=1e-9)
    new = random_features(4, image=width, text=5)
    assert torch.allclose(first.predict(new), other.predict(new), atol=1e-4)


def test_the_same_bits_again():
    features, y = planted(50, 10, a={'image': 2.0}, image=90, text=5)
    first, again = evidence(features, y, max_size=40), evidence(features, y, max_size=40)
    assert first.nats == again.nats
    assert torch.equal(first.predict(features), again.predict(features))


@pytest.mark.parametrize('width', [6, 70])
def test_a_missing_modality_is_a_row_of_zeros(width):
    features, y = planted(50, 12, a={'image': 2.0, 'text': 2.0}, image=width, text=5)
    present = {'image': torch.rand(50) < 0.6}
    spoilt = {**features, 'image': features['image'].clone()}
    spoilt['image'][~present['image']] = math.nan
    model = evidence(spoilt, y, present)
    x = scaled(features, present)
    assert bool((x['image'][~present['image']] == 0).all())
    assert bool((x['image'][present['image']].norm(dim=1) - 1).abs().max() < 1e-12)
    kernel = naive_kernel(x, model.amplitudes, model.constant)
    assert model.nats == pytest.approx(naive_nats(kernel, y), abs=1e-10)
    # New items: what is masked, what is not named and a modality of none of them are the same.
    new = random_features(3, image=width, text=5)
    none = {'image': torch.zeros(3, dtype=torch.bool)}
    without = model.predict({'text': new['text']})
    assert torch.equal(model.predict(new, none), without)
    assert not torch.allclose(model.predict(new), without)
    nothing = model.predict(new, {m: torch.zeros(3, dtype=torch.bool) for m in new})
    assert torch.allclose(nothing, nothing[:1].expand(3, -1))  # the constant alone


@pytest.mark.parametrize('t', [4, 60])
@pytest.mark.parametrize('width', [6, 70])
def test_leave_one_out_is_the_evidence_without_an_item(width, t):
    features, y = planted(30, t, a={'image': 2.0}, image=width, text=3)
    model = evidence(features, y)
    kernel = naive_kernel(scaled(features), model.amplitudes, model.constant)
    for i, found in enumerate(model.leave_one_out().tolist()):
        keep = torch.arange(30) != i
        assert found == pytest.approx(naive_nats(kernel[keep][:, keep], y[keep]), abs=1e-9)


def test_products_find_what_no_modality_tells():
    features = random_features(400, image=4, text=4)
    bits = features['image'].sign()[:, :2] * features['text'].sign()[:, :2]
    y = bits @ torch.randn(2, 80).double() + torch.randn(400, 80).double()
    linear = evidence(features, y)
    product = evidence(features, y, products=[('image', 'text')])
    assert product.nats > linear.nats + 0.05
    assert product.amplitudes['image*text'] > 100 * product.amplitudes['image']
    features['text'] = features['text'][torch.randperm(400)]
    shuffled = evidence(features, y, products=[('image', 'text')])
    assert shuffled.nats < linear.nats + 0.001


def test_columns_of_products_have_the_product_of_the_kernels():
    left, right = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    for block in (Block(left, right), Block(left, left)):
        x = block.columns()
        assert x.shape == (6, block.width)
        other = right if block.right is right else left
        assert torch.allclose(x @ x.t(), (left @ left.t()) * (other @ other.t()))
        assert torch.allclose(block.kernel(block), x @ x.t())
        assert block.square() == pytest.approx(float(x.square().sum()))


def test_inducing_rows():
    features, y = planted(300, 20, a={'image': 3.0, 'text': 1.0}, image=3, text=4)
    features['image'] = features['image'] @ torch.randn(3, 200).double()  # of rank 3
    exact = evidence(features, y)
    reduced = evidence(features, y, max_size=20)
    assert exact.form == reduced.form == 'primal'
    # Directions that hold all of the kernel change nothing but its rounding.
    assert reduced.left_out['image'] < 1e-9 and reduced.left_out['text'] == 0
    assert reduced.nats == pytest.approx(exact.nats, abs=1e-7)
    new = {'image': torch.randn(5, 3).double() @ torch.randn(3, 200).double(),
           'text': torch.randn(5, 4)}  # fmt: skip
    assert reduced.predict(new).shape == (5, 20)
    known = {m: v[:5] for m, v in features.items()}
    assert torch.allclose(reduced.predict(known), exact.predict(known), atol=1e-3)
    features['image'] += torch.randn(300, 200).double()
    cut = evidence(features, y, max_size=20)
    assert 0.1 < cut.left_out['image'] < 1
    x = scaled(features)['image']
    block = Block(x)
    columns = Inducing(block, 10, seed=0)(block)
    error = torch.linalg.eigvalsh(x @ x.t() - columns @ columns.t())
    assert float(error[0]) > -1e-9  # never more than there is
    assert columns.shape == (300, 10)


def test_room_is_shared():
    assert fill([3, 100, 100], 24) == 10
    assert fill([3, 5], 24) == 24
    assert fill([100, 100], 2) == 1


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'features': {}}, "'features' is empty"),
        ({'features': {'image': torch.randn(9, 2)}}, "'features' of 'image' .* 10 rows .*got 9"),
        ({'features': {'image': torch.randn(10)}}, r"'features' of 'image' .*\[10\]"),
        ({'features': {'a*b': torch.randn(10, 2)}}, r"'a\*b'"),
        ({'features': {'image': torch.full((10, 2), math.nan)}}, "row 0 of 'features' of 'image'"),
        ({'targets': torch.randn(10)}, r"'targets' .*\[10\]"),
        ({'targets': torch.zeros(10, 3)}, "'targets' is zero"),
        ({'targets': torch.full((10, 3), math.inf)}, "'targets' holds NaN"),
        ({'targets': torch.zeros(10, 0)}, r"'targets' .*\[10, 0\]"),
        ({'present': {'text': torch.ones(10).bool()}}, "'present' names 'text'"),
        ({'present': {'image': torch.ones(10)}}, "'present' of 'image' .*float32"),
        ({'present': {'image': torch.arange(10) < 1}}, "'image' are those of 1 items"),
        ({'products': [('image', 'text')]}, "'products' names 'text'"),
        ({'max_size': 1}, "'max_size' .*got 1"),
    ],
)
def test_errors(change, message):
    arguments = {'features': {'image': torch.randn(10, 2)}, 'targets': torch.randn(10, 3)}
    with pytest.raises(ValueError, match=message):
        evidence(**{**arguments, **change})


def test_errors_of_new_items():
    model = evidence({'image': torch.randn(10, 2), 'text': torch.randn(10, 3)}, torch.randn(10, 3))
    for features, message in [
        ({'sound': torch.randn(2, 2)}, "'sound'"),
        ({'image': torch.randn(2, 3)}, r"'image' must have the shape \[n, 2\] .*\[2, 3\]"),
        ({'image': torch.randn(2, 2), 'text': torch.randn(3, 3)}, "'text' must have the 2 rows"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.predict(features)


def test_repr():
    model = evidence({'image': torch.randn(10, 2)}, torch.randn(10, 3))
    assert repr(model).startswith(f'Evidence({model.nats:.5f} nats per entry, image=')


def test_a_column_that_does_not_vary_tells_nothing():
    x = torch.randn(20, 3)
    y = torch.randn(20, 4)
    padded = torch.cat([x, torch.full((20, 1), 0.1)], dim=1)
    assert evidence({'a': padded}, y).nats == pytest.approx(evidence({'a': x}, y).nats, abs=1e-9)
    constant = evidence({'a': torch.ones(20, 2)}, y)
    assert math.isfinite(constant.nats)
