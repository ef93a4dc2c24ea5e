from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mrdib_pyg.ops import NormalizedAdjacency, propagate, propagate_mean
from mrdib_pyg.ops._propagate import mean_of_rows


def bipartite(dtype=torch.float64):
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])
    return NormalizedAdjacency(edge_index, num_nodes=(3, 4)).to(dtype)


def square(adj):
    """The bipartite matrix as a block of the symmetric one, users first."""
    top = torch.cat([torch.zeros(3, 3, dtype=adj.dtype), adj.to_dense()], dim=1)
    bottom = torch.cat([adj.to_dense().t(), torch.zeros(4, 4, dtype=adj.dtype)], dim=1)
    return torch.cat([top, bottom])


def test_worked_example():
    user = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    item = torch.tensor([[1.0, 2], [0, 1], [2, 0], [1, -1]])
    user, item = propagate_mean((user, item), bipartite(torch.float32), 2)
    expected_user = [[1.0194, 0.6156], [0.0962, 0.7357], [1.2674, 0.6353]]
    expected_item = [[1.0174, 1.0020], [0.3027, 0.9024], [1.3507, 0.3353], [0.8726, -0.0949]]
    torch.testing.assert_close(user, torch.tensor(expected_user), atol=1e-4, rtol=0)
    torch.testing.assert_close(item, torch.tensor(expected_item), atol=1e-4, rtol=0)


@pytest.mark.parametrize('num_layers', [0, 1, 2, 5])
def test_bipartite_is_a_block_of_the_square_form(num_layers):
    adj = bipartite()
    x = torch.randn(7, 5, dtype=torch.float64)
    dense = square(adj)
    expected, power = x.clone(), x
    for _ in range(num_layers):
        power = dense @ power
        expected += power
    expected /= num_layers + 1
    user, item = propagate_mean((x[:3], x[3:]), adj, num_layers)
    torch.testing.assert_close(torch.cat([user, item]), expected)

    adj = NormalizedAdjacency(dense.to_sparse(), normalization=None)
    torch.testing.assert_close(propagate_mean(x, adj, num_layers), expected)


def test_gradient():
    x = (
        torch.randn(3, 2, dtype=torch.float64, requires_grad=True),
        torch.randn(4, 2, dtype=torch.float64, requires_grad=True),
    )
    assert gradcheck(lambda *x: propagate_mean(x, bipartite(), 3), x)


def test_isolated_nodes_keep_a_share_of_themselves():
    adj = NormalizedAdjacency(torch.tensor([[0], [0]]), num_nodes=(2, 2))
    user, item = propagate_mean((torch.ones(2, 1), torch.ones(2, 1)), adj, 1)
    assert user.flatten().tolist() == item.flatten().tolist() == [1.0, 0.5]


def test_negative_number_of_layers():
    with pytest.raises(ValueError, match=r"'num_layers' must not be negative \(got -1\)"):
        propagate_mean(torch.ones(3, 1), bipartite(), -1)


@pytest.mark.parametrize('num_layers', [0, 1, 2, 3])
def test_rows(num_layers):
    """The mean of some rows is that of all, and so is its gradient."""
    rows = (torch.tensor([2, 0]), torch.tensor([3, 0, 3]))  # any order, and with repeats
    x = [torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (3, 4)]
    full = propagate_mean(tuple(x), bipartite(), num_layers)
    expected = [table[index] for table, index in zip(full, rows)]
    actual = propagate_mean(tuple(x), bipartite(), num_layers, rows)
    weights = [torch.randn_like(table) for table in expected]
    grads = []
    for tables in (expected, actual):
        total = sum((table * weight).sum() for table, weight in zip(tables, weights))
        grads.append(torch.autograd.grad(total, x))
    for a, b in [*zip(actual, expected), *zip(*grads)]:
        torch.testing.assert_close(a, b)
    assert gradcheck(lambda *x: propagate_mean(x, bipartite(), num_layers, rows), x)


@pytest.mark.parametrize('num_layers', [0, 1, 2, 3])
def test_rows_and_those_of_the_input(num_layers):
    """A loss that reads both gets the gradient of both, in one table."""
    rows = (torch.tensor([2, 0]), torch.tensor([3, 0, 3]))
    x = [torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (3, 4)]

    def both(*x):
        mean, own = mean_of_rows(x, bipartite(), num_layers, rows)
        return (*mean, *own)

    expected = [table[index] for table, index in zip(x, rows)]
    assert all(torch.equal(a, b) for a, b in zip(both(*x)[2:], expected))
    assert gradcheck(both, x)


