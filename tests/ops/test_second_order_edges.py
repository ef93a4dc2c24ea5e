import sys

import pytest
import torch
import torch.nn.functional as F

from mrdib_pyg.ops import interest_counts, second_order_edges

module = sys.modules['mrdib_pyg.ops.interest_graphs']

IMAGE = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
TEXT = torch.tensor([[1.0, 0.2], [2, 1], [-0.1, 1], [1, -1]])
EDGES = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])


def dense(edge_index, weight, size):
    return torch.zeros(size).index_put(tuple(edge_index), weight)


def attraction(features, masks):
    out, common = None, None
    for x, mask in zip(features, masks):
        mask = torch.ones(len(x), dtype=torch.bool) if mask is None else mask
        x = F.normalize(torch.where(mask.unsqueeze(1), x, 0.0).double(), dim=1)
        both = mask.unsqueeze(1) & mask
        s = torch.where(both, (x @ x.t()).clamp(min=0), 1.0)
        out, common = (s, both) if out is None else (out * s, common | both)
    return torch.where(common, out, 0.0).round(decimals=9)


def naive(edge_index, features, k, rule, num_users, masks):
    """User by user, on all pairs."""
    phi = attraction(features, masks)
    num_items = len(phi)
    out = torch.zeros(num_users, num_items)
    for u in range(num_users):
        items = sorted(edge_index[1, edge_index[0] == u].tolist())
        if rule == 'public':
            out[u, items] = 1.0
            pairs = [(i, j) for i in items for j in range(num_items) if j != i]
            pairs.sort(key=lambda pair: (-float(phi[pair]), pair))
            for i, j in pairs[:k]:
                out[u, j] += float(phi[i, j])
        elif len(items) > 0:
            best = {j: float(phi[items, j].max()) for j in range(num_items) if j not in items}
            for j in sorted(best, key=lambda j: (-best[j], j))[:k]:
                out[u, j] = best[j]
    return out


def random_instance(seed, num_users=12, num_items=20, density=0.2):
    generator = torch.Generator().manual_seed(seed)
    rates = torch.rand(num_users, num_items, generator=generator) < density
    rates[0] = True  # who knows everything
    rates[1] = False
    features = [torch.randn(num_items, width, generator=generator) for width in (3, 6)]
    for x in features:
        x[5] = x[3]  # a duplicate
    features[0][8] = 0.0
    masks = [None, torch.rand(num_items, generator=generator) < 0.7]
    features[1][~masks[1]] = torch.nan
    return rates.nonzero().t(), features, masks


