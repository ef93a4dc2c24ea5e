from importlib import import_module
from math import exp, log, log1p

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_geometric import EdgeIndex
from torch_geometric.testing import withCUDA

from mrdib_pyg.ops import NormalizedAdjacency, pid_loss
from mrdib_pyg.ops._fixed_shapes import fixed_shapes
from mrdib_pyg.ops._pid_loss import PIDLoss, pid_loss_reference

sorted_index = import_module('mrdib_pyg.ops.adjacency')
terms = import_module('mrdib_pyg.ops._bpr_terms')

NAMES = ('image', 'text', 'audio', 'video')


def make_tables(users, items, widths, fused=None, dtype=torch.float64, device='cpu'):
    def table(rows, width):
        return torch.randn(rows, width, dtype=dtype, device=device, requires_grad=True)

    codes = {name: (table(users, d), table(items, d)) for name, d in zip(NAMES, widths)}
    return codes, None if fused is None else (table(users, fused), table(items, fused))


def make_triplets(users, items, num, device='cpu'):
    # Few ids, so that triplets and items repeat; the last user and item have none.
    size = (num,)
    return [torch.randint(n - 1, size, device=device) for n in (users, items, items)]


def all_tables(codes, fused):
    return [x for pair in [*codes.values(), *([] if fused is None else [fused])] for x in pair]


def run(function, codes, fused, *args, **kwargs):
    """The output and the gradients of a sum in which each term has a weight of its own."""
    tables = all_tables(codes, fused)
    for x in tables:
        x.grad = None
    out = function(codes, fused, *args, return_gains=True, **kwargs)
    loss = (out.unique * torch.arange(1, 1 + len(codes), device=out.unique.device)).sum()
    if fused is not None:
        loss = loss + 0.5 * out.synergistic
    loss.backward()
    return out, [x.grad for x in tables]


def assert_same(result, expected, rtol=1e-10, atol=1e-12):
    (out, grads), (out_2, grads_2) = result, expected
    for a, b in zip([*out, *grads], [*out_2, *grads_2]):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def to(codes, fused, dtype):
    def cast(x):
        return x.detach().to(dtype).requires_grad_()

    codes = {name: (cast(u), cast(i)) for name, (u, i) in codes.items()}
    return codes, None if fused is None else (cast(fused[0]), cast(fused[1]))


def test_equals_the_formula():
    codes, fused = make_tables(4, 5, [3, 2], fused=6)
    src, pos, neg = make_triplets(4, 5, 7)
    mask = {'text': torch.tensor([True, True, False, True, True])}
    rows = {name: [x.tolist() for x in pair] for name, pair in {**codes, 'fused': fused}.items()}
    sums, counts, gains = [0.0] * 3, [0] * 3, torch.zeros(7, 3, dtype=torch.float64)
    for k, (name, (user, item)) in enumerate(rows.items()):
        for e in range(7):
            u, i, j = int(src[e]), int(pos[e]), int(neg[e])
            if name == 'text' and 2 in (i, j):
                continue
            delta = sum(x * (a - b) for x, a, b in zip(user[u], item[i], item[j]))
            loss = log1p(exp(-delta))
            gains[e, k] = log(2) - loss
            sums[k] += loss
            counts[k] += 1
    assert 0 < counts[1] < 7

    expected = torch.tensor([s / c for s, c in zip(sums, counts)], dtype=torch.float64)
    for function in (pid_loss, pid_loss_reference):
        out = function(codes, fused, src, pos, neg, mask=mask, return_gains=True)
        torch.testing.assert_close(out.unique, expected[:2])
        torch.testing.assert_close(out.synergistic, expected[2])
        torch.testing.assert_close(out.gains, gains)
        assert not out.gains.requires_grad and isinstance(out, PIDLoss)


