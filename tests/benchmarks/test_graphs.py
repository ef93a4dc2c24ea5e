import pytest
import torch

from benchmarks.graphs import Graph, grown, random_graph, real_graph, to_hetero_data
from benchmarks.ops.pid_loss import pid_loss_bytes
from benchmarks.ops.propagation import propagation_bytes
from benchmarks.scaling.edges import slope


@pytest.mark.parametrize('skew', ['uniform', 'power law'])
def test_edges_are_distinct_in_range_and_as_many_as_asked(skew):
    graph = random_graph(50, 20, 300, skew)
    user, item = graph.edge_index
    assert graph.edge_index.shape == (2, 300)
    assert torch.unique(user * 20 + item).numel() == 300
    assert 0 <= int(user.min()) and int(user.max()) < 50
    assert 0 <= int(item.min()) and int(item.max()) < 20
    assert torch.equal(graph.edge_index, random_graph(50, 20, 300, skew).edge_index)
    assert not torch.equal(graph.edge_index, random_graph(50, 20, 300, skew, seed=1).edge_index)


def test_a_power_law_is_skewed():
    degrees = [
        torch.bincount(random_graph(2000, 500, 5000, skew).edge_index[1]).max()
        for skew in ('uniform', 'power law')
    ]
    assert degrees[1] > 4 * degrees[0]


def test_refusals():
    with pytest.raises(ValueError, match="'skew'.*'other'"):
        random_graph(5, 5, 5, 'other')
    with pytest.raises(ValueError, match="'num_edges'.*9.*4 x 4"):
        random_graph(4, 4, 9)


def test_symmetric_edges():
    graph = random_graph(5, 4, 6)
    dense = torch.zeros(9, 9)
    dense[tuple(graph.symmetric())] = 1
    assert torch.equal(dense, dense.t()) and dense.sum() == 12
    assert torch.equal(dense[:5, 5:].nonzero().t(), graph.edge_index)


def test_orders_of_nodes():
    edges = torch.tensor([[0, 0, 1, 3, 3, 3], [2, 1, 1, 1, 2, 0]])
    graph = Graph('toy', edges, 4, 3, 'none')
    user, item = graph.by_degree()
    assert (user.tolist(), item.tolist()) == ([3, 0, 1, 2], [1, 2, 0])
    user, item = graph.by_rarest_item()  # the user without items, then by the last of theirs
    assert (user.tolist(), item.tolist()) == ([2, 1, 0, 3], [1, 2, 0])
    new = graph.renumbered((user, item))
    assert new.num_users == 4 and new.num_items == 3
    assert torch.equal(torch.stack([user[new.edge_index[0]], item[new.edge_index[1]]]), edges)


def test_nodes_grow_with_the_edges():
    assert grown(10**6) == (83_333, 27_777, 10**6)


def test_held_out_edges_are_new():
    data = to_hetero_data(random_graph(40, 30, 200), {'image': 5}, held_out=50)
    assert data['item'].x_image.shape == (30, 5)
    seen = {tuple(e) for e in data['user', 'rates', 'item'].edge_index.t().tolist()}
    for split in ('val', 'test'):
        edges = {tuple(e) for e in data['user', split, 'item'].edge_label_index.t().tolist()}
        assert len(edges) > 10 and not edges & seen
        seen |= edges


def test_real_edges(data_root):
    graph = real_graph(data_root / 'amazon-baby')
    assert graph.edge_index.shape == (2, 118_551)
    assert (graph.num_users, graph.num_items, graph.skew) == (19_445, 7_050, 'real')


def test_bytes_of_a_product():
    requested, compulsory = propagation_bytes(10, 20, 100, channels=4, itemsize=4)
    matrix, written = 100 * 12 + 11 * 8, 10 * 4 * 4
    assert requested == matrix + 100 * 16 + written
    assert compulsory == matrix + 20 * 16 + written


def test_bytes_of_the_pid_loss():
    forward = pid_loss_bytes(10, 20, 100, [4, 4, 8], 4, backward=False)
    index, scalars, rows, tables = 2400, 1200, 3 * 100 * 16 * 4, 30 * 16 * 4
    assert forward == (index + rows + scalars, index + tables + scalars)
    both = pid_loss_bytes(10, 20, 100, [4, 4, 8], 4, backward=True)
    assert both[0] == forward[0] + index + scalars + 4 * rows // 3 + tables
    assert both[1] == forward[1] + index + scalars + 2 * tables


def test_slopes_of_known_powers():
    assert slope([(n, 3.0 * n**1.5) for n in (10, 100, 1000)]) == pytest.approx(1.5)
    assert slope([(10, 7.0), (100, 7.0)]) == pytest.approx(0.0)
