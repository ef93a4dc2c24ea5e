import copy
import io
import pickle
from importlib import import_module

import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.testing import withCUDA
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor

from mrdib_pyg.ops import NormalizedAdjacency, propagate
from mrdib_pyg.ops.adjacency import _MAX_RADIX, cut_rows, sort_stable, to_rowptr

withSparse = pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="'torch-sparse' is not installed")

# Users 0, 1, 2 and items 0, 1, 2, 3.
EDGE_INDEX = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])


def dense_reference(dense, normalization, bipartite):
    row_sum = dense.sum(dim=1)
    col_sum = dense.sum(dim=0) if bipartite else row_sum
    out = torch.zeros_like(dense)
    for i, j in dense.nonzero().tolist():
        if normalization == 'sym':
            if row_sum[i] * col_sum[j] > 0:
                out[i, j] = dense[i, j] / (row_sum[i] * col_sum[j]).sqrt()
        elif normalization == 'left':
            out[i, j] = dense[i, j] / row_sum[i]
        else:
            out[i, j] = dense[i, j]
    return out


def random_graph(rows, cols, num_edges, dtype=torch.float32):
    edge_index = torch.stack([torch.randint(rows, (num_edges,)), torch.randint(cols, (num_edges,))])
    edge_weight = torch.rand(num_edges, dtype=dtype) + 0.1
    dense = torch.zeros(rows, cols, dtype=dtype).index_put(
        tuple(edge_index), edge_weight, accumulate=True
    )
    return edge_index, edge_weight, dense


def test_a_later_change_of_the_weights_is_not_seen():
    weight = torch.ones(7)
    adj = NormalizedAdjacency(EDGE_INDEX, weight, num_nodes=(3, 4), normalization=None)
    weight.zero_()
    assert adj.value.eq(1).all() and adj.t().value.eq(1).all()


def test_bipartite_values():
    adj = NormalizedAdjacency(EDGE_INDEX, num_nodes=(3, 4))
    assert str(adj) == "NormalizedAdjacency(3, 4, nnz=7, normalization='sym')"
    assert adj.size() == (3, 4)
    assert adj.size(0) == 3
    assert adj.size(1) == 4
    assert adj.nnz == 7
    assert adj.dtype == torch.float32
    assert not adj.is_symmetric
    assert adj.rowptr.tolist() == [0, 3, 4, 7]
    assert adj.col.tolist() == [0, 1, 2, 1, 0, 2, 3]
    expected = [[0.4082, 0.4082, 0.4082, 0], [0, 0.7071, 0, 0], [0.4082, 0, 0.4082, 0.5774]]
    assert torch.allclose(adj.to_dense(), torch.tensor(expected), atol=1e-4)
    assert torch.equal(adj.t().to_dense(), adj.to_dense().t())
    assert adj.t().size() == (4, 3)
    assert torch.equal(adj.t().t().to_dense(), adj.to_dense())


@pytest.mark.parametrize('normalization', ['sym', 'left', None])
@pytest.mark.parametrize('bipartite', [False, True])
def test_normalization_equals_dense(normalization, bipartite):
    # Square in both cases: only `num_nodes` tells whether rows and columns are the same nodes.
    edge_index, edge_weight, dense = random_graph(12, 12, 40)
    adj = NormalizedAdjacency(
        edge_index,
        edge_weight,
        num_nodes=(12, 12) if bipartite else 12,
        normalization=normalization,
    )
    expected = dense_reference(dense, normalization, bipartite)
    assert torch.allclose(adj.to_dense(), expected, atol=1e-6)
    assert torch.allclose(adj.t().to_dense(), expected.t(), atol=1e-6)


def test_equals_gcn_norm():
    edge_index, edge_weight, _ = random_graph(10, 10, 30)
    edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    edge_weight = torch.cat([edge_weight, edge_weight])
    index, weight = gcn_norm(edge_index, edge_weight, 10, add_self_loops=False)
    expected = torch.zeros(10, 10).index_put(tuple(index), weight, accumulate=True)
    adj = NormalizedAdjacency(edge_index, edge_weight, num_nodes=10)
    assert torch.allclose(adj.to_dense(), expected, atol=1e-6)
    assert adj.is_symmetric
    assert adj.t() is adj


