import torch

from mrdib_pyg.pid.sources import ScoreSource


def test_features_against_all_scores():
    user, item = torch.randn(5, 3), torch.randn(7, 3)
    score = (user @ item.t()).double()
    u, i = torch.tensor([0, 4, 4, 2]), torch.tensor([6, 0, 3, 3])
    d = score[u, i] - score.mean(dim=1)[u]
    variance = score.var(dim=1, unbiased=False)[u]
    expected = torch.stack([d, d / variance.sqrt(), variance], dim=-1)
    assert torch.allclose(ScoreSource(user, item).features(u, i), expected, atol=1e-5)


def test_what_is_missing_says_nothing():
    user, item = torch.randn(5, 3), torch.randn(7, 3)
    has = torch.tensor([True, True, False, True, True, True, False])
    source = ScoreSource(user, item, torch.arange(5) != 1, has)
    u, i = torch.tensor([0, 0, 1]), torch.tensor([2, 1, 1])
    d = source.features(u, i)[:, 0]
    known = (user[0] @ item.t())[has]
    assert d[0] == 0 and d[2] == 0
    assert torch.allclose(d[1].float(), user[0] @ item[1] - known.mean(), atol=1e-5)


def test_offset_and_constant_scores():
    user, item = torch.randn(5, 3), torch.randn(7, 3)
    u, i = torch.arange(5), torch.arange(5)
    moved = ScoreSource(user, item + 3.0).features(u, i)
    assert torch.allclose(moved, ScoreSource(user, item).features(u, i), atol=1e-4)
    same = ScoreSource(user, item[:1].expand(7, 3))
    assert not same.varies and ScoreSource(user, item).varies
    assert same.features(u, i).isfinite().all()
