import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor

from mrdib_pyg.nn import ModalityConv
from mrdib_pyg.ops import NormalizedAdjacency, pid_loss, propagate_mean

EDGE_INDEX = torch.tensor([[0, 0, 1, 2, 2, 2], [1, 3, 0, 0, 2, 3]])
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25, 1.5])


def coo(size, weight=None):
    """The matrix of users times items."""
    weight = torch.ones(EDGE_INDEX.size(1)) if weight is None else weight
    return torch.sparse_coo_tensor(EDGE_INDEX, weight, size).coalesce()


def sparse_tensor(size, weight=None):
    if not WITH_TORCH_SPARSE:
        pytest.skip('needs torch-sparse')
    return SparseTensor.from_edge_index(EDGE_INDEX, weight, size)


KINDS = {
    'EdgeIndex': lambda size, w: EdgeIndex(EDGE_INDEX, sparse_size=size),
    'coo': coo,
    'csr': lambda size, w=None: coo(size, w).to_sparse_csr(),
    'csc': lambda size, w=None: coo(size, w).to_sparse_csc(),
    'SparseTensor': sparse_tensor,
    'prepared': lambda size, w=None: NormalizedAdjacency(EDGE_INDEX, w, num_nodes=size),
}


def inputs(num_users=3, num_items=4):
    return torch.randn(num_users, 8), torch.randn(num_items, 6)


@pytest.mark.parametrize('num_items', [4, 3 + 2])
@pytest.mark.parametrize('num_users', [3, 4, 5])  # also as many users as items
@pytest.mark.parametrize('kind', KINDS)
def test_adjacencies_are_equal(kind, num_users, num_items):
    conv = ModalityConv(6, 8)
    x = inputs(num_users, num_items)
    expected = conv(x, EDGE_INDEX)
    actual = conv(x, KINDS[kind]((num_users, num_items), None))
    assert [t.shape for t in actual] == [(num_users, 8), (num_items, 8)]
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('layout', ['coo', 'csr', 'csc'])
def test_a_square_matrix_is_users_times_items_everywhere(layout):
    """Nothing but the convention tells the two sides of a square matrix apart."""
    matrix = getattr(coo((4, 4)), {'coo': 'coalesce'}.get(layout, f'to_sparse_{layout}'))()
    adj = NormalizedAdjacency(matrix, num_nodes=(4, 4))
    assert torch.equal(adj.to_edge_index()[0], EDGE_INDEX)
    x, conv = inputs(4, 4), ModalityConv(6, 8)
    expected = conv(x, EDGE_INDEX)
    assert not torch.allclose(expected[0], conv(x, EDGE_INDEX.flip(0))[0])
    torch.testing.assert_close(conv(x, matrix), expected)
    torch.testing.assert_close(conv(x, adj), expected)
    table, neg = torch.randn(4, 2), torch.zeros(6, dtype=torch.long)
    of_matrix = pid_loss([(table, x[0][:, :2])], None, matrix, neg)
    of_edges = pid_loss([(table, x[0][:, :2])], None, *EDGE_INDEX, neg)
    torch.testing.assert_close(of_matrix.unique, of_edges.unique)


@pytest.mark.parametrize('kind', ['coo', 'csr', 'csc', 'SparseTensor', 'prepared'])
def test_weighted_adjacencies_are_equal(kind):
    conv = ModalityConv(6, 8)
    x = inputs()
    expected = conv(x, EDGE_INDEX, WEIGHT)
    assert not torch.allclose(expected[0], conv(x, EDGE_INDEX)[0])
    torch.testing.assert_close(conv(x, KINDS[kind]((3, 4), WEIGHT)), expected)


def test_dense_reference():
    conv = ModalityConv(6, 8, num_layers=3)
    x_user, x_item = inputs()
    dense = torch.zeros(7, 7)
    dense[EDGE_INDEX[0], 3 + EDGE_INDEX[1]] = 1.0
    dense = dense + dense.t()
    scale = dense.sum(dim=1).clamp(min=1).rsqrt()
    dense = scale.unsqueeze(1) * dense * scale
    x = torch.cat([x_user, x_item @ conv.lin.weight.t() + conv.lin.bias])
    expected = sum(torch.linalg.matrix_power(dense, n) @ x for n in range(4)) / 4
    torch.testing.assert_close(torch.cat(conv((x_user, x_item), EDGE_INDEX)), expected)


def test_one_id_space():
    conv = ModalityConv(6, 8)
    edge_index = torch.cat([EDGE_INDEX, EDGE_INDEX.flip(0)], dim=1) + torch.tensor([[0], [0]])
    x = torch.randn(5, 6)
    out = conv(x, edge_index)
    adj = NormalizedAdjacency(edge_index, num_nodes=5)
    torch.testing.assert_close(out, propagate_mean(conv.lin(x), adj, 2))
    matrix = torch.sparse_coo_tensor(edge_index, torch.ones(edge_index.size(1)), (5, 5))
    torch.testing.assert_close(conv(x, matrix), out)
    torch.testing.assert_close(conv(x, adj), out)


def test_without_normalization():
    conv = ModalityConv(6, 8, num_layers=1, normalize=False)
    x_user, x_item = inputs()
    out = conv((x_user, x_item), EDGE_INDEX, WEIGHT)
    dense = torch.zeros(3, 4).index_put((EDGE_INDEX[0], EDGE_INDEX[1]), WEIGHT)
    x_item = conv.lin(x_item)
    torch.testing.assert_close(out[0], (x_user + dense @ x_item) / 2)
    torch.testing.assert_close(out[1], (x_item + dense.t() @ x_user) / 2)
    torch.testing.assert_close(conv((x_user, inputs()[1]), coo((3, 4)))[0].shape, out[0].shape)


