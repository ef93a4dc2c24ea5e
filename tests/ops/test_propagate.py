from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch_geometric.testing import withCUDA

from mrdib_pyg.ops import NormalizedAdjacency, propagate, propagate_mean
from mrdib_pyg.ops._propagate import mean_of_rows

module = import_module('mrdib_pyg.ops._propagate')  # The package's attribute is the function.


def random_adjacency(rows, cols, num_edges, normalization='sym', symmetric=False, **kwargs):
    edge_index = torch.stack([torch.randint(rows, (num_edges,)), torch.randint(cols, (num_edges,))])
    if symmetric:
        edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    edge_weight = None
    if kwargs:
        edge_weight = torch.rand(edge_index.size(1), **kwargs)
    num_nodes = rows if symmetric else (rows, cols)
    adj = NormalizedAdjacency(
        edge_index, edge_weight, num_nodes=num_nodes, normalization=normalization
    )
    assert adj.is_symmetric == symmetric
    return adj


TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}


@withCUDA
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize(
    ('normalization', 'symmetric'),
    [('sym', False), ('left', False), (None, False), ('sym', True), (None, True)],
)
def test_equals_dense(normalization, symmetric, dtype, device):
    rows, cols = (10, 10) if symmetric else (10, 7)
    adj = random_adjacency(rows, cols, 40, normalization, symmetric).to(device)
    dense = adj.to_dense().double()
    x = torch.randn(cols, 5, dtype=dtype, device=device, requires_grad=True)
    grad = torch.randn(rows, 5, dtype=dtype, device=device)

    out = propagate(x, adj)
    out.backward(grad)
    expected = dense @ x.detach().double()
    expected_grad = dense.t() @ grad.double()

    assert out.dtype == x.grad.dtype == dtype
    scale = max(expected.abs().max(), expected_grad.abs().max())
    assert (out.double() - expected).abs().max() < TOLERANCE[dtype] * scale
    assert (x.grad.double() - expected_grad).abs().max() < TOLERANCE[dtype] * scale


def test_two_layers_of_lightgcn():
    # Users 0, 1, 2 and items 3, 4, 5, 6; expected values to four decimals.
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [3, 4, 5, 4, 3, 5, 6]])
    edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    adj = NormalizedAdjacency(edge_index, num_nodes=7)
    x = torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 2], [0, 1], [2, 0], [1, -1]])
    out = (x + propagate(x, adj) + propagate(propagate(x, adj), adj)) / 3
    expected = [[1.0194, 0.6156], [0.0962, 0.7357], [1.2674, 0.6353], [1.0174, 1.0020]]
    expected += [[0.3027, 0.9024], [1.3507, 0.3353], [0.8726, -0.0949]]
    assert torch.allclose(out, torch.tensor(expected), atol=1e-4)


def test_bfloat16_is_no_worse_than_dense():
    # A hub of 2,000 neighbors: a running sum in bfloat16 would stall near 256.
    row = torch.zeros(2000, dtype=torch.long)
    edge_index = torch.stack([row, torch.arange(2000)])
    adj = NormalizedAdjacency(edge_index, num_nodes=(1, 2000), normalization=None)
    out = propagate(torch.ones(2000, 3, dtype=torch.bfloat16), adj)
    assert torch.equal(out, torch.full((1, 3), 2000.0, dtype=torch.bfloat16))


def test_strided_inputs_and_gradients():
    adj = random_adjacency(10, 7, 40)
    x = torch.randn(5, 7)
    assert torch.allclose(propagate(x.t(), adj), adj.to_dense() @ x.t(), atol=1e-6)
    x = torch.randn(7, 1, requires_grad=True)
    propagate(x.expand(7, 4), adj).sum().backward()  # An expanded gradient.
    assert torch.allclose(x.grad, 4 * adj.to_dense().sum(0).view(-1, 1), atol=1e-5)


@pytest.mark.parametrize('symmetric', [False, True])
def test_gradcheck(symmetric):
    adj = random_adjacency(6, 6 if symmetric else 5, 14, symmetric=symmetric).to(torch.float64)
    x = torch.randn(adj.size(1), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: propagate(x, adj), (x,))


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('normalization', ['sym', 'left', None])
@pytest.mark.parametrize('num_nodes', [(6, 5), 6])
def test_gradcheck_edge_weight(num_nodes, normalization, transposed):
    # Repeated edges are among these, and a symmetric pair.
    edge_index = torch.tensor([[0, 0, 1, 1, 2, 3, 3, 4, 0], [1, 1, 0, 2, 4, 3, 0, 4, 3]])
    edge_weight = torch.rand(9, dtype=torch.float64) + 0.5
    edge_weight.requires_grad_()
    size = num_nodes if isinstance(num_nodes, tuple) else (num_nodes, num_nodes)
    x = torch.randn(size[0 if transposed else 1], 3, dtype=torch.float64, requires_grad=True)

    def function(x, edge_weight):
        adj = NormalizedAdjacency(
            edge_index, edge_weight, num_nodes=num_nodes, normalization=normalization
        )
        return propagate(x, adj.t() if transposed else adj)

    assert torch.autograd.gradcheck(function, (x, edge_weight))


