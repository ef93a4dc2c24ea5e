import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.testing import withCUDA

from mrdib_pyg.ops import _topk as topk
from mrdib_pyg.ops import masked_topk
from mrdib_pyg.ops._topk import stable_topk


def naive_topk(user, item, k, mask=None):
    # Python's sort is stable: equal scores stay in the order of their ids.
    scores = (user @ item.t()).tolist()
    for i, j in [] if mask is None else mask.t().tolist():
        scores[i][j] = None
    values, index = [], []
    for row in scores:
        ranking = [j for j in range(len(row)) if row[j] is not None]
        ranking = sorted(ranking, key=lambda j: -row[j])[:k]
        pad = k - len(ranking)
        values.append([row[j] for j in ranking] + [float('-inf')] * pad)
        index.append(ranking + [-1] * pad)
    return torch.tensor(values, dtype=user.dtype), torch.tensor(index)


def random_mask(num_users, num_items, n):
    return torch.stack([torch.randint(num_users, (n,)), torch.randint(num_items, (n,))])


@withCUDA
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('chunk_size', [None, 1, 4, 13, 100])
@pytest.mark.parametrize('k', [1, 5, 19, 20])
def test_equals_naive(k, chunk_size, dtype, device):
    # Small integers are exact in every type and tie all the time.
    user = torch.randint(-2, 3, (13, 3), device=device).to(dtype)
    item = torch.randint(-2, 3, (20, 3), device=device).to(dtype)
    for mask in (None, random_mask(13, 20, 60).to(device)):
        value, index = masked_topk(user, item, k, mask, chunk_size=chunk_size)
        expected_value, expected_index = naive_topk(user, item, k, mask)
        assert value.dtype == dtype
        assert index.dtype == torch.long
        assert torch.equal(value.cpu(), expected_value)
        assert torch.equal(index.cpu(), expected_index)


def test_real_scores():
    user, item = torch.randn(30, 16), torch.randn(200, 16)
    mask = random_mask(30, 200, 500)
    value, index = masked_topk(user, item, 10, mask, chunk_size=7)
    expected = user @ item.t()
    expected[mask[0], mask[1]] = -torch.inf
    expected = expected.topk(10)
    assert torch.allclose(value, expected.values, atol=1e-5)
    assert torch.equal(index, expected.indices)


def test_all_equal():
    # The order among equals is by id, and not by what the selection happens to find first.
    user, item = torch.ones(3, 2), torch.ones(1000, 2)
    mask = torch.tensor([[1, 1, 2], [0, 2, 999]])
    value, index = masked_topk(user, item, 4, mask)
    assert torch.equal(value, torch.full((3, 4), 2.0))
    assert index.tolist() == [[0, 1, 2, 3], [1, 3, 4, 5], [0, 1, 2, 3]]


def test_tie_across_the_last_place():
    scores = torch.tensor([[1.0, 3, 2, 2, 0, 2, 3, 2]])
    item = scores.t().contiguous()
    for k, expected in ((1, [1]), (2, [1, 6]), (3, [1, 6, 2]), (4, [1, 6, 2, 3])):
        assert masked_topk(torch.ones(1, 1), item, k)[1].tolist() == [expected]


def test_fewer_items_than_k_are_padded():
    user, item = torch.ones(2, 1), torch.tensor([[1.0], [3.0], [2.0]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 0, 1, 2]])
    value, index = masked_topk(user, item, 2, mask)
    assert index.tolist() == [[2, -1], [-1, -1]]
    assert value.tolist() == [[2, float('-inf')], [float('-inf')] * 2]


