import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.testing import withCUDA

from mrdib_pyg.ops import negative_sampling, sample_negatives
from mrdib_pyg.ops.negative_sampling import encode_edges

NUM_ITEMS = 6
# User 0 has two items, user 1 all but one, user 2 none, user 3 all of them.
EDGE_INDEX = torch.tensor(
    [[0, 0, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3], [4, 1, 5, 4, 3, 1, 0, *range(6)]]
)
FREE = {0: [0, 2, 3, 5], 1: [2], 2: [0, 1, 2, 3, 4, 5], 3: []}


def test_encode_edges():
    codes = encode_edges(EDGE_INDEX, NUM_ITEMS)
    assert codes.tolist() == sorted(u * 6 + i for u, i in EDGE_INDEX.t().tolist())
    assert torch.equal(encode_edges(EDGE_INDEX.int(), NUM_ITEMS), codes)
    assert torch.equal(encode_edges(EdgeIndex(EDGE_INDEX), NUM_ITEMS), codes)
    assert encode_edges(torch.empty(2, 0, dtype=torch.long), NUM_ITEMS).numel() == 0
    # Beyond what 32 bits hold.
    large = torch.tensor([[3_000_000], [999_999]], dtype=torch.int32)
    assert encode_edges(large, 1_000_000).tolist() == [3_000_000_999_999]


@withCUDA
@pytest.mark.parametrize('max_rounds', [0, 1, 16])
def test_never_an_edge(max_rounds, device, monkeypatch):
    monkeypatch.setattr(negative_sampling, '_MAX_ROUNDS', max_rounds)
    codes = encode_edges(EDGE_INDEX.to(device), NUM_ITEMS)
    user = torch.arange(4, device=device).repeat(200)
    item = sample_negatives(user, codes, NUM_ITEMS)
    assert item.device == device
    assert item.dtype == torch.long
    for u, free in FREE.items():
        assert item[user == u].unique().tolist() == (free or [-1])


def chi_square(item, free):
    count = torch.bincount(item, minlength=int(max(free)) + 1)[list(free)].double()
    assert count.sum() == item.numel()
    expected = item.numel() / len(free)
    return float(((count - expected) ** 2 / expected).sum())


# By rejection alone, by enumeration alone, and by both.
@pytest.mark.parametrize('max_rounds', [16, 0, 1])
def test_uniform(max_rounds, monkeypatch):
    monkeypatch.setattr(negative_sampling, '_MAX_ROUNDS', max_rounds)
    num_items = 50
    edge_index = torch.stack([torch.zeros(40, dtype=torch.long), torch.randperm(50)[:40]])
    codes = encode_edges(edge_index, num_items)
    generator = torch.Generator().manual_seed(12)
    user = torch.zeros(20_000, dtype=torch.long)
    item = sample_negatives(user, codes, num_items, generator=generator)
    free = sorted(set(range(50)) - set(edge_index[1].tolist()))
    assert chi_square(item, free) < 27.88  # The 99.9 % quantile of 9 degrees of freedom.

    candidates = torch.tensor(free[:5] + edge_index[1, :20].tolist())
    item = sample_negatives(user, codes, num_items, candidates=candidates, generator=generator)
    assert chi_square(item, free[:5]) < 18.47  # Of 4 degrees of freedom.

    # The chance of a wrong answer: what is not uniform is seen.
    assert chi_square(item.where(item != free[0], torch.tensor(free[1])), free[:5]) > 18.47


def test_draws_are_independent_of_each_other():
    # Two users with two items left each: all four pairs come equally often.
    edge_index = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]])
    codes = encode_edges(edge_index, 4)
    user = torch.tensor([0, 1]).repeat(8000, 1)
    generator = torch.Generator().manual_seed(1)
    item = sample_negatives(user, codes, 4, generator=generator)
    assert item.shape == user.shape
    pair = (item[:, 0] - 2) * 2 + item[:, 1]
    assert chi_square(pair, range(4)) < 16.27  # 99.9 % of 3 degrees of freedom.


