import itertools
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.testing import withCUDA

from mrdib_pyg.ops import NormalizedAdjacency, feature_knn_graph
from mrdib_pyg.ops import item_graphs as cooccurrence
from mrdib_pyg.ops import item_graphs as knn
from mrdib_pyg.ops._topk import stable_topk
from mrdib_pyg.ops.item_graphs import cooccurrence_graph, edge_cosine, prune_edges

IMAGE = torch.tensor([[1, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
TEXT = torch.tensor([[1, 0.2], [2, 1], [-0.1, 1], [1, -1]])


def neighbors(edge_index, num_nodes):
    assert torch.equal(edge_index[0], edge_index[0].sort().values)
    return {i: edge_index[1, edge_index[0] == i].tolist() for i in range(num_nodes)}


def naive_knn(x, k, mask=None):
    x = x.double()
    rows, cols, weights = [], [], []
    present = [i for i in range(len(x)) if mask is None or mask[i]]
    for i in range(len(x)):
        if i not in present:
            rows, cols, weights = rows + [i], cols + [i], weights + [1.0]
            continue
        similarity = {}
        for j in present:
            norm = float(x[i].norm() * x[j].norm())
            similarity[j] = float(x[i] @ x[j]) / norm if norm > 0 else 0.0
        others = sorted((j for j in present if j != i), key=lambda j: -round(similarity[j], 9))
        for j in [i, *others][:k]:
            rows, cols, weights = rows + [i], cols + [j], weights + [similarity[j]]
    return torch.tensor([rows, cols]), torch.tensor(weights)


def test_oracle():
    edge_index, edge_weight = feature_knn_graph(IMAGE, 2)
    assert neighbors(edge_index, 4) == {0: [0, 3], 1: [1, 2], 2: [2, 1], 3: [3, 0]}
    expected = torch.tensor([1, 0.8944, 1, 0.6325, 1, 0.6325, 1, 0.8944])
    assert torch.allclose(edge_weight, expected, atol=1e-4)

    edge_index, edge_weight = feature_knn_graph(TEXT, 2)
    assert neighbors(edge_index, 4) == {0: [0, 1], 1: [1, 0], 2: [2, 1], 3: [3, 0]}
    expected = torch.tensor([1, 0.9648, 1, 0.9648, 1, 0.3560, 1, 0.5547])
    assert torch.allclose(edge_weight, expected, atol=1e-4)


def test_oracle_of_the_normalized_graph():
    # The directed graph with weights W_ij / sqrt(r_i r_j), r the row sums.
    adj = NormalizedAdjacency(*feature_knn_graph(IMAGE, 2), num_nodes=4)
    expected = [[0.5279, 0, 0, 0.4721], [0, 0.6126, 0.3874, 0], [0, 0.3874, 0.6126, 0]]
    expected = torch.tensor([*expected, [0.4721, 0, 0, 0.5279]])
    assert torch.allclose(adj.to_dense(), expected, atol=1e-4)
    adj = NormalizedAdjacency(*feature_knn_graph(TEXT, 2), num_nodes=4)
    expected = [[0.5090, 0.4910, 0, 0], [0.4910, 0.5090, 0, 0], [0, 0.2181, 0.7375, 0]]
    expected = torch.tensor([*expected, [0.3174, 0, 0, 0.6432]])
    assert torch.allclose(adj.to_dense(), expected, atol=1e-4)


def test_oracle_with_a_missing_item():
    mask = torch.tensor([True, True, True, False])
    for x in (IMAGE, IMAGE.index_fill(0, torch.tensor([3]), torch.nan)):
        edge_index, edge_weight = feature_knn_graph(x, 2, mask=mask)
        assert neighbors(edge_index, 4) == {0: [0, 2], 1: [1, 2], 2: [2, 1], 3: [3]}
        assert edge_weight[-1] == 1

    # The convex sum of both graphs in their binary form.
    dense = []
    for x, keep in ((IMAGE, mask), (TEXT, None)):
        edge_index, _ = feature_knn_graph(x, 2, mask=keep)
        dense.append(NormalizedAdjacency(edge_index, num_nodes=4, normalization='left').to_dense())
    weight = torch.tensor([[0.1], [0.1], [0.1], [0.0]])
    out = weight * dense[0] + (1 - weight) * dense[1]
    expected = [[0.5, 0.45, 0.05, 0], [0.45, 0.5, 0.05, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]]
    assert torch.allclose(out, torch.tensor(expected), atol=1e-6)


@withCUDA
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('chunk_size', [None, 1, 7, 100])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_naive(masked, chunk_size, dtype, device):
    x = torch.randn(30, 5, dtype=dtype, device=device)
    mask = torch.rand(30, device=device) > 0.3 if masked else None
    for k in (1, 4, 30):
        edge_index, edge_weight = feature_knn_graph(x, k, mask=mask, chunk_size=chunk_size)
        expected_index, expected_weight = naive_knn(x, k, mask)
        assert edge_weight.dtype == dtype
        assert torch.equal(edge_index.cpu(), expected_index)
        assert torch.allclose(edge_weight.cpu(), expected_weight.to(dtype), atol=1e-5)


def test_ties_are_broken_by_id():
    # Rows of one-hot vectors: similarities are exactly zero or one.
    x = torch.eye(3)[torch.tensor([0, 1, 0, 0, 1, 2, 0])] * torch.arange(1, 8).view(-1, 1)
    for k in range(1, 8):
        edge_index, edge_weight = feature_knn_graph(x, k, chunk_size=3)
        expected_index, expected_weight = naive_knn(x, k)
        assert torch.equal(edge_index, expected_index)
        assert torch.equal(edge_weight, expected_weight)


def test_a_row_is_its_own_first_neighbor():
    # Among many copies of a row, whatever the rounding of its similarity to them.
    x = torch.randn(1, 37).expand(50, 37) * torch.rand(50, 1)
    edge_index, edge_weight = feature_knn_graph(x, 3)
    assert edge_index[1].view(50, 3)[:, 0].tolist() == list(range(50))
    assert edge_weight.view(50, 3)[:, 0].tolist() == [1.0] * 50
    assert edge_weight.max() == 1


def test_zero_rows():
    x = torch.tensor([[0.0, 0], [1, 0], [0, 0], [1, 1]])
    edge_index, edge_weight = feature_knn_graph(x, 3)
    assert neighbors(edge_index, 4) == {0: [0, 1, 2], 1: [1, 3, 0], 2: [2, 0, 1], 3: [3, 1, 0]}
    expected = [0, 0, 0, 1, math.sqrt(0.5), 0, 0, 0, 0, 1, math.sqrt(0.5), 0]
    assert torch.allclose(edge_weight, torch.tensor(expected))


def test_mask():
    x = torch.randn(6, 4)
    full = feature_knn_graph(x, 3)
    everyone = feature_knn_graph(x, 3, mask=torch.ones(6, dtype=torch.bool))
    assert torch.equal(full[0], everyone[0])
    assert torch.equal(full[1], everyone[1])

    # Fewer than k rows have features.
    mask = torch.tensor([False, True, False, False, True, False])
    edge_index, edge_weight = feature_knn_graph(x, 3, mask=mask)
    assert neighbors(edge_index, 6) == {0: [0], 1: [1, 4], 2: [2], 3: [3], 4: [4, 1], 5: [5]}

    edge_index, edge_weight = feature_knn_graph(x, 3, mask=torch.zeros(6, dtype=torch.bool))
    assert edge_index.tolist() == [list(range(6))] * 2
    assert edge_weight.tolist() == [1.0] * 6


def test_low_precision_and_gradients():
    x = torch.randn(8, 4, requires_grad=True)
    _, edge_weight = feature_knn_graph(x.bfloat16(), 3)
    assert edge_weight.dtype == torch.float32
    assert not edge_weight.requires_grad
    assert feature_knn_graph(torch.randint(5, (8, 4)), 2)[1].dtype == torch.float32


def test_similarities_never_exist_as_a_whole(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        knn,
        'stable_topk',
        lambda scores, k: (sizes.append(tuple(scores.shape)), stable_topk(scores, k))[1],
    )
    monkeypatch.setattr(knn, 'MAX_SCORES', 50)
    feature_knn_graph(torch.randn(12, 4), 3)
    assert sizes == [(4, 12)] * 3


X = torch.ones(4, 2)


@pytest.mark.parametrize(
    ('message', 'args', 'kwargs'),
    [
        (r'between 1 and the 4 rows .* \(got 5\)', (X, 5), {}),
        (r'\(got 0\)', (X, 0), {}),
        ("'x' must be a matrix", (X[0], 1), {}),
        ('one bool for each of the 4 rows', (X, 1), {'mask': torch.ones(3, dtype=torch.bool)}),
        ('one bool for each of the 4 rows', (X, 1), {'mask': torch.ones(4)}),
        ("'chunk_size'", (X, 1), {'chunk_size': 0}),
        ("row 2 of 'x'", (torch.tensor([[1.0], [2.0], [torch.inf]]), 1), {}),
        (
            "row 2 of 'x'",
            (torch.tensor([[torch.nan], [2.0], [torch.nan]]), 1),
            {'mask': torch.tensor([False, True, True])},
        ),
    ],
)
def test_errors(message, args, kwargs):
    with pytest.raises(ValueError, match=message):
        feature_knn_graph(*args, **kwargs)


# The function hides the module of the same name.
edge_cosine_module = sys.modules['mrdib_pyg.ops.item_graphs']


def test_against_all_pairs(monkeypatch):
    x = torch.randn(9, 5)
    x[4] = 0.0
    edge_index = torch.cartesian_prod(torch.arange(9), torch.arange(9)).t()
    expected = F.normalize(x) @ F.normalize(x).t()
    for budget in (5, 35, 2**22):
        monkeypatch.setattr(edge_cosine_module, '_MAX_GATHERED', budget)
        torch.testing.assert_close(edge_cosine(x, edge_index).view(9, 9), expected)
    assert edge_cosine(x, edge_index[:, :0]).shape == (0,)
    assert edge_cosine(torch.full((2, 3), 0.1), torch.tensor([[0], [1]])) <= 1


def test_both_directions_have_the_same_bits():
    x = torch.randn(50, 33)
    edge_index = torch.randint(50, (2, 400))
    assert torch.equal(edge_cosine(x, edge_index), edge_cosine(x, edge_index.flip(0)))


def test_data_types():
    edge_index = torch.tensor([[0, 1], [1, 2]])
    for dtype in (torch.float16, torch.long):
        assert edge_cosine(torch.ones(3, 4).to(dtype), edge_index).dtype == torch.float32
    assert edge_cosine(torch.ones(3, 4).double(), edge_index).dtype == torch.float64
    x = torch.ones(3, 4, requires_grad=True)
    assert not edge_cosine(x, edge_index).requires_grad


def test_errors_cosine():
    with pytest.raises(ValueError, match="'x' must be a matrix"):
        edge_cosine(torch.ones(3), torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"'edge_index' .*\[3\]"):
        edge_cosine(torch.ones(3, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"'edge_index' .*\[0, 3\) \(got 3\)"):
        edge_cosine(torch.ones(3, 2), torch.tensor([[0], [3]]))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_rows_that_are_not_finite_are_refused(value):
    x = torch.tensor([[1.0, 2.0], [value, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match="row 1 of 'x' holds NaN or infinity"):
        edge_cosine(x, torch.tensor([[0], [2]]))


# The worked example: 3 users, 4 items.
EDGES = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])
PROBABILITY = [0.1228, 0.1228, 0.1228, 0.2126, 0.1228, 0.1228, 0.1736]
SIZE = {'num_nodes': (3, 4)}


def test_first_draw_of_the_worked_example():
    generator = torch.Generator().manual_seed(0)
    count = torch.zeros(7)
    for _ in range(20_000):  # a single edge is kept
        kept = prune_edges(EDGES, 0.8, generator=generator, **SIZE)
        count[kept] += 1
    assert count.sum() == 20_000
    # Four standard deviations.
    torch.testing.assert_close(count / 20_000, torch.tensor(PROBABILITY), atol=0.012, rtol=0)


def test_draws_without_replacement():
    # Of pairs, against one draw after the other.
    p = torch.tensor(PROBABILITY) / sum(PROBABILITY)
    expected = {
        (i, j): float(p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]))
        for i, j in itertools.combinations(range(7), 2)
    }
    generator = torch.Generator().manual_seed(0)
    count = dict.fromkeys(expected, 0)
    for _ in range(20_000):
        count[tuple(prune_edges(EDGES, 0.7, generator=generator, **SIZE).tolist())] += 1
    for pair, share in expected.items():
        assert count[pair] / 20_000 == pytest.approx(share, abs=0.008), pair


@pytest.mark.parametrize(
    'num_edges, ratio, expected',
    # 10 * (1 - 0.8) and 100 * (1 - 0.9) are slightly less than 2 and 10 in floating point.
    [(118_551, 0.8, 23_710), (10, 0.8, 2), (100, 0.9, 10), (7, 0, 7), (7, 0.5, 3), (4, 0.9, 0)],
)
def test_number_of_edges(num_edges, ratio, expected):
    edge_index = torch.stack([torch.arange(num_edges), torch.arange(num_edges) % 3])
    kept = prune_edges(edge_index, ratio, num_nodes=(num_edges, 3))
    assert kept.numel() == expected == kept.unique().numel()
    assert torch.equal(kept, kept.sort().values)


def test_seeds():
    def draw(seed):
        return prune_edges(EDGES, 0.5, generator=torch.Generator().manual_seed(seed), **SIZE)

    assert torch.equal(draw(1), draw(1))
    assert len({tuple(draw(seed).tolist()) for seed in range(20)}) > 5
    state = torch.get_rng_state()
    draw(1)
    assert torch.equal(torch.get_rng_state(), state)
    prune_edges(EDGES, 0.5, **SIZE)  # by the global seed
    assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('ratio', [-0.1, 1.0, float('nan')])
def test_errors_prune(ratio):
    with pytest.raises(ValueError, match=r"'ratio' must lie in \[0, 1\)"):
        prune_edges(EDGES, ratio, **SIZE)


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
