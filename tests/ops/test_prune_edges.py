import itertools

import pytest
import torch

from mrdib_pyg.ops import prune_edges

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
def test_errors(ratio):
    with pytest.raises(ValueError, match=r"'ratio' must lie in \[0, 1\)"):
        prune_edges(EDGES, ratio, **SIZE)