@withCUDA
@pytest.mark.parametrize('deterministic', [True, False])
@pytest.mark.parametrize(('num', 'fused'), [(1, None), (2, 5), (3, 8), (4, 2)])
def test_equals_the_reference(num, fused, deterministic, device):
    codes, fused = make_tables(9, 7, [4, 8, 1, 5][:num], fused, device=device)
    for size in (40, 11, 1):  # More than users times items, and less.
        triplet = make_triplets(9, 7, size, device)
        result = run(pid_loss, codes, fused, *triplet, deterministic=deterministic)
        assert_same(result, run(pid_loss_reference, codes, fused, *triplet))
        assert result[0].unique.shape == (num,)
        assert result[0].gains.shape == (size, num + (fused is not None))
        assert (result[0].synergistic is None) == (fused is None)


@withCUDA
@pytest.mark.parametrize('width', [1, 3, 64, 100, 256])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_widths(width, dtype, device):
    codes, fused = make_tables(20, 30, [width, width], 2 * width + 1, dtype, device)
    triplet = make_triplets(20, 30, 50, device)
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (1e-10, 1e-12)
    expected = run(pid_loss_reference, codes, fused, *triplet)
    assert_same(run(pid_loss, codes, fused, *triplet), expected, rtol, atol)


def test_long_lists():  # Sorted in another way than short ones.
    codes, fused = make_tables(500, 400, [3], 2)
    triplet = make_triplets(500, 400, sorted_index._MAX_RADIX + 5)
    expected = run(pid_loss_reference, codes, fused, *triplet)
    assert_same(run(pid_loss, codes, fused, *triplet), expected)


def test_many_rows():  # Ids of more than 16 bits.
    codes, fused = make_tables(70_000, 140_000, [2])
    triplet = make_triplets(70_000, 140_000, 300)
    expected = run(pid_loss_reference, codes, fused, *triplet)
    assert_same(run(pid_loss, codes, fused, *triplet), expected)


@pytest.mark.parametrize('dense', [True, False])
def test_blocks(dense, monkeypatch):
    users, items = (50, 3) if dense else (50, 40)
    codes, fused = make_tables(users, items, [3, 4], 5)
    src, pos, neg = make_triplets(users, items, 900)
    src[100:400] = 7  # A user of more triplets than a block.
    src[src == 8] = 9  # And one of none between others.
    expected = run(pid_loss, codes, fused, src, pos, neg)
    monkeypatch.setattr(terms, '_MAX_TRIPLETS', 16)
    monkeypatch.setattr(terms, '_MAX_GATHERED', 40)
    triplets = terms.SortedTriplets(terms.to_rowptr(src.sort().values, users), None, pos, neg)
    blocks = list(terms.blocks(triplets, items))
    assert len(blocks) > 3 and blocks[-1][0].stop == users and blocks[-1][1].stop == 900
    assert all(a.stop == b.start for x, y in zip(blocks, blocks[1:]) for a, b in zip(x, y))
    with fixed_shapes():  # Where to cut would be read of the data.
        assert len(list(terms.blocks(triplets, items))) == 1
    assert_same(run(pid_loss, codes, fused, src, pos, neg), expected)


@withCUDA
def test_both_faces_are_equal(device):
    users, items = 12, 9
    src, pos, _ = make_triplets(users, items, 40, device)
    adj = NormalizedAdjacency(torch.stack([src, pos]), num_nodes=(users, items)).to(device)
    row, col = torch.repeat_interleave(adj.rowptr.diff()), adj.col
    neg = torch.randint(items, (adj.nnz,), device=device)
    assert int((adj.rowptr.diff() == 0).sum()) > 0
    codes, fused = make_tables(users, items, [4, 3], 5, device=device)
    mask = {'image': torch.rand(items, device=device) > 0.3}

    expected = run(pid_loss, codes, fused, row, col, neg, mask=mask)
    assert_same(run(pid_loss_reference, codes, fused, adj, neg, mask=mask), expected)
    assert_same(run(pid_loss, codes, fused, adj, neg, mask=mask), expected)
    assert_same(run(pid_loss, codes, fused, adj=adj, neg=neg, mask=mask), expected)
    assert_same(run(pid_loss, codes, fused, src=row, pos=col, neg=neg, mask=mask), expected)
    edge_index = torch.stack([src, pos])  # Unsorted, with repeated edges, which are one entry.
    matrix = torch.sparse_coo_tensor(edge_index, torch.ones_like(src).double(), (users, items))
    for other in (
        edge_index,
        EdgeIndex(edge_index, sparse_size=(users, items)),
        matrix,
        matrix.coalesce().to_sparse_csr(),
    ):
        assert_same(run(pid_loss, codes, fused, other, neg, mask=mask), expected)