def test_worked_example():
    public = [[1, 1, 1, 0.4961], [0.3051, 1, 0, 0], [1, 0, 1, 1.4961]]
    unrecorded = [[0, 0, 0, 0.4961], [0.3051, 0, 0, 0], [0, 0.3051, 0, 0]]
    for rule, expected in (('public', public), ('unrecorded', unrecorded)):
        out = second_order_edges(EDGES, [IMAGE, TEXT], 1, rule, num_users=3)
        torch.testing.assert_close(dense(*out, (3, 4)), torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize('rule', ['public', 'unrecorded'])
@pytest.mark.parametrize('seed', range(8))
def test_against_user_by_user(seed, rule):
    edge_index, features, masks = random_instance(seed)
    for k in (0, 1, 3, 40):
        expected = naive(edge_index, features, k, rule, 12, masks)
        for chunk_size in (None, 1, 7, 20):
            edges, weight = second_order_edges(
                edge_index, features, k, rule, num_users=12, masks=masks, chunk_size=chunk_size
            )
            code = edges[0] * 20 + edges[1]
            assert torch.equal(code, code.unique())
            assert (weight > 0).all()
            torch.testing.assert_close(dense(edges, weight, (12, 20)), expected)


@pytest.mark.parametrize('rule', ['public', 'unrecorded'])
@pytest.mark.parametrize('seed', range(4))
def test_lists_and_chunks_of_users(seed, rule, monkeypatch):
    # Users with more items than the lists are made for, and chunks of a few users.
    edge_index, features, masks = random_instance(seed, 30, 40, 0.15)
    expected = naive(edge_index, features, 2, rule, 30, masks)
    for listed, budget in ((2, 2**23), (5, 400), (64, 1)):
        monkeypatch.setattr(module, '_MAX_LISTED', listed)
        monkeypatch.setattr(module, 'MAX_SCORES', budget)
        out = second_order_edges(
            edge_index, features, 2, rule, num_users=30, masks=masks, chunk_size=9
        )
        torch.testing.assert_close(dense(*out, (30, 40)), expected)


def test_negative_similarities_do_not_attract():
    x = torch.tensor([[1.0, 0.1], [-1.0, 0.1]])
    for rule, num_edges in (('public', 1), ('unrecorded', 0)):
        edges, _ = second_order_edges(torch.tensor([[0], [0]]), [x, x], 1, rule, num_users=1)
        assert edges.size(1) == num_edges


def test_one_item():
    for rule, num_edges in (('public', 1), ('unrecorded', 0)):
        edges, weight = second_order_edges(
            torch.tensor([[0], [0]]), [torch.ones(1, 2)], 3, rule, num_users=1
        )
        assert edges.size(1) == weight.numel() == num_edges


def test_errors():
    with pytest.raises(ValueError, match="'rule' must be one of"):
        second_order_edges(EDGES, [IMAGE], 1, 'private', num_users=3)
    with pytest.raises(ValueError, match=r"'k' must not be negative \(got -1\)"):
        second_order_edges(EDGES, [IMAGE], -1, num_users=3)


@pytest.mark.parametrize('rule', ['public', 'unrecorded'])
@pytest.mark.parametrize('k', [0, 1, 3])
def test_no_edges(rule, k):
    edge_index = torch.empty(2, 0, dtype=torch.long)
    out, weight = second_order_edges(edge_index, [torch.randn(4, 3)], k, rule, num_users=3)
    assert out.shape == (2, 0) and out.dtype == torch.long and weight.shape == (0,)


def test_ids_of_type_int32_do_not_overflow():
    edge_index = torch.tensor([[4_300_000], [1]], dtype=torch.int32)
    features = [torch.ones(1000, 2)]
    out, _ = second_order_edges(edge_index, features, 1, 'unrecorded', num_users=4_300_001)
    assert out.tolist() == [[4_300_000], [0]]


@pytest.mark.parametrize('function', [second_order_edges, interest_counts])
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'edge_index': torch.tensor([[0], [9]])}, r'item ids in \[0, 4\) \(got 9\)'),
        ({'edge_index': torch.tensor([[3], [0]])}, r'user ids in \[0, 3\) \(got 3\)'),
        ({'edge_index': torch.tensor([[-1], [0]])}, r'user ids in \[0, 3\) \(got -1\)'),
        ({'edge_index': torch.tensor([0, 1])}, r"'edge_index' .*\[2, n\]"),
        ({'edge_index': torch.zeros(2, 1)}, 'integer ids'),
        ({'features': []}, "'features' must .*got none"),
        ({'features': [torch.randn(4, 3), torch.randn(5, 3)]}, r"'features\[1\]' must be a matrix"),
        ({'features': [torch.full((4, 3), torch.nan)]}, r"row 0 of 'features\[0\]' holds NaN"),
        ({'masks': []}, "'masks' must have one entry for each of the 1 matrices"),
        ({'masks': [torch.ones(3, dtype=torch.bool)]}, 'one bool for each of the 4 items'),
    ],
)
def test_bad_input_is_met_at_the_door(function, changes, message):
    given = {
        'edge_index': torch.tensor([[0], [1]]), 'features': [torch.randn(4, 3)], 'k': 1,
        'num_users': 3, **changes,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        function(**given)
