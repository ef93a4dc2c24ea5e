import importlib

import pytest
import torch
import torch.nn.functional as F

from mrdib_pyg.ops.interest_graphs import interest_counts, second_order_edges

module = importlib.import_module('mrdib_pyg.ops.interest_graphs')

IMAGE = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
TEXT = torch.tensor([[1.0, 0.2], [2, 1], [-0.1, 1], [1, -1]])
EDGES = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])


def dense(pairs, count, num_items):
    return torch.zeros(num_items, num_items).index_put(tuple(pairs), count)


def naive(edge_index, features, k, num_users, masks=None):
    """User by user, on all similarities."""
    num_items = len(features[0])
    out = torch.zeros(num_items, num_items)
    for u in range(num_users):
        items = edge_index[1, edge_index[0] == u].tolist()
        interests = set()
        for m, x in enumerate(features):
            has = [True] * num_items if masks is None or masks[m] is None else masks[m].tolist()
            x = F.normalize(x.double(), dim=1)
            profile = sum((x[i] for i in items if has[i]), x.new_zeros(x.size(1)))
            if not profile.any():
                continue
            score = [round(float(profile @ x[c]), 9) for c in range(num_items)]
            order = sorted((c for c in range(num_items) if has[c]), key=lambda c: (-score[c], c))
            interests.update(order[:k])
        for i in items:
            for c in interests:
                out[i, c] += 1
    return out


def random_instance(seed, num_users=12, num_items=20):
    generator = torch.Generator().manual_seed(seed)
    rates = torch.rand(num_users, num_items, generator=generator) < 0.15
    features = [torch.randn(num_items, width, generator=generator) for width in (3, 6)]
    features[0][5] = features[0][3]  # a duplicate
    features[1] = features[1].round()  # many ties
    masks = [None, torch.rand(num_items, generator=generator) < 0.7]
    features[1][~masks[1]] = torch.nan
    return rates.nonzero().t(), features, masks


def test_worked_example():
    pairs, count = interest_counts(EDGES, [IMAGE, TEXT], 2, num_users=3)
    expected = [[2, 2, 1, 1], [2, 2, 2, 0], [2, 2, 1, 1], [1, 1, 0, 1]]
    assert dense(pairs, count, 4).tolist() == expected
    code = pairs[0] * 4 + pairs[1]
    assert torch.equal(code, code.unique())


@pytest.mark.parametrize('seed', range(10))
def test_against_user_by_user(seed):
    edge_index, features, masks = random_instance(seed)
    for k in (1, 3, 20):
        expected = naive(edge_index, features, k, 12, masks)
        for chunk_size in (None, 1, 7, 20):
            out = interest_counts(
                edge_index, features, k, num_users=12, masks=masks, chunk_size=chunk_size
            )
            assert torch.equal(dense(*out, 20), expected)


def test_ties_that_rounding_hides():
    # Both items of a user are equally close to the profile, but not in the last bits.
    for seed in range(30):
        x = torch.randn(6, 11, generator=torch.Generator().manual_seed(seed))
        edge_index = torch.tensor([[0, 0], [4, 2]])
        pairs, _ = interest_counts(edge_index, [x], 1, num_users=1)
        assert (
            pairs[1].unique().tolist()
            == naive(edge_index, [x], 1, 1)[4].nonzero().view(-1).tolist()
        )


def test_users_without_items_or_modality():
    masks = [torch.tensor([True, False, False, True])]
    pairs, _ = interest_counts(torch.tensor([[1], [2]]), [IMAGE], 2, num_users=3, masks=masks)
    assert pairs.shape == (2, 0)
    none = [torch.zeros(4, dtype=torch.bool)]
    assert interest_counts(EDGES, [IMAGE], 2, num_users=3, masks=none)[0].shape == (2, 0)


def test_a_missing_item_makes_nobody_unsure(monkeypatch):
    """Only users whose last place is a matter of rounding are looked at again."""
    generator = torch.Generator().manual_seed(0)
    x, mask = torch.randn(50, 8, generator=generator), torch.ones(50, dtype=torch.bool)
    mask[3] = False
    edges = (torch.rand(40, 50, generator=generator) < 0.2).nonzero().t()
    sizes = []
    find = module._interests
    monkeypatch.setattr(module, '_interests', lambda *a: sizes.append(len(a[0])) or find(*a))
    interest_counts(edges, [x], 5, num_users=40, masks=[mask])
    assert sizes[0] == 40 and sum(sizes[1:]) < 10


def test_order_of_edges_is_irrelevant():
    expected = interest_counts(EDGES, [IMAGE, TEXT], 2, num_users=3)
    actual = interest_counts(EDGES[:, torch.randperm(7)], [IMAGE, TEXT], 2, num_users=3)
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


@pytest.mark.parametrize('k', [0, 5])
def test_errors(k):
    with pytest.raises(ValueError, match=rf"'k' must be between 1 and the 4 items \(got {k}\)"):
        interest_counts(EDGES, [IMAGE], k, num_users=3)


def dense_second_order(edge_index, weight, size):
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


def naive_second_order(edge_index, features, k, rule, num_users, masks):
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


def random_instance_second_order(seed, num_users=12, num_items=20, density=0.2):
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


def test_worked_example_second_order():
    public = [[1, 1, 1, 0.4961], [0.3051, 1, 0, 0], [1, 0, 1, 1.4961]]
    unrecorded = [[0, 0, 0, 0.4961], [0.3051, 0, 0, 0], [0, 0.3051, 0, 0]]
    for rule, expected in (('public', public), ('unrecorded', unrecorded)):
        out = second_order_edges(EDGES, [IMAGE, TEXT], 1, rule, num_users=3)
        torch.testing.assert_close(
            dense_second_order(*out, (3, 4)), torch.tensor(expected), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize('rule', ['public', 'unrecorded'])
@pytest.mark.parametrize('seed', range(8))
def test_against_user_by_user_second_order(seed, rule):
    edge_index, features, masks = random_instance_second_order(seed)
    for k in (0, 1, 3, 40):
        expected = naive_second_order(edge_index, features, k, rule, 12, masks)
        for chunk_size in (None, 1, 7, 20):
            edges, weight = second_order_edges(
                edge_index, features, k, rule, num_users=12, masks=masks, chunk_size=chunk_size
            )
            code = edges[0] * 20 + edges[1]
            assert torch.equal(code, code.unique())
            assert (weight > 0).all()
            torch.testing.assert_close(dense_second_order(edges, weight, (12, 20)), expected)


@pytest.mark.parametrize('rule', ['public', 'unrecorded'])
@pytest.mark.parametrize('seed', range(4))
def test_lists_and_chunks_of_users(seed, rule, monkeypatch):
    # Users with more items than the lists are made for, and chunks of a few users.
    edge_index, features, masks = random_instance_second_order(seed, 30, 40, 0.15)
    expected = naive_second_order(edge_index, features, 2, rule, 30, masks)
    for listed, budget in ((2, 2**23), (5, 400), (64, 1)):
        monkeypatch.setattr(module, '_MAX_LISTED', listed)
        monkeypatch.setattr(module, 'MAX_SCORES', budget)
        out = second_order_edges(
            edge_index, features, 2, rule, num_users=30, masks=masks, chunk_size=9
        )
        torch.testing.assert_close(dense_second_order(*out, (30, 40)), expected)


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


def test_errors_second_order():
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
