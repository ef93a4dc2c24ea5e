"""The kernel of CSR products against dense references; collected by ``test_kernels.py``: on CUDA
where there is one, else under Triton's interpreter.
"""

import os

import pytest
import torch

pytest.importorskip('triton', reason="'triton' is not installed")

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip('needs CUDA or TRITON_INTERPRET=1', allow_module_level=True)

from importlib import import_module  # noqa: E402

from mrdib_pyg.ops import NormalizedAdjacency, propagate, propagate_mean  # noqa: E402
from mrdib_pyg.ops.adjacency import cut_rows  # noqa: E402
from mrdib_pyg.ops.kernels.csr_matmul import csr_matmul, csr_matmul_pair, make_workspace  # noqa: E402

DEVICE = 'cpu' if INTERPRETED else 'cuda'
csr_module = import_module('mrdib_pyg.ops.adjacency')
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
module = import_module('mrdib_pyg.ops._propagate')  # The package's attribute is the function.


def adjacency(rows=17, cols=23, num_edges=150, symmetric=False):
    edge_index = torch.stack([torch.randint(rows, (num_edges,)), torch.randint(cols, (num_edges,))])
    if symmetric:
        edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    num_nodes = rows if symmetric else (rows, cols)
    adj = NormalizedAdjacency(edge_index, num_nodes=num_nodes).to(DEVICE)
    assert adj.is_symmetric == symmetric
    return adj


def hub(degree=1300):
    """A row of many entries between an empty row and a short one."""
    row = torch.cat([torch.full((degree,), 1), torch.full((3,), 2)])
    col = torch.cat([torch.arange(degree), torch.tensor([0, 5, degree - 1])])
    weight = torch.rand(degree + 3) + 0.1
    edge_index = torch.stack([row, col])
    return NormalizedAdjacency(edge_index, weight, num_nodes=(3, degree), normalization=None).to(
        DEVICE
    )


def dense64(adj):
    return adj.to_dense().double()


def assert_rounded(actual, expected, factor=4.0):
    """Within some roundings of the data type that the result is in, relative to the largest."""
    eps = torch.finfo(actual.dtype).eps
    scale = expected.abs().max().clamp(min=1e-30)
    assert (actual.double() - expected).abs().max() <= factor * eps * scale


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('channels', [1, 3, 64, 100, 256])
def test_equals_dense(channels, dtype):
    adj = adjacency()
    x = torch.randn(23, channels, device=DEVICE).to(dtype)
    out = csr_matmul(adj.rowptr, adj.col, adj.value.to(dtype).float(), x)
    assert out.dtype == dtype
    value = adj.value.to(dtype).double()
    expected = torch.zeros(17, 23, dtype=torch.double, device=DEVICE)
    expected = expected.index_put(tuple(adj.to_edge_index()[0]), value) @ x.double()
    assert_rounded(out, expected)


@pytest.mark.parametrize('channels', [1, 3, 64, 100, 256])
def test_long_row(channels):
    adj = hub(10_000)
    x = torch.randn(10_000, channels, device=DEVICE)
    out = csr_matmul(adj.rowptr, adj.col, adj.value, x)
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    assert_rounded(out, dense64(adj) @ x.double(), factor=64)


def test_index_types_and_given_pieces():
    adj = hub()
    x = torch.randn(1300, 5, device=DEVICE)
    expected = csr_matmul(adj.rowptr, adj.col, adj.value, x)
    rowptr, col = adj.rowptr.long(), adj.col.long()
    assert adj.rowptr.dtype == torch.int32
    assert torch.equal(csr_matmul(rowptr, col, adj.value, x), expected)
    pieces = cut_rows(rowptr, 128)
    assert torch.equal(csr_matmul(rowptr, col, adj.value, x, pieces=pieces), expected)


@pytest.mark.parametrize('degree', [127, 128, 129, 256, 257])
def test_rows_at_the_edge_of_a_piece(degree):
    adj = hub(degree)
    assert adj.rowptr.diff().tolist() == [0, degree, 3]
    x = torch.randn(degree, 5, device=DEVICE)
    out = csr_matmul(adj.rowptr, adj.col, adj.value, x)
    assert_rounded(out, dense64(adj) @ x.double(), factor=64)


@pytest.mark.parametrize('degree', [512, 513, 1025])
def test_long_pieces_of_large_graphs(degree, monkeypatch):
    monkeypatch.setattr(csr_module, '_MAX_SMALL', 0)
    adj = hub(degree)
    x = torch.randn(degree, 5, device=DEVICE)
    out = csr_matmul(adj.rowptr, adj.col, adj.value, x)
    assert_rounded(out, dense64(adj) @ x.double(), factor=64)


