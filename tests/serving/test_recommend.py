import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.serving import known_pairs, recommend


def collect(blocks):
    blocks = list(blocks)
    return tuple(torch.cat([block[n] for block in blocks]) for n in range(3))


@pytest.mark.parametrize('batch_size', [1, 7, 40, 1000])
@pytest.mark.parametrize('exclude_seen', [True, False])
def test_is_the_ranking_of_the_model(model, batch_size, exclude_seen):
    user, item, score = collect(
        recommend(model, k=5, exclude_seen=exclude_seen, batch_size=batch_size)
    )
    expected = model.recommend(k=5, exclude_seen=exclude_seen)
    assert user.tolist() == list(range(40))
    assert torch.equal(item, expected[1])
    assert torch.allclose(score, expected[0], atol=1e-6)


def test_users_in_their_order(model):
    blocks = list(recommend(model, torch.tensor([7, 0, 7]), k=3, batch_size=2))
    assert [block.user.tolist() for block in blocks] == [[7, 0], [7]]
    user, item, _ = collect(blocks)
    assert torch.equal(item, model.recommend(user, k=3)[1])
    assert list(recommend(model, torch.tensor([], dtype=torch.long))) == []


@pytest.mark.parametrize('exclude_seen', [True, False])
def test_lists_against_a_loop(model, exclude_seen):
    allow, deny = torch.tensor([3, 9, 3, 20, 41, 0]), torch.tensor([9, 10])
    scores = model.embed().user @ model.embed().item.t()
    seen = set(map(tuple, model.train_edge_index.t().tolist()))
    _, item, score = collect(
        recommend(model, k=50, exclude_seen=exclude_seen, allow=allow, deny=deny, batch_size=9)
    )
    assert item.shape == (40, 4)  # no more are left
    for u in range(40):
        wanted = [i for i in (0, 3, 20, 41) if not (exclude_seen and (u, i) in seen)]
        wanted.sort(key=lambda i: -float(scores[u, i]))
        got = [i for i in item[u].tolist() if i >= 0]
        assert got == wanted and item[u, len(got) :].tolist() == [-1] * (4 - len(got))
        assert torch.allclose(score[u, : len(got)], scores[u, got], atol=1e-6)
        assert bool((score[u, len(got) :] == -torch.inf).all())


def test_known_pairs(data):
    pairs = known_pairs(data)
    expected = set(map(tuple, data['user', 'rates', 'item'].edge_index.t().tolist()))
    for split in ('val', 'test'):
        edges = data['user', split, 'item'].edge_label_index
        assert edges.size(1) > 0
        expected |= set(map(tuple, edges.t().tolist()))
    assert pairs.t().tolist() == sorted(map(list, expected))
    other = HeteroData()
    with pytest.raises(ValueError, match="'data' has no training edge"):
        known_pairs(other)
    other['user', 'rates', 'item'].edge_index = torch.tensor([[1, 0, 1], [3, 4, 3]])
    other['user', 'second_order', 'item'].edge_index = torch.tensor([[2], [2]])  # no interaction
    assert known_pairs(other).tolist() == [[0, 1], [4, 3]]


@pytest.mark.parametrize('exclude_seen', [True, False])
@pytest.mark.parametrize('with_allow', [True, False])
def test_exclude_against_a_loop(model, data, exclude_seen, with_allow):
    held_out = torch.cat([data['user', s, 'item'].edge_label_index for s in ('val', 'test')], 1)
    held_out = torch.cat([held_out.flip(1), held_out[:, :5]], 1)  # in any order, some twice
    user, allow = torch.tensor([7, 0, 7, 39]), torch.arange(0, 50, 2) if with_allow else None
    left_out = set(map(tuple, held_out.t().tolist()))
    if exclude_seen:
        left_out |= set(map(tuple, model.train_edge_index.t().tolist()))
    scores = model.embed().user @ model.embed().item.t()
    _, item, _ = collect(
        recommend(model, user, 50, exclude_seen=exclude_seen, exclude=held_out, allow=allow,
                  batch_size=3)
    )  # fmt: skip
    for u, row in zip(user.tolist(), item.tolist()):
        candidates = range(0, 50, 2) if with_allow else range(50)
        wanted = [i for i in candidates if (u, i) not in left_out]
        wanted.sort(key=lambda i: -float(scores[u, i]))
        assert [i for i in row if i >= 0] == wanted