def test_order_of_triplets_does_not_matter():
    codes, fused = make_tables(12, 9, [4, 3], 5)
    src, pos, neg = make_triplets(12, 9, 60)
    perm = torch.randperm(60)
    out, grads = run(pid_loss, codes, fused, src, pos, neg)
    out_2, grads_2 = run(pid_loss, codes, fused, src[perm], pos[perm], neg[perm])
    assert_same((out._replace(gains=out.gains[perm]), grads), (out_2, grads_2))


def test_bits_are_repeated():
    codes, fused = make_tables(12, 9, [4, 3], 5, torch.float32)
    triplet = make_triplets(12, 9, 60)
    first, second = (run(pid_loss, codes, fused, *triplet) for _ in range(2))
    assert_same(first, second, rtol=0, atol=0)


def test_losses_may_be_changed_in_place():
    tables = [torch.randn(5, 3, requires_grad=True) for _ in range(4)]
    index = torch.tensor([0, 2, 4])
    out = pid_loss([(tables[0], tables[1])], (tables[2], tables[3]), index, index, index.flip(0))
    loss = out.synergistic
    loss += 0.5 * out.unique.sum()
    out.unique.mul_(2.0)
    loss.backward()
    assert all(x.grad is not None for x in tables)


def test_gains():
    user = torch.tensor([[1.0], [0.0], [60.0], [-60.0]])
    item = torch.tensor([[1.0], [-1.0]])
    src = torch.arange(4)
    triplet = src, torch.zeros_like(src), torch.ones_like(src)
    out = pid_loss([(user, item)], None, *triplet, return_gains=True)
    assert pid_loss([(user, item)], None, *triplet).gains is None
    expected = [log(2) + torch.sigmoid(torch.tensor(2.0)).log().item(), 0, log(2), log(2) - 120]
    torch.testing.assert_close(out.gains.view(-1), torch.tensor(expected))
    torch.testing.assert_close(out.gains.mean(), log(2) - out.unique[0])


@withCUDA
def test_no_triplets(device):
    codes, fused = make_tables(5, 4, [3], 2, device=device)
    empty = torch.empty(0, dtype=torch.long, device=device)
    adj = NormalizedAdjacency(empty.view(1, 0).expand(2, 0), num_nodes=(5, 4))
    for args in ((empty, empty, empty), (adj.to(device), empty)):
        out, grads = run(pid_loss, codes, fused, *args)
        assert out.unique.tolist() == [0.0] and out.synergistic == 0.0
        assert out.gains.shape == (0, 2)
        assert all(x.shape == t.shape for x, t in zip(grads, all_tables(codes, fused)))
        assert all(not bool(x.any()) for x in grads)


@withCUDA
def test_masks(device):
    codes, fused = make_tables(6, 5, [3, 2, 4], 2, device=device)
    src, pos, neg = make_triplets(6, 5, 40, device)
    users = torch.arange(6, device=device) != 1
    items = torch.arange(5, device=device) != 2
    nobody = torch.zeros(5, dtype=torch.bool, device=device)
    mask = {'image': (users, items), 'text': (users, None), 'audio': nobody}
    out, grads = run(pid_loss, codes, fused, src, pos, neg, mask=mask)
    assert_same((out, grads), run(pid_loss_reference, codes, fused, src, pos, neg, mask=mask))

    keep = users[src] & items[pos] & items[neg]
    assert 0 < int(keep.sum()) < int(users[src].sum()) < 40
    alone = {'image': codes['image']}
    part = pid_loss(alone, None, src[keep], pos[keep], neg[keep], return_gains=True)
    torch.testing.assert_close(part.unique[0], out.unique[0])
    torch.testing.assert_close(part.gains[:, 0], out.gains[keep, 0])
    assert not bool(out.gains[~keep, 0].any())
    assert out.unique[2] == 0 and not bool(grads[4].any()) and not bool(grads[5].any())
    as_list = pid_loss(list(codes.values()), fused, src, pos, neg, mask=list(mask.values()))
    assert torch.equal(as_list.unique, out.unique)