@pytest.mark.parametrize('normalization', ['sym', 'left', None])
def test_symmetry_is_recognized(normalization):
    path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    adj = NormalizedAdjacency(path, num_nodes=3, normalization=normalization)
    assert adj.is_symmetric == (normalization != 'left')
    directed = NormalizedAdjacency(path[:, :3], num_nodes=3, normalization=normalization)
    assert not directed.is_symmetric
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0])
    weighted = NormalizedAdjacency(path, weight, num_nodes=3, normalization=normalization)
    assert not weighted.is_symmetric


def layouts(edge_index, edge_weight, size):
    coo = torch.sparse_coo_tensor(edge_index, edge_weight, size, check_invariants=True)
    yield 'edge_index', (edge_index, edge_weight)
    yield 'int32', (edge_index.int(), edge_weight)
    yield 'EdgeIndex', (EdgeIndex(edge_index, sparse_size=size), edge_weight)
    yield 'coo', (coo, None)
    yield 'coalesced coo', (coo.coalesce(), None)
    yield 'csr', (coo.coalesce().to_sparse_csr(), None)
    yield 'csc', (coo.coalesce().to_sparse_csc(), None)


@pytest.mark.filterwarnings('ignore:Sparse')
@pytest.mark.parametrize('normalization', ['sym', 'left', None])
@pytest.mark.parametrize('size', [(9, 9), (7, 11)])
def test_layouts_are_equal(size, normalization):
    edge_index, edge_weight, _ = random_graph(*size, 30)
    num_nodes = size if size[0] != size[1] else size[0]
    x = torch.randn(size[1], 4)
    expected = None
    for name, (adj, weight) in layouts(edge_index, edge_weight, size):
        out = propagate(
            x, NormalizedAdjacency(adj, weight, num_nodes=num_nodes, normalization=normalization)
        )
        expected = out if expected is None else expected
        assert torch.allclose(out, expected, atol=1e-6), name
        if name not in ('edge_index', 'int32'):  # The others know their size.
            assert NormalizedAdjacency(adj, weight, normalization=normalization).size() == size


@withSparse
@pytest.mark.parametrize('normalization', ['sym', 'left', None])
def test_sparse_tensor(normalization):
    edge_index, edge_weight, _ = random_graph(7, 11, 30)
    adj = SparseTensor.from_edge_index(edge_index, edge_weight, (7, 11))
    out = NormalizedAdjacency(adj, normalization=normalization)
    expected = NormalizedAdjacency(
        edge_index, edge_weight, num_nodes=(7, 11), normalization=normalization
    )
    assert torch.allclose(out.to_dense(), expected.to_dense(), atol=1e-6)
    adj = SparseTensor.from_edge_index(EDGE_INDEX, sparse_sizes=(3, 4))  # Without values.
    assert torch.equal(
        NormalizedAdjacency(adj).to_dense(),
        NormalizedAdjacency(EDGE_INDEX, num_nodes=(3, 4)).to_dense(),
    )


@pytest.mark.filterwarnings('ignore:Sparse')
def test_csr_with_repeated_and_unsorted_columns():
    rowptr, col = torch.tensor([0, 3, 4]), torch.tensor([1, 0, 1, 0])
    adj = torch.sparse_csr_tensor(rowptr, col, torch.tensor([1.0, 2, 3, 4]), (2, 2))
    out = NormalizedAdjacency(adj, normalization=None)
    assert out.to_dense().tolist() == [[2, 4], [4, 0]]
    assert out.nnz == 3


def test_edge_order_and_repeated_edges():
    edge_index, edge_weight, _ = random_graph(8, 8, 20)
    edge_index, perm = edge_index.unique(dim=1), torch.randperm(20)
    edge_weight, perm = edge_weight[: edge_index.size(1)], perm[perm < edge_index.size(1)]
    adj = NormalizedAdjacency(edge_index, edge_weight, num_nodes=8)
    other = NormalizedAdjacency(edge_index[:, perm], edge_weight[perm], num_nodes=8)
    assert torch.equal(adj.col, other.col)
    assert torch.equal(adj.value, other.value)

    # Each edge as two of half the weight is the same graph.
    half = NormalizedAdjacency(
        torch.cat([edge_index, edge_index[:, perm]], dim=1),
        torch.cat([edge_weight, edge_weight[perm]]) / 2,
        num_nodes=8,
    )
    assert half.nnz == edge_index.size(1)
    assert torch.allclose(half.to_dense(), adj.to_dense(), atol=1e-6)