@pytest.mark.parametrize('num_layers', [1, 2, 3])
@pytest.mark.parametrize('count', [0, 1, 40])  # of few rows only the entries are summed
def test_few_and_many_rows(count, num_layers):
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(40, (2, 300), generator=generator)
    adj = NormalizedAdjacency(edge_index, num_nodes=(40, 40))
    x = [
        torch.randn(40, 3, dtype=torch.float64, generator=generator, requires_grad=True)
        for _ in range(2)
    ]
    # Few of one side, with a repeat, and many of the other.
    few, many = torch.randperm(40, generator=generator)[:count], torch.arange(40)
    few = torch.cat([few, few[:1]])
    for rows in ((few, many), (many, few), (few, few)):
        full = propagate_mean(tuple(x), adj, num_layers)
        expected = [table[index] for table, index in zip(full, rows)]
        actual = propagate_mean(tuple(x), adj, num_layers, rows)
        weights = [torch.randn(y.shape, dtype=y.dtype, generator=generator) for y in expected]
        grads = [torch.autograd.grad(y, x, weights) for y in (expected, actual)]
        for a, b in [*zip(actual, expected), *zip(*grads)]:
            torch.testing.assert_close(a, b)


def test_rows_of_two_types():
    """A pair may differ in type, as embeddings and half-precision features do."""
    x = [torch.randn(3, 2, requires_grad=True), torch.randn(4, 2).double().requires_grad_()]
    rows = (torch.tensor([2, 0]), torch.tensor([3, 0]))
    grads = []
    for take in (True, False):
        out = propagate_mean(tuple(x), bipartite(), 2, rows if take else None)
        out = out if take else [table[index] for table, index in zip(out, rows)]
        grads.append(torch.autograd.grad(sum(o.double().sum() for o in out), x))
    for a, b in zip(*grads):
        assert torch.equal(a, b)


def test_rows_with_learnable_weights():
    edge_index = torch.tensor([[0, 0, 1], [0, 1, 1]])
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    rows = (torch.tensor([1]), torch.tensor([0]))
    x = (torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64))

    def mean(weight, rows):
        adj = NormalizedAdjacency(edge_index, weight, num_nodes=(2, 2))
        return propagate_mean(x, adj, 2, rows)

    some, full = mean(weight, rows), mean(weight, None)
    assert torch.equal(some[0], full[0][1:]) and torch.equal(some[1], full[1][:1])
    assert torch.autograd.grad(some[0].sum(), weight)[0].abs().max() > 0


def test_rows_of_one_tensor_are_refused():
    adj = NormalizedAdjacency(torch.tensor([[0], [1]]), num_nodes=2)
    with pytest.raises(ValueError, match="'rows' go with a pair"):
        propagate_mean(torch.ones(2, 1), adj, 1, (torch.tensor([0]), torch.tensor([0])))


def directed(dtype=torch.float64, **kwargs):
    edge_index = torch.tensor([[0, 0, 1, 3, 4, 4], [1, 2, 2, 0, 1, 4]])
    return NormalizedAdjacency(edge_index, num_nodes=5, **kwargs).to(dtype)


def by_layers(x, adj, num_layers):
    out = x
    for _ in range(num_layers):
        x = propagate(x, adj)
        out = out + x
    return out / (num_layers + 1)


@pytest.mark.parametrize('normalization', ['sym', 'left', None])
@pytest.mark.parametrize('symmetric', [False, True])
def test_square_equals_the_sum_over_layers(symmetric, normalization):
    adj = directed(normalization=normalization)
    if symmetric:
        dense = adj.to_dense() + adj.to_dense().t()
        adj = NormalizedAdjacency(dense.to_sparse(), num_nodes=5, normalization=None)
    assert adj.is_symmetric == symmetric
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(5, 3, dtype=torch.float64)
    for num_layers in (1, 2, 3, 6):
        out, expected = propagate_mean(x, adj, num_layers), by_layers(x, adj, num_layers)
        assert len(out.grad_fn.saved_tensors) == (3 if symmetric else 6)  # The matrix alone.
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(*(torch.autograd.grad(y, x, grad)[0] for y in (out, expected)))
    assert gradcheck(lambda x: propagate_mean(x, adj, 3), x)


def test_bfloat16_is_no_worse_than_the_sum_over_layers():
    adj = NormalizedAdjacency(torch.randint(200, (2, 3000)), num_nodes=200)
    x = torch.randn(200, 32)
    exact = by_layers(x.bfloat16().double(), adj.to(torch.float64), 3)
    errors = [
        (function(x.bfloat16(), adj, 3).double() - exact).norm()
        for function in (propagate_mean, by_layers)
    ]
    assert errors[0] <= 1.1 * errors[1]
    assert propagate_mean(x.bfloat16(), adj, 3).dtype == torch.bfloat16