@pytest.mark.parametrize('kind', ['edge_index', *KINDS])
def test_users_without_preference_start_at_zero(kind):
    conv = ModalityConv(6, 8)
    _, x_item = inputs()
    adj = EDGE_INDEX if kind == 'edge_index' else KINDS[kind]((3, 4), None)
    expected = conv((torch.zeros(3, 8), x_item), EDGE_INDEX)
    torch.testing.assert_close(conv((None, x_item), adj), expected)


def test_no_edges():
    conv = ModalityConv(6, 8, num_layers=2)
    x_user, x_item = inputs()
    out = conv((x_user, x_item), torch.empty(2, 0, dtype=torch.long))
    torch.testing.assert_close(out, (x_user / 3, conv.lin(x_item) / 3))
    assert conv((None, x_item), torch.empty(2, 0, dtype=torch.long))[0].shape == (0, 8)


def test_no_layers_is_the_feature_map():
    conv = ModalityConv(6, 8, num_layers=0)
    x_user, x_item = inputs()
    out = conv((x_user, x_item), EDGE_INDEX)
    assert torch.equal(out[0], x_user)
    assert torch.equal(out[1], conv.lin(x_item))


def test_permutation_equivariance():
    conv = ModalityConv(6, 8)
    x_user, x_item = inputs()
    out = conv((x_user, x_item), EDGE_INDEX)
    users, items = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    edge_index = torch.stack([users.argsort()[EDGE_INDEX[0]], items.argsort()[EDGE_INDEX[1]]])
    permuted = conv((x_user[users], x_item[items]), edge_index)
    torch.testing.assert_close(permuted, (out[0][users], out[1][items]))


def test_order_of_edges_changes_no_bit():
    conv = ModalityConv(6, 8)
    x = inputs()
    expected = conv(x, EDGE_INDEX)
    for _ in range(3):
        out = conv(x, EDGE_INDEX[:, torch.randperm(EDGE_INDEX.size(1))])
        assert all(torch.equal(a, b) for a, b in zip(out, expected))


def test_gradients():
    conv = ModalityConv(6, 8)
    x_user, x_item = inputs()
    x_user.requires_grad_()
    weight = WEIGHT.clone().requires_grad_()
    user, item = conv((x_user, x_item), EDGE_INDEX, weight)
    (user.square().sum() + item.square().sum()).backward()
    for tensor in (x_user, weight, *conv.parameters()):
        assert torch.isfinite(tensor.grad).all()
        assert (tensor.grad != 0).any()


def test_lazy_initialization():
    conv = ModalityConv(-1, 8)
    assert conv(inputs(), EDGE_INDEX)[1].shape == (4, 8)
    assert conv.lin.weight.shape == (8, 6)
    conv.reset_parameters()
    assert (conv.lin.bias == 0).all()


def test_without_bias():
    conv = ModalityConv(6, 8, bias=False)
    assert [name for name, _ in conv.named_parameters()] == ['lin.weight']


def test_reset_parameters_is_seeded():
    conv = ModalityConv(6, 8)
    torch.manual_seed(1)
    conv.reset_parameters()
    first = conv.lin.weight.clone()
    torch.manual_seed(1)
    conv.reset_parameters()
    assert torch.equal(conv.lin.weight, first)
    assert (first.abs() <= (6 / (6 + 8)) ** 0.5).all()


# torch instantiates the autograd function while it traces it.
@pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning')
def test_compiles_as_one_graph():
    conv = ModalityConv(6, 8)
    adj = NormalizedAdjacency(EDGE_INDEX, num_nodes=(3, 4))
    compiled = torch.compile(conv, fullgraph=True, backend='aot_eager')
    x = inputs()
    out = compiled(x, adj)
    torch.testing.assert_close(out, conv(x, adj))
    out[1].sum().backward()
    assert (conv.lin.weight.grad != 0).any()


def test_errors():
    conv = ModalityConv(6, 8)
    x_user, x_item = inputs()
    with pytest.raises(ValueError, match=r"'num_layers' must not be negative \(got -1\)"):
        ModalityConv(6, 8, num_layers=-1)
    with pytest.raises(ValueError, match=r"8 wide, as 'out_channels' \(got 5\)"):
        conv((torch.zeros(3, 5), x_item), EDGE_INDEX)
    # The most likely mistake: a matrix that is transposed.
    with pytest.raises(ValueError, match=r"'edge_index' .* 3 users .* 4 .*\(4, 3\).*adj_t"):
        conv((x_user, x_item), coo((3, 4)).t())
    with pytest.raises(ValueError, match=r"'edge_index' .* 3 users .* 4 .*\(3, 5\)"):
        conv((x_user, x_item), NormalizedAdjacency(EDGE_INDEX, num_nodes=(3, 5)))
    for kind in ('coo', 'prepared'):
        with pytest.raises(ValueError, match="'edge_weight'"):
            conv((x_user, x_item), KINDS[kind]((3, 4), None), WEIGHT)
    with pytest.raises(ValueError, match='column ids'):
        conv((x_user, x_item[:2]), EDGE_INDEX)


def test_repr():
    assert repr(ModalityConv(6, 8)) == 'ModalityConv(6, 8, num_layers=2)'