@pytest.mark.parametrize('normalization', ['sym', 'left', None])
def test_empty_graph_and_isolated_nodes(normalization):
    empty = torch.empty(2, 0, dtype=torch.long)
    adj = NormalizedAdjacency(empty, num_nodes=(3, 4), normalization=normalization)
    assert adj.nnz == 0
    assert torch.equal(propagate(torch.randn(4, 2), adj), torch.zeros(3, 2))
    adj = NormalizedAdjacency(empty, num_nodes=0, normalization=normalization)
    assert propagate(torch.randn(0, 2), adj).shape == (0, 2)

    # Node 1 has no edge; node 2 has one of weight zero, node 3 only an incoming one.
    edge_index = torch.tensor([[0, 2, 0], [0, 0, 3]])
    edge_weight = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    adj = NormalizedAdjacency(edge_index, edge_weight, num_nodes=4, normalization=normalization)
    out = propagate(torch.ones(4, 2), adj)
    assert torch.isfinite(out).all()
    assert torch.equal(out[1:], torch.zeros(3, 2))
    out.sum().backward()
    assert torch.isfinite(edge_weight.grad).all()


@pytest.mark.parametrize('weight', [None, 1, 'int', 'column', 'bfloat16'])
def test_weight_types(weight):
    edge_weight = {
        None: None,
        1: torch.ones(7),
        'int': torch.ones(7, dtype=torch.long),
        'column': torch.ones(7, 1),
        'bfloat16': torch.ones(7, dtype=torch.bfloat16),
    }[weight]
    adj = NormalizedAdjacency(EDGE_INDEX, edge_weight, num_nodes=(3, 4))
    expected = NormalizedAdjacency(EDGE_INDEX, num_nodes=(3, 4))
    assert adj.dtype == torch.float32  # Degrees are never summed in a low precision.
    assert torch.equal(adj.value, expected.value)


@pytest.mark.parametrize('num_nodes', [(3, 4), 4])
def test_to_and_copies(num_nodes):
    adj = NormalizedAdjacency(EDGE_INDEX, num_nodes=num_nodes)
    propagate(torch.randn(4, 2, dtype=torch.float64), adj)  # Fills the cache of values.
    buffer = io.BytesIO()
    torch.save(adj, buffer)
    buffer.seek(0)
    copies = [
        copy.copy(adj),
        copy.deepcopy(adj),
        pickle.loads(pickle.dumps(adj)),
        torch.load(buffer, weights_only=False),
        adj.to('cpu'),
    ]
    for other in copies:
        assert str(other) == str(adj)
        assert torch.equal(other.to_dense(), adj.to_dense())
        assert torch.equal(other.t().to_dense(), adj.t().to_dense())
    assert copies[1].value.data_ptr() != adj.value.data_ptr()

    double = adj.to(torch.float64)
    assert double.dtype == double.t().dtype == torch.float64
    assert double.col.dtype == double.rowptr.dtype == torch.int32
    assert torch.allclose(double.to_dense().float(), adj.to_dense())


