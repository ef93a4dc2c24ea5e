"""The Triton kernels of the PID loss against the reference; collected by ``test_kernels.py``: on
CUDA where there is one, else under Triton's interpreter.
"""

import os
from importlib import import_module

import pytest
import torch

from mrdib_pyg.ops import NormalizedAdjacency, pid_loss
from mrdib_pyg.ops._bpr_terms import SortedTriplets
from mrdib_pyg.ops._pid_loss import pid_loss_reference
from mrdib_pyg.ops.adjacency import to_rowptr

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip('needs CUDA or TRITON_INTERPRET=1', allow_module_level=True)
DEVICE = 'cpu' if INTERPRETED else 'cuda'

kernels = import_module('mrdib_pyg.ops.kernels.pid_loss')
door = import_module('mrdib_pyg.ops._pid_loss')


@pytest.fixture(autouse=True)
def use_kernels(monkeypatch):
    monkeypatch.setattr(door, '_use_kernels', lambda device: True)
    with torch.device(DEVICE):
        yield


def make_tables(users, items, widths, dtype=torch.float32):
    return [
        torch.randn(rows, width, dtype=dtype, requires_grad=True)
        for width in widths
        for rows in (users, items)
    ]


def make_triplets(users, items, num):
    # Few ids, so that triplets and items repeat; the last user and item have none.
    return [torch.randint(n - 1, (num,)) for n in (users, items, items)]


def run(function, tables, num_codes, *args, **kwargs):
    pairs = list(zip(tables[0::2], tables[1::2]))
    fused = pairs[num_codes] if len(pairs) > num_codes else None
    out = function(pairs[:num_codes], fused, *args, return_gains=True, **kwargs)
    loss = (out.unique * torch.arange(1, 1 + num_codes)).sum()
    if fused is not None:
        loss = loss + 0.5 * out.synergistic
    needed = [x for x in tables if x.requires_grad]
    return [out.unique, out.gains, *torch.autograd.grad(loss, needed)]


def assert_equals_reference(tables, num_codes, *args, **kwargs):
    tolerance = {'rtol': 1e-5, 'atol': 1e-5}
    if any(x.dtype == torch.float64 for x in tables):
        tolerance = {'rtol': 1e-10, 'atol': 1e-12}
    expected = run(pid_loss_reference, tables, num_codes, *args, **kwargs)
    for deterministic in (True, False):
        actual = run(pid_loss, tables, num_codes, *args, deterministic=deterministic, **kwargs)
        for a, b in zip(actual, expected):
            torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize('width', [1, 3, 64, 100, 256])
def test_widths(width):
    tables = make_tables(6, 5, [width, width + 37])
    assert_equals_reference(tables, 1, *make_triplets(6, 5, 20))


@pytest.mark.parametrize('each', [True, False])
@pytest.mark.parametrize('num', [1, 2, 3, 4])
def test_numbers_of_modalities(num, each, monkeypatch):
    monkeypatch.setattr(kernels, '_MAX_EACH', 2**18 if each else 0)
    triplet = make_triplets(6, 5, 15)
    tables = make_tables(6, 5, [4, 8, 1, 5][:num] + [6], torch.float64)
    assert_equals_reference(tables, num, *triplet)
    assert_equals_reference(tables[:-2], num, *triplet)


@pytest.mark.parametrize('segment', [3, 20])
def test_long_rows_are_split(segment, monkeypatch):
    monkeypatch.setattr(kernels, '_SEGMENT', segment)
    src, pos, neg = make_triplets(5, 4, 60)
    src[:30] = 3  # Hubs: one user, and one item that is positive and negative.
    pos[20:50] = 2
    neg[40:60] = 2
    assert_equals_reference(make_tables(5, 4, [3, 70], torch.float64), 1, src, pos, neg)


def cut_at(segment, rowptr, monkeypatch):
    monkeypatch.setattr(kernels, '_SEGMENT', segment)
    return kernels._Cut(torch.tensor(rowptr), rowptr[-1])


def test_cut_rows(monkeypatch):
    # Rows of 0, 4, 5, 0, 9 and 0 entries, with boundaries before the entries 4, 8, 12 and 16.
    cut = cut_at(4, [0, 0, 4, 9, 9, 18, 18], monkeypatch)
    assert cut.num == 4
    assert (cut.row - 1).tolist() == [2, 2, 4, 4]
    # A boundary at the end lies in no row.
    assert (cut_at(4, [0, 8], monkeypatch).row - 1).tolist() == [0, 1]


