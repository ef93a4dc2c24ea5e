import math

import pytest
import torch
from torch_geometric.testing import withCUDA

from mrdib_pyg.ops import NormalizedAdjacency, feature_knn_graph
from mrdib_pyg.ops import item_graphs as knn
from mrdib_pyg.ops._topk import stable_topk

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