def test_same_bits_in_every_run():
    adj = NormalizedAdjacency(torch.randint(300, (2, 4000)), num_nodes=(300, 300))
    x = torch.randn(600, 16, requires_grad=True)
    runs = []
    for _ in range(2):
        out = torch.cat(propagate_mean((x[:300], x[300:]), adj, 3))
        runs.append((out, *torch.autograd.grad(out.square().sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*runs))


def test_inputs_are_not_changed():
    x = (torch.randn(3, 2), torch.randn(4, 2))
    copies = [part.clone() for part in x]
    propagate_mean(x, bipartite(torch.float32), 3)
    assert all(torch.equal(a, b) for a, b in zip(x, copies))
    x = torch.randn(5, 2)
    copy = x.clone()
    propagate_mean(x, directed(torch.float32), 3)
    assert torch.equal(x, copy)


def test_an_output_without_gradient():
    x = (
        torch.randn(3, 2, dtype=torch.float64, requires_grad=True),
        torch.randn(4, 2, dtype=torch.float64),
    )
    assert gradcheck(lambda row: propagate_mean((row, x[1]), bipartite(), 2)[1], x[0])


def test_gradient_of_edge_weights():
    weight = torch.rand(6, dtype=torch.float64) + 0.5
    edge_index = torch.tensor([[0, 0, 1, 3, 4, 4], [1, 2, 2, 0, 1, 4]])
    x = torch.randn(5, 2, dtype=torch.float64)

    def function(weight):
        adj = NormalizedAdjacency(edge_index, weight, num_nodes=5)
        return propagate_mean(x, adj, 2), *propagate_mean((x, x), adj, 2)

    assert gradcheck(function, weight.requires_grad_())


@pytest.mark.filterwarnings('ignore:.*should not be instantiated')  # By torch's own tracing.
@pytest.mark.parametrize('form', ['square', 'symmetric', 'pair'])
def test_compile_without_graph_breaks(form):
    adj = bipartite(torch.float32) if form == 'pair' else directed(torch.float32)
    if form == 'symmetric':
        dense = adj.to_dense()
        adj = NormalizedAdjacency((dense + dense.t()).to_sparse(), num_nodes=5)

    def function(x):
        if form == 'pair':
            return torch.cat(propagate_mean((x[:3].tanh(), x[3:]), adj, 2))
        return propagate_mean(x.tanh(), adj, 2).sigmoid()

    torch._dynamo.reset()
    x = torch.randn(7 if form == 'pair' else 5, 3)
    results = []
    for f in (function, torch.compile(function, fullgraph=True, backend='aot_eager')):
        inputs = x.clone().requires_grad_()
        out = f(inputs)
        out.square().sum().backward()
        results.append((out, inputs.grad))
    for actual, expected in zip(results[1], results[0]):
        assert torch.allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(
    ('error', 'message', 'x', 'adj'),
    [
        (TypeError, 'must be a NormalizedAdjacency', torch.ones(3, 1), torch.eye(3)),
        (TypeError, 'floating point', torch.ones(5, 1, dtype=torch.long), directed()),
        (ValueError, r'must be a pair .*shape \[4, 1\]', torch.ones(4, 1), bipartite()),
        (ValueError, r'shape \[5, channels\].*got \[4, 1\]', torch.ones(4, 1), directed()),
        (
            ValueError,
            r'shape \[4, channels\].*got \[3, 1\]',
            (torch.ones(3, 1), torch.ones(3, 1)),
            bipartite(),
        ),
        (
            ValueError,
            'as many channels .*got 1 and 2',
            (torch.ones(3, 1), torch.ones(4, 2)),
            bipartite(),
        ),
    ],
)
def test_errors(error, message, x, adj):
    with pytest.raises(error, match=message):
        propagate_mean(x, adj, 2)


@pytest.mark.parametrize('num_layers', [1, 2, 3])
def test_products_of_some_rows_prepare_no_gradient(num_layers, monkeypatch):
    """`embedding_bag` takes half as long again where its input asks for a gradient."""
    module = import_module('mrdib_pyg.ops._propagate')
    embedding_bag, seen = F.embedding_bag, []

    def watch(index, x, *args, **kwargs):
        seen.append(x.requires_grad)
        return embedding_bag(index, x, *args, **kwargs)

    monkeypatch.setattr(module.F, 'embedding_bag', watch)
    edge_index = torch.stack([torch.randint(9, (40,)), torch.randint(7, (40,))])
    adj = NormalizedAdjacency(edge_index, num_nodes=(9, 7))
    x = torch.randn(9, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    rows = torch.tensor([0, 3]), torch.tensor([1])
    sum(out.sum() for out in propagate_mean(x, adj, num_layers, rows)).backward()
    assert len(seen) > 0 and not any(seen)