def test_empty_graph_and_no_channels():
    empty = torch.empty(2, 0, dtype=torch.long)
    adj = NormalizedAdjacency(empty, num_nodes=(3, 4)).to(DEVICE)
    x, addend = torch.randn(4, 2, device=DEVICE), torch.randn(3, 2, device=DEVICE)
    out = csr_matmul(adj.rowptr, adj.col, adj.value, x)
    assert torch.equal(out, torch.zeros_like(addend))
    out = csr_matmul(adj.rowptr, adj.col, adj.value, x, addend=addend)
    assert torch.equal(out, addend)
    assert csr_matmul(adj.rowptr, adj.col, adj.value, x[:, :0]).shape == (3, 0)
    adj = NormalizedAdjacency(empty, num_nodes=0).to(DEVICE)
    assert csr_matmul(adj.rowptr, adj.col, adj.value, x[:0]).shape == (0, 2)


def test_entries_beyond_a_row_are_not_read():
    # A row of two entries beside infinite features, which a product with zero would turn to NaN.
    adj = adjacency()
    x = torch.randn(23, 8, device=DEVICE)
    x[0] = float('inf')
    out = csr_matmul(adj.rowptr, adj.col, torch.ones_like(adj.value), x)
    touched = dense64(adj)[:, 0] > 0
    assert not touched.all()
    assert touched.any()
    assert torch.isfinite(out[~touched]).all()
    assert torch.isinf(out[touched]).all()


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('adj', [adjacency, hub])
def test_addend(adj, dtype):
    # A third is no float32: factors must not be rounded on their way to a float64 kernel.
    adj = adj()
    rows, cols = adj.size()
    x = torch.randn(cols, 6, device=DEVICE).to(dtype)
    addend = torch.randn(rows, 6, device=DEVICE).to(dtype)
    arrays = adj.rowptr, adj.col, adj.value
    out = csr_matmul(*arrays, x, alpha=2 / 3, addend=addend, beta=1 / 3)
    expected = dense64(adj) @ x.double() * (2 / 3) + addend.double() / 3
    assert_rounded(out, expected, factor=64)


def arrays_of(csr):
    return csr.value, csr.rowptr, csr.col, *cut_rows(csr.rowptr, 128)


@pytest.mark.parametrize('adj', [adjacency, lambda: hub(140)])
@pytest.mark.parametrize('channels', [3, 130])
def test_pair_equals_two_products(adj, channels):
    """Rows are cut in the first, in the second and in none; the second product of a workspace finds
    its counters at zero.
    """
    adj = adj()
    arrays = arrays_of(adj._csr), arrays_of(adj._csr_t)
    for pair in (arrays, arrays[::-1]):
        # Each of a row stride of its own.
        wide = [
            torch.randn(int(p[2].max()) + 1, channels + i, device=DEVICE)
            for i, p in enumerate(pair)
        ]
        x = [y[:, :channels] for y in wide]
        wide = [
            torch.randn(p[1].numel() - 1, channels + 2 + i, device=DEVICE)
            for i, p in enumerate(pair)
        ]
        addend = [y[:, :channels] for y in wide]
        workspace = make_workspace(x[0], pair[0][3:], pair[1][3:])
        factors = {'alpha': 2 / 3, 'beta': 1 / 3}
        expected = [
            csr_matmul(rowptr, col, value, a, pieces=tuple(pieces), addend=b, **factors)
            for (value, rowptr, col, *pieces), a, b in zip(pair, x, addend)
        ]
        for _ in range(2):
            out = csr_matmul_pair(pair, x, addend=addend, workspace=workspace, **factors)
            assert all(torch.equal(a, b) for a, b in zip(out, expected))
        plain = csr_matmul_pair(pair, x)
        for (value, rowptr, col, *_), a, b in zip(pair, x, plain):
            assert torch.equal(csr_matmul(rowptr, col, value, a), b)


def test_pair_of_which_one_is_empty():
    empty = torch.empty(2, 0, dtype=torch.long)
    adj = NormalizedAdjacency(empty, num_nodes=(3, 0)).to(DEVICE)
    x = torch.randn(0, 4, device=DEVICE), torch.randn(3, 4, device=DEVICE)
    out = csr_matmul_pair((arrays_of(adj._csr), arrays_of(adj._csr_t)), x)
    assert torch.equal(out[0], torch.zeros_like(x[1])) and out[1].shape == (0, 4)


def test_strided_inputs():
    adj = adjacency()
    x = torch.randn(23, 12, device=DEVICE)
    dense = dense64(adj)
    arrays = adj.rowptr, adj.col, adj.value
    for view in (x[:, 2:7], x[:, ::2], x.t().contiguous().t(), x[:1].expand(23, 12), x[:, :1]):
        addend = torch.randn(view.size(1), 17, device=DEVICE).t()
        out = csr_matmul(*arrays, view, addend=addend)
        assert_rounded(out, dense @ view.double() + addend.double())