def test_candidates():
    codes = encode_edges(EDGE_INDEX, NUM_ITEMS)
    user = torch.arange(4).repeat(200)
    candidates = torch.tensor([5, 0, 1])  # In no order.
    item = sample_negatives(user, codes, NUM_ITEMS, candidates=candidates)
    assert item[user == 0].unique().tolist() == [0, 5]
    assert item[user == 1].unique().tolist() == [-1]  # Its only free item is no candidate.
    assert item[user == 2].unique().tolist() == [0, 1, 5]
    assert item[user == 3].unique().tolist() == [-1]


def test_candidates_of_type_int32():
    codes = encode_edges(torch.tensor([[0, 0], [1, 2]]), num_items=4)
    candidates = torch.tensor([1, 3], dtype=torch.int32)
    out = sample_negatives(torch.zeros(20, dtype=torch.long), codes, 4, candidates=candidates)
    assert out.dtype == torch.long and set(out.tolist()) == {3}


def test_enumeration_is_chunked(monkeypatch):
    monkeypatch.setattr(negative_sampling, '_MAX_ROUNDS', 0)
    codes = encode_edges(EDGE_INDEX, NUM_ITEMS)
    user = torch.randint(4, (101,))
    results = []
    for limit in (2**22, 13, 1):
        monkeypatch.setattr(negative_sampling, '_MAX_PAIRS', limit)
        item = sample_negatives(user, codes, NUM_ITEMS)
        results.append(item)
        for u, i in zip(user.tolist(), item.tolist()):
            assert i in (FREE[u] or [-1])


def test_generator_reproduces():
    codes = encode_edges(EDGE_INDEX, NUM_ITEMS)
    user = torch.randint(3, (100,))

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample_negatives(user, codes, NUM_ITEMS, generator=generator)

    state = torch.get_rng_state()
    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    assert torch.equal(torch.get_rng_state(), state)  # The global generator is not touched.
    torch.manual_seed(5)
    first = sample_negatives(user, codes, NUM_ITEMS)
    torch.manual_seed(5)
    assert torch.equal(sample_negatives(user, codes, NUM_ITEMS), first)


def test_no_edges_and_no_users():
    codes = encode_edges(torch.empty(2, 0, dtype=torch.long), NUM_ITEMS)
    item = sample_negatives(torch.zeros(500, dtype=torch.long), codes, NUM_ITEMS)
    assert item.unique().tolist() == list(range(6))
    empty = torch.empty(0, dtype=torch.long)
    assert sample_negatives(empty, codes, NUM_ITEMS).shape == (0,)


def test_errors():
    codes = encode_edges(EDGE_INDEX, NUM_ITEMS)
    user = torch.arange(4)
    with pytest.raises(ValueError, match="'candidates' has ids from 0 to 6"):
        sample_negatives(user, codes, NUM_ITEMS, candidates=torch.tensor([0, 6]))
    with pytest.raises(ValueError, match="'candidates' must allow at least one"):
        sample_negatives(user, codes, NUM_ITEMS, candidates=torch.tensor([], dtype=torch.long))
    with pytest.raises(ValueError, match='integer ids .got torch.float32'):
        sample_negatives(user.float(), codes, NUM_ITEMS)
    with pytest.raises(ValueError, match="'candidates' must hold integer ids"):
        sample_negatives(user, codes, NUM_ITEMS, candidates=torch.ones(6, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"'edge_index' .*\[2, n\]"):
        encode_edges(EDGE_INDEX.t(), NUM_ITEMS)
    with pytest.raises(ValueError, match=r'\(got -1\)'):
        encode_edges(EDGE_INDEX - 1, NUM_ITEMS)
    with pytest.raises(ValueError, match=r'item ids in \[0, 5\) \(got 5\)'):
        encode_edges(EDGE_INDEX, 5)
    with pytest.raises(ValueError, match='integer ids'):
        encode_edges(EDGE_INDEX.float(), NUM_ITEMS)