def test_edge_weight_gradient_of_symmetric_graph():
    # The values of both directions are equal, their gradients are not.
    edge_index = torch.tensor([[0, 1], [1, 0]])
    x = torch.tensor([[1.0], [10.0]])
    for transposed, expected in ((False, [10.0, 2.0]), (True, [2.0, 10.0])):
        edge_weight = torch.ones(2, requires_grad=True)
        adj = NormalizedAdjacency(edge_index, edge_weight, num_nodes=2, normalization=None)
        out = propagate(x, adj.t() if transposed else adj)
        (out * torch.tensor([[1.0], [2.0]])).sum().backward()
        assert edge_weight.grad.tolist() == expected


def test_edge_weight_gradient_in_chunks(monkeypatch):
    grads = []
    weight = torch.rand(50) + 0.1
    edge_index = torch.stack([torch.randint(9, (50,)), torch.randint(9, (50,))])
    x = torch.randn(9, 4)
    for limit in (2**22, 12, 1):
        monkeypatch.setattr(module, '_MAX_GATHERED', limit)
        edge_weight = weight.clone().requires_grad_()
        adj = NormalizedAdjacency(edge_index, edge_weight, num_nodes=9)
        propagate(x, adj).square().sum().backward()
        grads.append(edge_weight.grad)
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_edge_weight_gradient_in_another_dtype():
    edge_weight = torch.rand(7, requires_grad=True)
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])
    adj = NormalizedAdjacency(edge_index, edge_weight, num_nodes=(3, 4))
    propagate(torch.randn(4, 2, dtype=torch.float64), adj).sum().backward()
    assert edge_weight.grad.dtype == torch.float32
    assert edge_weight.grad.abs().sum() > 0


def test_csr_path_equals_embedding_bag():
    # What runs on an accelerator, on CPU.
    adj = random_adjacency(10, 7, 40)
    x = torch.randn(7, 5)
    out = module.csr_tensor(adj.rowptr, adj.col, adj.value, x.size(0)) @ x
    assert torch.allclose(out, propagate(x, adj), atol=1e-6)


def test_values_are_cached_by_dtype():
    adj = random_adjacency(10, 7, 40)
    x = torch.randn(7, 5, dtype=torch.float64)
    propagate(x, adj)
    value = adj._csr.values(torch.float64)
    assert value.dtype == torch.float64
    assert adj._csr.values(torch.float64) is value
    assert adj._csr.values(torch.float32) is adj.value
    assert adj.t()._csr_t.values(torch.float64) is value  # Each call of t() makes an object.


def test_features_are_kept_only_for_the_gradient_of_weights():
    x = torch.randn(7, 5, requires_grad=True)
    out = propagate(x, random_adjacency(10, 7, 40))
    assert out.grad_fn.saved_tensors[0] is None
    out = propagate(x, random_adjacency(10, 7, 40, requires_grad=True))
    assert out.grad_fn.saved_tensors[0] is not None


def test_double_backward_is_refused():
    x = torch.randn(7, 5, requires_grad=True)
    out = propagate(x, random_adjacency(10, 7, 40)).square().sum()
    (grad,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


@pytest.mark.filterwarnings('ignore:.*should not be instantiated')  # By torch's own tracing.
@pytest.mark.parametrize('symmetric', [False, True])
def test_compile_without_graph_breaks(symmetric):
    adj = random_adjacency(10, 10 if symmetric else 7, 40, symmetric=symmetric)

    def function(x):
        out = propagate(x.tanh(), adj)
        return propagate(out, adj.t()).sigmoid()

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    x = torch.randn(adj.size(1), 5)
    results = []
    for f in (function, compiled):
        inputs = x.clone().requires_grad_()
        out = f(inputs)
        out.square().sum().backward()
        results.append((out, inputs.grad))
    for actual, expected in zip(results[1], results[0]):
        assert torch.allclose(actual, expected, atol=1e-6)


def test_errors():
    adj = random_adjacency(10, 7, 40)
    with pytest.raises(TypeError, match="'adj' must be a NormalizedAdjacency .got Tensor."):
        propagate(torch.randn(7, 2), torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"'x' must have the shape \[7, .*got \[10, 2\]"):
        propagate(torch.randn(10, 2), adj)
    with pytest.raises(ValueError, match=r'got \[7\]'):
        propagate(torch.randn(7), adj)
    with pytest.raises(TypeError, match='floating point .got torch.int64'):
        propagate(torch.ones(7, 2, dtype=torch.long), adj)


def test_results_do_not_depend_on_the_type_of_the_indices(monkeypatch):
    adj = random_adjacency(10, 7, 40)
    x = torch.randn(7, 5)
    assert {t.dtype for t in adj._csr.indices(torch.float32)} == {torch.int64}
    assert {t.dtype for t in adj._csr.indices(torch.bfloat16)} == {torch.int32}
    assert adj._csr.indices(torch.float32)[1] is adj._csr.indices(torch.float64)[1]
    expected = propagate(x, adj)
    monkeypatch.setattr(import_module('mrdib_pyg.ops.adjacency'), '_MAX_LONG', 20)
    assert adj.nnz > 20
    assert {t.dtype for t in adj._csr.indices(torch.float32)} == {torch.int32}
    assert torch.equal(propagate(x, adj), expected)


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
    with pytest.raises(ValueError, match="'rows' must be None"):
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
def test_compile_without_graph_breaks_mean(form):
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
            'same number of channels .*got 1 and 2',
            (torch.ones(3, 1), torch.ones(4, 2)),
            bipartite(),
        ),
    ],
)
def test_errors_mean(error, message, x, adj):
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