def test_mask_in_any_order_and_repeated():
    user, item = torch.randn(9, 4), torch.randn(15, 4)
    mask = random_mask(9, 15, 40)
    mask = mask[:, mask[0].argsort()]
    expected = masked_topk(user, item, 5, mask, chunk_size=2)
    perm = torch.randperm(40)
    for other in (
        mask[:, perm],
        torch.cat([mask, mask[:, perm]], dim=1),
        mask.int(),
        EdgeIndex(mask),
    ):
        actual = masked_topk(user, item, 5, other, chunk_size=2)
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize('num_items', [256, 300, 1000])
@pytest.mark.parametrize('k', [1, 3, 4, 5])
@pytest.mark.parametrize('num_values', [2, 50, None])
def test_blocks_of_items_change_nothing(num_items, k, num_values):
    # Many ties, or none, within blocks of columns and between them, and rows almost empty.
    scores = torch.randn(64, num_items)
    if num_values is not None:
        scores = torch.randint(num_values, (64, num_items)).float()
    scores[0] = -torch.inf
    scores[1, 5:] = -torch.inf
    width = -(-num_items // 32) * 32
    padded = torch.full((64, width), -torch.inf)
    padded[:, :num_items] = scores
    value, index = stable_topk(padded, k)
    order = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(value, order.values[:, :k])
    known = value > -torch.inf
    assert torch.equal(index[known], order.indices[:, :k][known])


def test_no_users_and_no_gradient():
    item = torch.nn.Parameter(torch.randn(6, 4))
    value, index = masked_topk(torch.empty(0, 4), item, 3)
    assert value.shape == index.shape == (0, 3)
    value, _ = masked_topk(torch.randn(2, 4), item, 3)
    assert not value.requires_grad


def test_scores_never_exist_as_a_whole(monkeypatch):
    rows = []
    monkeypatch.setattr(
        topk,
        'stable_topk',
        lambda scores, k: (rows.append(scores.size(0)), stable_topk(scores, k))[1],
    )
    monkeypatch.setattr(topk, '_MAX_SCORES', 100)
    monkeypatch.setattr(topk, '_MIN_USERS', 2)
    masked_topk(torch.randn(13, 4), torch.randn(20, 4), 3)
    assert rows == [5, 5, 3]


def test_stable_topk_leaves_its_input_alone():
    scores = torch.randint(3, (50, 40)).float()
    before = scores.clone()
    value, index = stable_topk(scores, 7)
    assert torch.equal(scores, before)
    expected = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(value, expected.values[:, :7])
    assert torch.equal(index, expected.indices[:, :7])


USER, ITEM = torch.ones(2, 3), torch.ones(5, 3)


@pytest.mark.parametrize(
    ('message', 'args', 'kwargs'),
    [
        (r"'k' must be between 1 and the 5 items \(got 6\)", (USER, ITEM, 6), {}),
        (r'\(got 0\)', (USER, ITEM, 0), {}),
        ('equal width', (USER, torch.ones(5, 2), 2), {}),
        ('equal width', (USER[0], ITEM, 2), {}),
        ('one floating point type', (USER, ITEM.double(), 2), {}),
        ('one floating point type', (USER.long(), ITEM.long(), 2), {}),
        (r'row ids in \[0, 2\) \(got 2\)', (USER, ITEM, 2, torch.tensor([[2], [0]])), {}),
        (r'item ids in \[0, 5\) \(got 5\)', (USER, ITEM, 2, torch.tensor([[0], [5]])), {}),
        (r'item ids in \[0, 5\) \(got -1\)', (USER, ITEM, 2, torch.tensor([[0, 0], [-1, 0]])), {}),
        (r'shape \[2, n\]', (USER, ITEM, 2, torch.ones(2, 5, dtype=torch.bool)), {}),
        (r'shape \[2, n\]', (USER, ITEM, 2, torch.ones(3, 2, dtype=torch.long)), {}),
        ("'chunk_size'", (USER, ITEM, 2), {'chunk_size': 0}),
        ("row 1 of 'user'", (USER * torch.tensor([[1.0], [torch.nan]]), ITEM, 2), {}),
    ],
)
def test_errors(message, args, kwargs):
    with pytest.raises(ValueError, match=message):
        masked_topk(*args, **kwargs)


@pytest.mark.parametrize('item', [[torch.nan, 1, 1, 1, 0, 0], [torch.nan, torch.nan, 1, 1, 1, 0]])
@pytest.mark.parametrize('k', [2, 3])
def test_nan_beside_equal_scores_is_found(item, k):
    item = torch.tensor(item).view(-1, 1)
    with pytest.raises(ValueError, match="row 1 of 'user' hold NaN"):
        masked_topk(torch.tensor([[0.0], [1.0]]), item, k, mask=torch.tensor([[0, 0], [0, 1]]))