@pytest.mark.parametrize('segment', [1, 2, 5, 128])
def test_sums_of_cut_rows(segment, monkeypatch):
    monkeypatch.setattr(kernels, '_SEGMENT', segment)
    for power in (0, 1, 4):  # From no skew to all entries in few rows.
        count = (torch.rand(30) ** power * 12).long()
        rowptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
        num = int(rowptr[-1])
        col, score = torch.randint(7, (num,)), torch.randn(num, dtype=torch.float64)
        x = torch.randn(7, 3, dtype=torch.float64)
        weights = kernels._Weights((score,), torch.tensor([-2.0]).double(), (score,), False)
        # Entries 2k are positive items, of the triplet k.
        out = kernels._sum_rows(rowptr, 2 * torch.arange(num), col, weights, [x])[0]
        expected = torch.zeros_like(out).index_add(
            0, torch.repeat_interleave(count), -2.0 * torch.sigmoid(-score).view(-1, 1) * x[col]
        )
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_adjacency():
    edge_index = torch.stack([torch.randint(10, (40,)), torch.randint(9, (40,))])
    adj = NormalizedAdjacency(edge_index, num_nodes=(12, 9))
    neg = torch.randint(9, (adj.nnz,))
    assert_equals_reference(make_tables(12, 9, [4, 3, 5]), 2, adj, neg)


def test_masks():
    masks = [None, (torch.rand(9) < 0.7, torch.rand(7) < 0.7)]
    tables = make_tables(9, 7, [4, 3, 5], torch.float64)
    assert_equals_reference(tables, 2, *make_triplets(9, 7, 20), mask=masks)


def test_no_triplets():
    empty = torch.empty(0, dtype=torch.long)
    assert_equals_reference(make_tables(5, 4, [3, 2]), 1, empty, empty, empty)
    assert_equals_reference(make_tables(0, 0, [3, 2]), 1, empty, empty, empty)


@pytest.mark.parametrize('frozen', [(1, 4), (0, 1), (0, 2, 4), (1, 3, 5)])
def test_gradients_of_some(frozen):
    tables = make_tables(9, 7, [4, 3, 5], torch.float64)
    for i in frozen:
        tables[i].requires_grad_(False)
    assert_equals_reference(tables, 2, *make_triplets(9, 7, 20))


@pytest.mark.parametrize('deterministic', [True, False])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_is_no_worse_than_plain_half(dtype, deterministic):
    tables = [0.3 * x.detach() for x in make_tables(8, 6, [64, 100])]
    tables = [x.to(dtype).requires_grad_() for x in tables]
    triplet = make_triplets(8, 6, 200)
    ours = run(pid_loss, tables, 1, *triplet, deterministic=deterministic)
    plain = run(pid_loss_reference, tables, 1, *triplet)
    tables = [x.detach().double().requires_grad_() for x in tables]
    exact = run(pid_loss_reference, tables, 1, *triplet)
    for a, b, truth in zip(ours, plain, exact):
        error, error_plain = ((x.double() - truth).norm().item() for x in (a, b))
        assert error <= 1.01 * error_plain + 1e-6
    assert all(x.dtype == dtype for x in ours[2:])


