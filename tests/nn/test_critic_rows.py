import pytest
import torch

import mrdib_pyg.nn.mrdib as module
from mrdib_pyg.nn.sides import critic_rows


@pytest.fixture(params=[False, True], ids=['eager', 'static'])
def static(request, monkeypatch):
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: request.param)
    return request.param


def test_a_sample_of_the_batch(static):
    index = torch.tensor([3, 9, 9, 3, 5, 7, 1, 1])
    for seed in range(20):
        torch.manual_seed(seed)
        rows = critic_rows(index, 12, [None, None], 3)
        assert len(set(rows.tolist())) == 3 and set(rows.tolist()) <= {1, 3, 5, 7, 9}
    counts = torch.zeros(12)
    for _ in range(2000):
        counts[critic_rows(index, 12, [None], 3)] += 1
    frequency = counts[[1, 3, 5, 7, 9]] / 2000
    torch.testing.assert_close(frequency, torch.full((5,), 0.6), rtol=0, atol=0.06)


def test_masks(static):
    index = torch.tensor([0, 1, 2, 3, 4, 4])
    first, second = torch.ones(8, dtype=torch.bool), torch.ones(8, dtype=torch.bool)
    first[0] = second[1] = False
    for _ in range(20):
        rows = critic_rows(index, 8, [first, None, second], 3)
        assert set(rows.tolist()) == {2, 3, 4}


def test_fewer_rows_than_asked_for(static):
    index = torch.tensor([0, 1, 2, 2])
    mask = torch.tensor([True, False, True, True, True, False])
    rows = set(critic_rows(index, 6, [mask], 4).tolist())
    assert rows == ({0, 2, 3, 4} if static else {0, 2})  # filled up by other rows with both
    assert critic_rows(index, 6, [None], 100).numel() == (6 if static else 3)


def test_rows_without_the_modality_never_fill_up(static):
    index = torch.tensor([0, 1, 2, 2])
    mask = torch.tensor([True, False, True, True, False, False])
    rows = critic_rows(index, 6, [mask], 5).tolist()
    assert set(rows) == ({0, 2, 3} if static else {0, 2})
    assert len(rows) == (5 if static else 2)


def test_all_rows(static):
    index = torch.tensor([5, 2, 5, 0])
    rows = critic_rows(index, 8, [None], None).tolist()
    if static:  # as many as the batch has entries: another row takes the place of a repeat
        assert len(set(rows)) == 4 and {0, 2, 5} < set(rows)
    else:
        assert rows == [0, 2, 5]


def test_compile():
    torch.compiler.reset()
    compiled = torch.compile(module.critic_rows, backend='aot_eager', fullgraph=True)
    rows = compiled(torch.tensor([3, 9, 9, 5, 7]), 12, [torch.ones(12, dtype=torch.bool)], 4)
    assert set(rows.tolist()) == {3, 5, 7, 9}