def test_symmetric_copies_share_arrays():
    adj = NormalizedAdjacency(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
    for other in (adj, copy.deepcopy(adj), pickle.loads(pickle.dumps(adj)), adj.to(torch.float64)):
        assert other.is_symmetric
        assert other.t() is other
        assert other._csr_t is other._csr


def test_deepcopy_with_gradient():
    weight = torch.ones(7, requires_grad=True)
    adj = NormalizedAdjacency(EDGE_INDEX, weight, num_nodes=(3, 4))
    for other in (copy.deepcopy(adj), pickle.loads(pickle.dumps(adj))):
        assert not other.value.requires_grad
        assert torch.equal(other.t().to_dense(), adj.t().to_dense())


@withCUDA
def test_device(device):
    adj = NormalizedAdjacency(EDGE_INDEX.to(device), num_nodes=(3, 4))
    assert adj.device == device
    moved = NormalizedAdjacency(EDGE_INDEX, num_nodes=(3, 4)).to(device)
    for name in ('rowptr', 'col', 'value'):
        assert getattr(moved, name).device == device
        assert torch.equal(getattr(moved, name), getattr(adj, name))
        assert torch.equal(getattr(moved.t(), name), getattr(adj.t(), name))


EDGE_WEIGHT = torch.ones(7)


@pytest.mark.parametrize(
    ('error', 'message', 'adj', 'kwargs'),
    [
        (ValueError, "'num_nodes' must be set", EDGE_INDEX, {}),
        (ValueError, "'num_nodes' must be set", EdgeIndex(EDGE_INDEX), {}),
        (ValueError, 'row ids from 0 to 2', EDGE_INDEX, {'num_nodes': (2, 4)}),
        (ValueError, 'column ids from 0 to 3', EDGE_INDEX, {'num_nodes': 3}),
        (ValueError, 'row ids from -1 to 1', EDGE_INDEX - 1, {'num_nodes': 4}),
        (ValueError, 'an integer or a pair', EDGE_INDEX, {'num_nodes': 4.0}),
        (ValueError, 'an integer or a pair', EDGE_INDEX, {'num_nodes': (3, 4, 5)}),
        (ValueError, 'an integer or a pair', EDGE_INDEX, {'num_nodes': -1}),
        (ValueError, 'does not match the size', torch.eye(3).to_sparse(), {'num_nodes': 4}),
        (
            ValueError,
            'does not match the size',
            EdgeIndex(EDGE_INDEX, sparse_size=(3, 4)),
            {'num_nodes': (4, 3)},
        ),
        (ValueError, r'shape \[2, num_edges\]', EDGE_INDEX.t(), {'num_nodes': 4}),
        (ValueError, r'shape \[2, num_edges\]', EDGE_INDEX[0], {'num_nodes': 4}),
        (TypeError, 'integer ids', EDGE_INDEX.float(), {'num_nodes': 4}),
        (TypeError, 'got list', EDGE_INDEX.tolist(), {'num_nodes': 4}),
        (TypeError, '3 dimensions', torch.ones(2, 2, 2).to_sparse(), {}),
        (
            ValueError,
            "'sym', 'left' or None",
            EDGE_INDEX,
            {'num_nodes': 4, 'normalization': 'right'},
        ),
        (
            ValueError,
            'one value for each of the 7',
            EDGE_INDEX,
            {'num_nodes': 4, 'edge_weight': torch.ones(6)},
        ),
        (
            ValueError,
            'negative.*-1',
            EDGE_INDEX,
            {'num_nodes': 4, 'edge_weight': -EDGE_WEIGHT},
        ),
        (
            ValueError,
            'negative.*left',
            EDGE_INDEX,
            {'num_nodes': 4, 'edge_weight': -EDGE_WEIGHT, 'normalization': 'left'},
        ),
        (
            ValueError,
            'finite',
            EDGE_INDEX,
            {'num_nodes': 4, 'edge_weight': EDGE_WEIGHT * float('nan')},
        ),
        (
            ValueError,
            'has its own',
            torch.eye(3).to_sparse(),
            {'edge_weight': torch.ones(3)},
        ),
    ],
)
def test_errors(error, message, adj, kwargs):
    with pytest.raises(error, match=message):
        NormalizedAdjacency(adj, **kwargs)


def test_negative_weights_without_normalization():
    adj = NormalizedAdjacency(EDGE_INDEX, -EDGE_WEIGHT, num_nodes=(3, 4), normalization=None)
    assert adj.value.tolist() == [-1] * 7


@pytest.mark.parametrize('size', [(6, 9), 8])
def test_select(size):
    rows, cols = (size, size) if isinstance(size, int) else size
    dense = torch.rand(rows, cols) * (torch.rand(rows, cols) < 0.4)
    if isinstance(size, int):
        dense = dense + dense.t()
    dense[2] = 0.0
    if isinstance(size, int):
        dense[:, 2] = 0.0
    adj = NormalizedAdjacency(dense.nonzero().t(), dense[dense != 0], num_nodes=size)
    for ids in ([5, 0, 2, 5], [2], [], list(range(rows))):
        index = torch.tensor(ids, dtype=torch.long)
        part = adj.select(index)
        assert part.size() == (len(ids), cols) and not part.is_symmetric
        assert torch.equal(part.to_dense(), adj.to_dense()[index])
        assert torch.equal(part.t().to_dense(), adj.to_dense()[index].t())
        x = torch.randn(cols, 3, requires_grad=True)
        grad = torch.randn(len(ids), 3)
        actual, expected = propagate(x, part), propagate(x, adj)[index]
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(
            *(torch.autograd.grad(out, x, grad)[0] for out in (actual, expected))
        )


@pytest.mark.parametrize('num_nodes', [(3, 4), 4])
def test_index_types(num_nodes, monkeypatch):
    adj = NormalizedAdjacency(EDGE_INDEX, num_nodes=num_nodes)
    assert adj.rowptr.dtype == adj.col.dtype == adj.t().col.dtype == torch.int32
    monkeypatch.setattr(import_module('mrdib_pyg.ops.adjacency'), '_INT32_END', 4)
    long = NormalizedAdjacency(EDGE_INDEX, num_nodes=num_nodes)
    assert long.rowptr.dtype == long.col.dtype == long.t().rowptr.dtype == torch.int64
    assert long.select(torch.tensor([2, 0])).rowptr.dtype == torch.int64
    x = torch.randn(4, 3)
    assert torch.equal(propagate(x, long), propagate(x, adj))
    assert torch.equal(long.t().to_dense(), adj.t().to_dense())


def test_to_edge_index():
    weight = torch.rand(7)
    adj = NormalizedAdjacency(
        EDGE_INDEX.flip(1), weight.flip(0), num_nodes=(3, 4), normalization=None
    )
    edge_index, value = adj.to_edge_index()
    assert edge_index.dtype == torch.int64
    assert torch.equal(edge_index, EDGE_INDEX)
    assert torch.equal(value, weight)


@pytest.mark.parametrize('dtype', [torch.int32, torch.int64])
def test_later_changes_of_the_edges_do_not_matter(dtype):
    edge_index = EDGE_INDEX.to(dtype, copy=True)
    adj = NormalizedAdjacency(edge_index, num_nodes=(3, 4))
    expected = adj.to_dense()
    edge_index.zero_()
    assert torch.equal(adj.to_dense(), expected)


@pytest.mark.parametrize('normalization', ['sym', 'left', None])
@pytest.mark.parametrize('num_nodes', [(8, 8), 8])
def test_without_weights_equals_ones(num_nodes, normalization):
    edge_index, _, _ = random_graph(8, 8, 40)  # With repeated edges.
    adj = NormalizedAdjacency(edge_index, num_nodes=num_nodes, normalization=normalization)
    ones = NormalizedAdjacency(
        edge_index, torch.ones(40), num_nodes=num_nodes, normalization=normalization
    )
    assert adj.nnz < 40
    assert torch.equal(adj.value, ones.value)
    assert torch.equal(adj.col, ones.col)


def test_cut_rows():
    rowptr = torch.tensor([0, 0, 5, 8, 9, 16], dtype=torch.int32)
    row, piece_ptr, first, last, owner = cut_rows(rowptr, 3)
    assert row.tolist() == [1, 4]
    assert piece_ptr.tolist() == [0, 2, 5]
    assert first.tolist() == [0, 3, 9, 12, 15]
    assert last.tolist() == [3, 5, 12, 15, 16]
    assert owner.tolist() == [0, 0, 1, 1, 1]
    assert {t.dtype for t in (row, piece_ptr, first, last, owner)} == {torch.int32}
    assert [t.tolist() for t in cut_rows(rowptr, 7)] == [[], [0], [], [], []]


@pytest.mark.parametrize('num_rows', [100, 2**16, 2**16 + 1, 2**20, 2**33])
@pytest.mark.parametrize('size', [0, 1, 300, _MAX_RADIX + 1])
@pytest.mark.parametrize('dtype', [torch.int32, torch.int64])
def test_sort_stable(num_rows, size, dtype):
    if num_rows > torch.iinfo(dtype).max:
        pytest.skip('ids that the type does not hold')
    index = torch.randint(num_rows, (size,), dtype=dtype)
    index[: size // 2] = num_rows - 1
    value, perm = sort_stable(index, num_rows)
    expected = index.sort(stable=True)
    assert torch.equal(value, expected.values) and torch.equal(perm, expected.indices)
    assert value.dtype == dtype


@pytest.mark.parametrize('dtype', [torch.int32, torch.int64])
def test_to_rowptr(dtype):
    rowptr = to_rowptr(torch.tensor([0, 0, 2, 2, 2], dtype=dtype), 5)
    assert torch.equal(rowptr, torch.tensor([0, 2, 2, 5, 5, 5], dtype=dtype))
    assert to_rowptr(torch.empty(0, dtype=dtype), 2).tolist() == [0, 0, 0]