def test_mixed_types():
    types = [torch.bfloat16, torch.float32, torch.float64]
    tables = [make_tables(9, 7, [w], dtype) for w, dtype in zip([4, 3, 5], types)]
    tables = [x for pair in tables for x in pair]
    triplet = make_triplets(9, 7, 20)
    exact = [x.detach().double().requires_grad_() for x in tables]
    expected = run(pid_loss_reference, exact, 2, *triplet)
    for deterministic in (True, False):
        actual = run(pid_loss, tables, 2, *triplet, deterministic=deterministic)
        for a, b in zip(actual, expected):
            rtol = 1e-2 if a.dtype == torch.bfloat16 else 1e-5
            torch.testing.assert_close(a, b, rtol=rtol, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize('which', ['src', 'pos', 'neg'])
@pytest.mark.parametrize('value', [-1, 7, 2**40])
def test_index_out_of_range_is_nan(which, value):
    # It is not looked for on an accelerator; nothing is read or written beyond the tables.
    triplet = dict(zip(('src', 'pos', 'neg'), make_triplets(7, 7, 20)))
    triplet[which][3] = value
    perm = triplet['src'].argsort(stable=True)
    src, pos, neg = (x[perm] for x in triplet.values())
    triplets = SortedTriplets(torch.searchsorted(src, torch.arange(8)), src, pos, neg)
    tables = [x.detach() for x in make_tables(7, 7, [3])]
    score = kernels.score_differences(triplets, tables)[0][0]
    place = int((perm == 3).nonzero())
    assert bool(score[place].isnan()) and int(score.isnan().sum()) == 1
    scale = torch.ones(1)
    for deterministic in (True, False):
        arguments = triplets, score.view(1, -1), scale, None, tables
        kernels.item_gradients(*arguments, [True], deterministic)


def test_entry_points():
    user, item = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    src, pos, neg = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([1, 0, 0])
    triplets = SortedTriplets(to_rowptr(src, 2), None, pos, neg)
    scores, none, src_out = kernels.score_differences(triplets, [user, item])
    assert scores.tolist() == [[-3.0, 5.0, 0.0]] and none == [] and src_out is None
    keep = torch.tensor([[True, False, True]])
    _, sums, src_out = kernels.score_differences(triplets, [user, item], keep, True, True)
    assert src_out.tolist() == src.tolist()
    given = triplets._replace(src=src)
    assert kernels.score_differences(given, [user, item], with_src=True)[2] is src
    share = torch.tensor(3.0).sigmoid()  # of the first triplet; the last compares an item to itself
    torch.testing.assert_close(sums[0], torch.stack([share * (item[0] - item[1]), 0 * item[0]]))
    scale = torch.tensor([-2.0])
    grad = kernels.user_gradients(sums, scale, [user, item], [True])[0]
    assert torch.equal(grad, -2.0 * sums[0])
    assert kernels.user_gradients(sums, scale, [user, item], [False]) == [None]
    weight = scale * torch.sigmoid(-scores[0])
    for mask in (None, keep):
        a, b, c = (weight if mask is None else weight * mask[0]).tolist()
        expected = torch.stack(
            [a * user[0] - b * user[1], -a * user[0] + b * user[1]]  # c adds and subtracts
        )
        for deterministic in (True, False):
            arguments = triplets, scores, scale, mask, [user, item]
            grad = kernels.item_gradients(*arguments, [True], deterministic)[0]
            torch.testing.assert_close(grad, expected)
            assert kernels.item_gradients(*arguments, [False], deterministic) == [None]


def test_losses_and_gains():
    # More than a block; values at which 1 + exp(-x) is one, and infinite ones.
    scores = torch.cat([torch.tensor([40.0, 20.0, -80.0, 0.0]), 5 * torch.randn(1500)])
    scores = torch.stack([scores, scores.flip(0)]).double()
    keep = torch.rand(scores.shape) < 0.5
    for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        loss = -torch.nn.functional.logsigmoid(scores.to(dtype))
        for mask in (None, keep):
            counts = torch.ones_like(keep) if mask is None else mask
            total, gains = kernels.sum_losses(scores.to(dtype), mask, with_gains=True)
            assert gains.dtype == total.dtype == dtype
            plain, none = kernels.sum_losses(scores.to(dtype), mask)
            assert torch.equal(plain, total) and none is None
            torch.testing.assert_close(total, (loss * counts).sum(dim=1), rtol=rtol, atol=0)
            expected = (torch.tensor(2.0, dtype=torch.float64).log() - loss) * counts
            torch.testing.assert_close(gains, expected.to(dtype), rtol=rtol, atol=rtol)
    small = kernels.sum_losses(torch.tensor([[20.0, 60.0]]))[0]
    torch.testing.assert_close(small, -torch.nn.functional.logsigmoid(torch.tensor([20.0])))
    bad = torch.tensor([[float('nan')], [float('-inf')]])
    total, gains = kernels.sum_losses(bad, with_gains=True)
    assert total[0].isnan() and gains[0].isnan() and total[1].isinf()
    assert kernels.sum_losses(torch.empty(2, 0))[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize('num_items', [6, 2**15 - 1, 2**15])
def test_sorted_items(num_items):
    pos, neg = torch.tensor([2, 0, -1, 5]), torch.tensor([0, 2**33, 2, 5])
    triplets = SortedTriplets(torch.tensor([0, 4]), None, pos, neg)
    rowptr, entry = kernels._sort_items(triplets, num_items)
    assert rowptr.numel() == num_items + 1
    assert rowptr[:7].tolist() == [0, 2, 2, 4, 4, 4, 6]
    assert int(rowptr[-1]) == 6
    assert entry.tolist() == [1, 2, 0, 5, 6, 7, 3, 4]