def test_masked_rows_do_not_count_in_losses_and_gains():
    codes, _ = make_tables(6, 5, [3])
    with torch.no_grad():
        codes['image'][1][2] = torch.nan
    mask = {'image': torch.arange(5) != 2}
    out, _ = run(pid_loss, codes, None, *make_triplets(6, 5, 40), mask=mask)
    assert bool(out.unique.isfinite()) and bool(out.gains.isfinite().all())


def test_gradcheck():
    codes, fused = make_tables(5, 4, [3, 1], 2)
    triplet = make_triplets(5, 4, 15)
    mask = {'text': torch.tensor([True, False, True, True])}
    tables = all_tables(codes, fused)

    def losses(*tables):
        pairs = list(zip(tables[0::2], tables[1::2]))
        out = pid_loss(dict(zip(NAMES, pairs[:2])), pairs[2], *triplet, mask=mask)
        return out.unique, out.synergistic

    assert torch.autograd.gradcheck(losses, tables)


def test_gradients_of_some():
    codes, fused = make_tables(5, 4, [3, 2], 2)
    triplet = make_triplets(5, 4, 15)
    _, expected = run(pid_loss_reference, codes, fused, *triplet)
    codes['image'][0].requires_grad_(False)
    fused[1].requires_grad_(False)
    _, grads = run(pid_loss, codes, fused, *triplet)
    assert grads[0] is None and grads[5] is None
    for i in (1, 2, 3, 4):
        torch.testing.assert_close(grads[i], expected[i])
    with torch.no_grad():
        assert not pid_loss(codes, fused, *triplet).unique.requires_grad


def test_one_table_for_users_and_items():
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    triplet = make_triplets(8, 8, 20)
    grads = []
    for function in (pid_loss, pid_loss_reference):
        (grad,) = torch.autograd.grad(function([(x, x)], None, *triplet).unique.sum(), x)
        grads.append(grad)
    torch.testing.assert_close(*grads)


def test_strided_tables_and_int32_ids():
    codes, _ = make_tables(6, 5, [3])
    user, item = codes['image']
    strided = {'image': (user.t().contiguous().t(), item.repeat(2, 2)[:5, :3])}
    src, pos, neg = make_triplets(6, 5, 20)
    expected = pid_loss(codes, None, src, pos, neg)
    for args in ((src, pos, neg), (src.int(), pos.int(), neg.int())):
        assert torch.equal(pid_loss(strided, None, *args).unique, expected.unique)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@withCUDA
def test_half_is_no_worse_than_plain_half(dtype, device):
    codes, fused = make_tables(50, 40, [64, 64], 100, torch.float64, device)
    codes, fused = to(codes, fused, dtype)
    with torch.no_grad():
        for x in all_tables(codes, fused):
            x.mul_(0.3)
    triplet = make_triplets(50, 40, 2000, device)
    ours = run(pid_loss, codes, fused, *triplet)
    plain = run(pid_loss_reference, codes, fused, *triplet)
    exact = run(pid_loss_reference, *to(codes, fused, torch.float64), *triplet)
    assert ours[0].unique.dtype == ours[0].gains.dtype == torch.float32
    for a, b, truth in zip(*([*out, *grads] for out, grads in (ours, plain, exact))):
        error, error_plain = ((x.double() - truth).norm().item() for x in (a, b))
        assert error <= 1.01 * error_plain + 1e-6
    for grad, x in zip(ours[1], all_tables(codes, fused)):
        assert grad.dtype == x.dtype == dtype


