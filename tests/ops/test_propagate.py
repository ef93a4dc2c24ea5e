from importlib import import_module

import pytest
import torch
from torch_geometric.testing import withCUDA

from mrdib_pyg.ops import NormalizedAdjacency, propagate

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
    out = module._csr_matmul(adj.rowptr, adj.col, adj.value, x)
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
