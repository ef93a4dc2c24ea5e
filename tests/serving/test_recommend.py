import pytest
import torch

from mrdib_pyg.serving import recommend


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
        ({'batch_size': 0}, "'batch_size' must be at least 1"),
    ],
)
def test_refusals_come_at_once(model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        recommend(model, **kwargs)