def test_mixed_types():
    codes, fused = make_tables(6, 5, [3], 2, torch.float32)
    codes['text'] = make_tables(6, 5, [4], dtype=torch.bfloat16)[0]['image']
    codes['audio'] = make_tables(6, 5, [4], dtype=torch.float64)[0]['image']
    triplet = make_triplets(6, 5, 20)
    (out, grads), (exact, _) = (
        run(pid_loss, codes, fused, *triplet),
        run(pid_loss, *to(codes, fused, torch.float64), *triplet),
    )
    assert out.unique.dtype == torch.float64
    torch.testing.assert_close(out.unique, exact.unique, rtol=1e-5, atol=1e-6)
    assert [x.dtype for x in grads] == [x.dtype for x in all_tables(codes, fused)]


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements of a tensor that an operator returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                numel = x.values().numel() if x.layout == torch.sparse_csr else x.numel()
                self.numel = max(self.numel, numel)
        return out


@pytest.mark.parametrize('items', [1000, 50])  # More places than entries, and less.
def test_no_tensor_of_triplets_times_channels(items):
    num, width = 150_000, 64
    codes, fused = make_tables(1000, items, [width, width], width, torch.float32)
    triplet = make_triplets(1000, items, num)
    largest = {}
    for function in (pid_loss, pid_loss_reference):
        with LargestTensor() as mode:
            run(function, codes, fused, *triplet)
        largest[function] = mode.numel
    assert largest[pid_loss] <= 3 * num
    assert largest[pid_loss_reference] >= num * width  # The test can tell.


def test_no_tensor_of_edges_times_channels():
    codes, fused = make_tables(600, 500, [64, 64], 64, torch.float32)
    adj = NormalizedAdjacency((torch.rand(600, 500) < 0.3).nonzero().t(), num_nodes=(600, 500))
    with LargestTensor() as mode:
        run(pid_loss, codes, fused, adj, torch.randint(500, (adj.nnz,)))
    assert mode.numel <= 3 * adj.nnz


@pytest.mark.filterwarnings('ignore:.*should not be instantiated')  # By torch's own tracing.
def test_compile_without_graph_breaks():
    codes, fused = make_tables(12, 9, [4, 3], 5)
    triplet = make_triplets(12, 9, 20)
    mask = {'image': torch.arange(9) > 2}

    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend='aot_eager')
    def compiled(codes, fused, src, pos, neg, mask, return_gains):
        return pid_loss(codes, fused, src, pos, neg, mask=mask, return_gains=return_gains)

    expected = run(pid_loss, codes, fused, *triplet, mask=mask)
    assert_same(run(compiled, codes, fused, *triplet, mask=mask), expected)


