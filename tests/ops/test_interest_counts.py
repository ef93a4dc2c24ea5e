import importlib

import pytest
import torch
import torch.nn.functional as F

from mrdib_pyg.ops import interest_counts

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
