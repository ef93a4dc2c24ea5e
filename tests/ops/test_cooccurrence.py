import pytest
import torch
from torch_geometric.testing import withCUDA

from mrdib_pyg.ops import cooccurrence_graph
from mrdib_pyg.ops import item_graphs as cooccurrence

TOY = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])
OTHER = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 3], [0, 1, 2, 0, 1, 3, 2, 4, 4]])


def naive(edge_index, num_users, k, weighting='softmax'):
    items = [set(edge_index[1, edge_index[0] == u].tolist()) for u in range(num_users)]
    rows, cols, weights = [], [], []
    for u in range(num_users):
        count = {v: len(items[u] & items[v]) for v in range(num_users) if v != u}
        kept = sorted((v for v in count if count[v] > 0), key=lambda v: (-count[v], v))[:k]
        raw = torch.tensor([float(count[v]) if weighting == 'softmax' else 0.0 for v in kept])
        rows, cols = rows + [u] * len(kept), cols + kept
        weights += raw.softmax(dim=0).tolist() if kept else []
    return torch.tensor([rows, cols], dtype=torch.long), torch.tensor(weights)


def interactions(num_users=40, num_items=25, seed=0):
    generator = torch.Generator().manual_seed(seed)
    popularity = torch.rand(num_items, generator=generator).square()
    rates = torch.rand(num_users, num_items, generator=generator) < 0.4 * popularity
    rates[3] = True  # everything
    rates[4] = False  # nothing
    rates[:, -1] = False
    rates[5] = False
    rates[5, -1] = True  # what nobody else has
    return rates.nonzero().t().contiguous()


def test_worked_examples():
    edge_index, weight = cooccurrence_graph(TOY, 3, 2)
    assert edge_index.tolist() == [[0, 0, 1, 2], [2, 1, 0, 0]]
    expected = torch.tensor([0.7311, 0.2689, 1, 1])
    torch.testing.assert_close(weight, expected, atol=1e-4, rtol=0)

    edge_index, weight = cooccurrence_graph(OTHER, 4, 40)
    assert edge_index.tolist() == [[0, 0, 1, 2, 2, 3], [1, 2, 0, 0, 3, 2]]
    expected = torch.tensor([0.7311, 0.2689, 1, 0.5, 0.5, 1])
    torch.testing.assert_close(weight, expected, atol=1e-4, rtol=0)


@withCUDA
@pytest.mark.parametrize('weighting', ['softmax', 'mean'])
@pytest.mark.parametrize('k', [1, 5, 100])
@pytest.mark.parametrize('size', [(40, 25), (11, 60)])
def test_values(device, size, k, weighting):
    edges = interactions(*size)
    edge_index, weight = cooccurrence_graph(edges.to(device), size[0], k, weighting=weighting)
    expected = naive(edges, size[0], k, weighting)
    assert torch.equal(edge_index.cpu(), expected[0])  # ties, too
    torch.testing.assert_close(weight.cpu(), expected[1])
    assert not ((edge_index[0] == 4) | (edge_index[0] == 5)).any() or size[0] < 6


@pytest.mark.parametrize('chunk_size', [1, 7, 100, 10**6])
def test_blocks_change_nothing(chunk_size):
    edges = interactions()
    expected = cooccurrence_graph(edges, 40, 4)
    actual = cooccurrence_graph(edges, 40, 4, chunk_size=chunk_size)
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


def test_blocks_are_bounded(monkeypatch):
    """A block expands to no more pairs than asked for, but for a single user's."""
    sizes = []
    largest = cooccurrence._largest

    def record(row, count, k):
        sizes.append((int(count.sum()), row.unique().numel()))
        return largest(row, count, k)

    monkeypatch.setattr(cooccurrence, '_largest', record)
    edges = interactions()
    cooccurrence_graph(edges, 40, 4, chunk_size=200)
    assert len(sizes) > 3 and all(pairs <= 200 or users == 1 for pairs, users in sizes)
    assert any(users > 1 for _, users in sizes)
    assert max(pairs for pairs, _ in sizes) <= max(200, edges.size(1))


def test_order_and_repeats_do_not_matter():
    edges = interactions()
    expected = cooccurrence_graph(edges, 40, 4)
    again = torch.cat([edges, edges[:, 10:50]], dim=1)
    again = again[:, torch.randperm(again.size(1))]
    for other in (again, again.int()):
        actual = cooccurrence_graph(other, 40, 4)
        assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


def test_large_counts_do_not_overflow():
    edges = torch.cartesian_prod(torch.arange(3), torch.arange(2000)).t()
    edge_index, weight = cooccurrence_graph(edges[:, :5000], 3, 2)
    assert edge_index.tolist() == [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    torch.testing.assert_close(weight, torch.tensor([1.0, 0, 1, 0, 0.5, 0.5]))


@pytest.mark.parametrize('edges', [[[], []], [[0, 1], [0, 1]]])
def test_no_neighbors(edges):
    edge_index, weight = cooccurrence_graph(torch.tensor(edges, dtype=torch.long), 3, 2)
    assert edge_index.shape == (2, 0) and weight.shape == (0,)


def test_refuses():
    for arguments, settings, message in (
        ((TOY.t(), 3, 2), {}, r"'edge_index' .*\[2, n\] .*\[7, 2\]"),
        ((TOY.float(), 3, 2), {}, r"'edge_index' .*torch.float32"),
        ((TOY - 1, 3, 2), {}, r"'edge_index' .*\(got -1\)"),
        ((TOY, 2, 2), {}, r"'edge_index' .*user.*\(got 2\)"),
        ((TOY, 3, 0), {}, r"'k' must be at least 1 \(got 0\)"),
        ((TOY, 3, 2), {'chunk_size': 0}, r"'chunk_size' must be at least 1 \(got 0\)"),
        ((TOY, 3, 2), {'weighting': 'sum'}, r"'weighting' must be one of .* \(got 'sum'\)"),
    ):
        with pytest.raises(ValueError, match=message):
            cooccurrence_graph(*arguments, **settings)
