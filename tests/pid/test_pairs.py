import pytest
import torch

from mrdib_pyg.pid.pairs import sample_pairs


def edges(data):
    parts = [data['user', 'rates', 'item'].edge_index]
    parts += [data['user', split, 'item'].edge_label_index for split in ('val', 'test')]
    return {tuple(pair) for part in parts for pair in part.t().tolist()}


@pytest.mark.parametrize('negatives', ['uniform', 'popularity'])
def test_half_are_edges_and_half_non_edges_of_the_same_users(data, negatives):
    pairs = sample_pairs(data, 'test', negatives, seed=3)
    half = len(pairs.y) // 2
    held_out = data['user', 'test', 'item'].edge_label_index
    assert half == held_out.size(1)
    assert pairs.y.tolist() == [1] * half + [0] * half
    assert torch.equal(pairs.user[:half], pairs.user[half:])
    found = torch.stack([pairs.user, pairs.item])
    assert {tuple(x) for x in found[:, :half].t().tolist()} == {
        tuple(x) for x in held_out.t().tolist()
    }
    known = edges(data)
    assert not any(tuple(pair) in known for pair in found[:, half:].t().tolist())
    again = sample_pairs(data, 'test', negatives, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(pairs, again))
    assert not torch.equal(pairs.item, sample_pairs(data, 'test', negatives, seed=4).item)


def test_popularity_says_nothing_of_popularity_matched_pairs(data):
    count = torch.bincount(data['user', 'test', 'item'].edge_label_index[1], minlength=120)
    gap = {}
    for way in ('uniform', 'popularity'):
        pairs = sample_pairs(data, 'test', way)
        popular = count[pairs.item].double()
        gap[way] = float(popular[pairs.y == 1].mean() - popular[pairs.y == 0].mean())
    assert abs(gap['popularity']) < 0.3 * gap['uniform']


def test_items_of_a_group(data):
    mask = torch.arange(120) < 40
    pairs = sample_pairs(data, 'test', items=mask)
    held_out = data['user', 'test', 'item'].edge_label_index
    assert int(pairs.y.sum()) == int(mask[held_out[1]].sum())
    assert int(pairs.item.max()) < 40
    assert sample_pairs(data, 'test', items=torch.zeros(120, dtype=torch.bool)).y.numel() == 0


def test_refused(data):
    with pytest.raises(ValueError, match=r"'negatives' must be one of .*got 'hard'"):
        sample_pairs(data, 'test', 'hard')
    with pytest.raises(ValueError, match="'split' must .*got 'dev'"):
        sample_pairs(data, 'dev')
    few = data.clone()
    edges = few['user', 'test', 'item'].edge_label_index
    few['user', 'test', 'item'].edge_label_index = edges[:, :1]
    with pytest.raises(ValueError, match="'negatives' must leave .*got 'popularity'"):
        sample_pairs(few, 'test', 'popularity')