def bad_calls():
    codes, fused = make_tables(6, 5, [3, 2], 4)
    user, item = codes['image']
    ids = torch.zeros(8, dtype=torch.long)
    good = (ids, ids, ids)
    flags = torch.ones(5, dtype=torch.bool)
    adj = NormalizedAdjacency(torch.tensor([[0, 0, 1], [1, 2, 1]]), num_nodes=(6, 5))
    bad = torch.full((8,), 6)
    yield ValueError, "'codes' must", ({}, None, *good), {}
    yield TypeError, "'codes' must be a mapping or a list", (user, None, *good), {}
    yield TypeError, "'image' must be a pair", ({'image': item}, None, *good), {}
    yield TypeError, "users of 'image' must be a tensor", ({'image': (None, item)}, None, *good), {}
    yield TypeError, "items of 'fused' must be floating", (codes, (user, item.long()), *good), {}
    yield ValueError, r"'fused' must be matrices.*\[6, 3\]", (codes, (user, item[:, :2]), *good), {}
    yield TypeError, "'fused' must be of one type", (codes, (user, item.float()), *good), {}
    yield TypeError, "pass 'src', 'pos' and 'neg'", (codes, None, ids), {}
    yield TypeError, "pass 'src', 'pos' and 'neg'", (codes, None, ids, ids), {'src': ids}
    yield TypeError, "'src' must hold integer ids", (codes, None, ids.float(), ids, ids), {}
    yield TypeError, "'neg' must hold integer ids .got list", (codes, None, ids, ids, [0]), {}
    yield TypeError, "'neg' must hold integer ids", (codes, None, adj, torch.ones(3)), {}
    yield ValueError, 'must have the same shape', (codes, None, ids[:1], ids, ids), {}
    yield ValueError, "'pos' must have one dimension", (codes, None, ids, ids.view(2, 4), ids), {}
    yield IndexError, r"'src' must .* 6\).*got 6 to 6", (codes, None, bad, ids, ids), {}
    yield IndexError, r"'pos' must .* 5\).*got 6 to 6", (codes, None, ids, bad, ids), {}
    yield IndexError, r"'neg' must .*got -1", (codes, None, ids, ids, ids - 1), {}
    yield IndexError, r"'neg' must .*got 6", (codes, None, adj, bad[:3]), {}
    yield ValueError, "'neg' must hold one item for each of the 3", (codes, None, adj, ids), {}
    yield ValueError, "'adj' must be a matrix of the 6 users times", (codes, None, adj.t(), ids), {}
    yield TypeError, "'adj' must be an edge_index", (codes, None, [1], ids), {}
    yield ValueError, r"'mask' must .*\['x'\]", (codes, None, *good), {'mask': {'x': flags}}
    yield ValueError, r"'mask' must .*fused", (codes, None, *good), {'mask': {'fused': flags}}
    yield TypeError, "mask of 'text' must be bool", (codes, None, *good), {'mask': {'text': ids}}
    yield ValueError, "mask of 'text'.*5 items", (codes, None, *good), {'mask': {'text': flags[:4]}}
    more = torch.ones(9, dtype=torch.bool)
    mask = {'text': more}
    yield ValueError, r"mask of 'text'.*5 items.*\[9\]", (codes, None, *good), {'mask': mask}
    others = {'image': (user, item), 'text': (torch.ones(9, 2).double(), item[:, :2])}
    yield ValueError, r"users of 'text' .* 6 rows.*got 9", (others, None, *good), {}
    longer = (user, torch.cat([item, item[:3]]))
    yield ValueError, r"items of 'fused' .* 5 rows.*got 8", (codes, longer, *good), {}
    mask = {'text': (flags, None)}
    yield ValueError, "mask of 'text'.*6 users", (codes, None, *good), {'mask': mask}


@pytest.mark.parametrize(('error', 'match', 'args', 'kwargs'), list(bad_calls()))
def test_errors(error, match, args, kwargs):
    with pytest.raises(error, match=match):
        pid_loss(*args, **kwargs)


def test_a_modality_may_be_called_fused():
    codes = {name: (torch.randn(3, 4), torch.randn(5, 4)) for name in ('image', 'fused')}
    fused = (torch.randn(3, 2), torch.randn(5, 2))
    index = torch.tensor([0, 1]), torch.tensor([2, 4]), torch.tensor([1, 0])
    mask = {'fused': torch.ones(5, dtype=torch.bool)}
    out = pid_loss(codes, fused, *index, mask=mask, return_gains=True)
    expected = pid_loss(list(codes.values()), fused, *index, return_gains=True)
    assert out.unique.shape == (2,) and out.gains.shape == (2, 3)
    assert torch.equal(out.gains, expected.gains) and out.synergistic == expected.synergistic


@pytest.mark.parametrize('mask', [[None, None, None], 'all', [True, False]])
def test_masks_of_another_form_are_refused(mask):
    codes, index = [(torch.randn(3, 4), torch.randn(5, 4))], torch.tensor([0])
    with pytest.raises(TypeError, match='a pair of masks of users and items'):
        pid_loss(codes, None, index, index, index, mask=[mask])