def test_exclude_what_is_known(model, data):
    known = set(map(tuple, known_pairs(data).t().tolist()))
    user, item, _ = collect(recommend(model, exclude=known_pairs(data)))
    assert known.isdisjoint(zip(user.repeat_interleave(20).tolist(), item.view(-1).tolist()))
    user, item, _ = collect(recommend(model))  # held-out edges may come back: they are evaluated
    assert not known.isdisjoint(zip(user.repeat_interleave(20).tolist(), item.view(-1).tolist()))
    nothing = torch.empty(2, 0, dtype=torch.long)
    assert torch.equal(collect(recommend(model, exclude=nothing))[1], item)


def test_deny_alone(model):
    best = model.recommend(k=1)[1].view(-1)
    _, item, _ = collect(recommend(model, k=2, deny=best))
    assert not bool(torch.isin(item, best).any())
    kept = torch.tensor([i for i in range(50) if i not in best.tolist()])
    assert torch.equal(item, collect(recommend(model, k=2, allow=kept))[1])


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'k': 0}, "'k' must be between 1 and the 50 items"),
        ({'k': 51}, "'k' must be between 1 and the 50 items"),
        ({'user': torch.tensor([40])}, r"'user' must lie in \[0, 40\) \(got 40 to 40\)"),
        ({'user': torch.tensor([0.5])}, "'user' must hold integers"),
        ({'allow': torch.tensor([50])}, r"'allow' must lie in \[0, 50\)"),
        ({'deny': torch.tensor([-1])}, r"'deny' must lie in \[0, 50\)"),
        ({'deny': torch.arange(50)}, 'leave none of the 50 items'),
        ({'allow': torch.tensor([], dtype=torch.long)}, 'leave none'),
        ({'exclude': torch.zeros(3, 2)}, r"'exclude' must .*float32 .* \[3, 2\]"),
        ({'exclude': torch.tensor([[40], [0]])}, r"'exclude' must .*user ids in \[0, 40\)"),
        ({'exclude': torch.tensor([[0], [-1]])}, r"'exclude' must .*item ids in \[0, 50\)"),
        ({'batch_size': 0}, "'batch_size' must be at least 1"),
    ],
)
def test_refusals_come_at_once(model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        recommend(model, **kwargs)


@pytest.mark.parametrize('name', ['allow', 'deny'])
@pytest.mark.parametrize('ids', [torch.ones(50, dtype=torch.bool), torch.tensor([1.7])])
def test_ids_that_are_none_are_refused(model, name, ids):
    with pytest.raises(ValueError, match=f"'{name}' must hold integers"):
        list(recommend(model, torch.tensor([0]), 5, **{name: ids}))


def test_no_users_and_ids_as_lists(model):
    assert sum(block.user.numel() for block in recommend(model, torch.tensor([]), 5)) == 0
    (block,) = recommend(model, torch.tensor([0]), 2, allow=[3, 7, 9], exclude_seen=False)
    assert set(block.item[0].tolist()) <= {3, 7, 9}
    (block,) = recommend(model, torch.tensor([0]), 2, deny=[])
    assert block.item.shape == (1, 2)


def test_known_pairs_of_ids_whose_products_exceed_32_bits():
    data = HeteroData()
    pairs = torch.tensor([[3, 50000, 59999], [4, 50001, 59999]], dtype=torch.int32)
    data['user', 'rates', 'item'].edge_index = pairs
    assert known_pairs(data).tolist() == pairs.tolist()


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_users_of_any_integer_type(model, dtype):
    """8 bits without a sign would be taken for a mask."""
    user = torch.tensor([0, 3, 1, 0])
    expected = next(iter(recommend(model, user, 4)))
    found = next(iter(recommend(model, user.to(dtype), 4)))
    assert torch.equal(found.item, expected.item) and torch.equal(found.user, expected.user)