def test_bfloat16_is_no_worse_than_plain_bfloat16():
    adj = hub()
    x = torch.randn(1300, 128, device=DEVICE).bfloat16()
    expected = dense64(adj) @ x.double()
    out = csr_matmul(adj.rowptr, adj.col, adj.value, x)
    plain = adj.to_dense().bfloat16() @ x
    # The interpreter truncates where a GPU rounds: one unit in the last place instead of a half.
    error = (out.double() - expected).abs()
    assert (error <= torch.finfo(torch.bfloat16).eps * expected.abs() + 1e-5).all()
    # The sum itself is one in float32, of the features as they are.
    single = csr_matmul(adj.rowptr, adj.col, adj.value, x.float())
    error, plain_error = ((y.double() - expected).abs().max() for y in (single, plain))
    assert error < plain_error / 100
    ones = torch.ones_like(x)  # A running sum in bfloat16 would stall near 256.
    out = csr_matmul(adj.rowptr, adj.col, torch.ones_like(adj.value), ones)
    assert torch.equal(out[1], torch.full_like(out[1], 1300))


@pytest.fixture
def uses_kernel(monkeypatch):
    # On CPU, `propagate` is made to take the path of CUDA.
    monkeypatch.setattr(module, '_uses_kernel', lambda x: True)
    if INTERPRETED:
        init = module.CSR.__init__

        def with_pieces(self, rowptr, col, value, pieces=None):
            init(self, rowptr, col, value, cut_rows(rowptr, 128))

        monkeypatch.setattr(module.CSR, '__init__', with_pieces)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('symmetric', [False, True])
def test_propagate(symmetric, dtype, uses_kernel):
    adj = adjacency(17, 17 if symmetric else 23, symmetric=symmetric)
    x = torch.randn(adj.size(1), 5, device=DEVICE).to(dtype).requires_grad_()
    grad = torch.randn(17, 5, device=DEVICE).to(dtype)
    out = propagate(x, adj)
    out.backward(grad)
    assert out.dtype == x.grad.dtype == dtype
    assert_rounded(out, dense64(adj) @ x.detach().double())
    assert_rounded(x.grad, dense64(adj).t() @ grad.double())


@pytest.mark.parametrize('symmetric', [False, True])
def test_propagate_mean(symmetric, uses_kernel):
    adj = adjacency(17, 17, symmetric=symmetric).to(torch.float64)
    x = torch.randn(17, 3, dtype=torch.float64, device=DEVICE, requires_grad=True)
    out = propagate_mean(x, adj, 3)
    dense = dense64(adj)
    power = sum(torch.linalg.matrix_power(dense, k) for k in range(4)) / 4
    assert_rounded(out, power @ x.detach(), factor=64)
    grad = torch.randn(17, 3, dtype=torch.float64, device=DEVICE)
    out.backward(grad)
    assert_rounded(x.grad, power.t() @ grad, factor=64)


def test_propagate_mean_of_pairs(uses_kernel):
    adj = adjacency()
    x = torch.randn(40, 3, device=DEVICE, requires_grad=True)
    out = torch.cat(propagate_mean((x[:17], x[17:]), adj, 3))
    dense = torch.zeros(40, 40, dtype=torch.double, device=DEVICE)
    dense[:17, 17:], dense[17:, :17] = dense64(adj), dense64(adj).t()
    power = sum(torch.linalg.matrix_power(dense, k) for k in range(4)) / 4
    assert_rounded(out, power @ x.detach().double(), factor=64)
    grad = torch.randn(40, 3, device=DEVICE)
    out.backward(grad)
    assert_rounded(x.grad, power @ grad.double(), factor=64)


def test_gradcheck(uses_kernel):
    adj = adjacency(6, 5, 14).to(torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64, device=DEVICE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: propagate(x, adj), (x,))


def test_gradcheck_edge_weight(uses_kernel):
    edge_index = torch.tensor([[0, 0, 1, 1, 2, 3, 3], [1, 1, 0, 2, 4, 3, 0]], device=DEVICE)
    weight = torch.rand(7, dtype=torch.float64, device=DEVICE) + 0.5

    def function(weight):
        adj = NormalizedAdjacency(edge_index, weight, num_nodes=(4, 5))
        return propagate(x, adj)

    x = torch.randn(5, 2, dtype=torch.float64, device=DEVICE)
    assert torch.autograd.gradcheck(function, (weight.requires_grad_(),))


@pytest.mark.filterwarnings('ignore:.*should not be instantiated')  # By torch's own tracing.
@pytest.mark.parametrize('symmetric', [False, True])
def test_compile_without_graph_breaks(symmetric, uses_kernel):
    adj = adjacency(17, 17, symmetric=symmetric)

    def function(x):
        return propagate_mean(propagate(x.tanh(), adj), adj, 2).sigmoid()

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    x = torch.randn(17, 5, device=DEVICE)
    results = []
    for f in (function, compiled):
        inputs = x.clone().requires_grad_()
        out = f(inputs)
        out.square().sum().backward()
        results.append((out, inputs.grad))
    for actual, expected in zip(results[1], results[0]):
        assert torch.allclose(actual, expected, atol=1e-6)
