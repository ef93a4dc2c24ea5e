import math

import pytest
import torch

from mrdib_pyg.ops import _sampled_softmax_loss as module
from mrdib_pyg.ops import sampled_softmax_loss
from mrdib_pyg.ops._sampled_softmax_loss import draw_shared_negatives


def make(num_rows=30, num_neg=9, dtype=torch.float64, d=4):
    g = torch.Generator().manual_seed(0)
    user, item = (torch.randn(n, d, generator=g, dtype=dtype) for n in (7, 12))
    src, pos = (torch.randint(n, (num_rows,), generator=g) for n in (7, 12))
    neg = torch.randperm(12, generator=g)[:num_neg]
    return user, item, src, pos, neg


def naive(user, item, src, pos, neg, keep=None):
    losses = []
    for b in range(src.numel()):
        if keep is not None and not keep[b]:
            continue
        score = user[src[b]] @ item[pos[b]]
        others = [user[src[b]] @ item[j] for j in neg.tolist() if j != int(pos[b])]
        losses.append(torch.stack([score, *others]).logsumexp(0) - score)
    return torch.stack(losses).mean() if losses else user.new_zeros(())


@pytest.fixture(params=['function', 'plain', 'blocks'])
def loss_of(request, monkeypatch):
    """The way of the CPU, in one block and in several, and that of other devices."""
    if request.param == 'plain':
        monkeypatch.setattr(module._SampledSoftmax, 'apply', module._plain)
    if request.param == 'blocks':
        monkeypatch.setattr(module, '_MAX_SCORES', 40)
    return sampled_softmax_loss


@pytest.mark.parametrize('share', [None, 0.5, 0.0])
def test_values_and_gradients(loss_of, share):
    user, item, src, pos, neg = make()
    keep = None if share is None else torch.rand(30) < share
    inputs = [x.clone().requires_grad_() for x in (user, item)]
    expected = naive(*inputs, src, pos, neg, keep)
    loss = loss_of(*inputs, src, pos, neg, keep)
    torch.testing.assert_close(loss, expected)
    if share != 0.0:
        for a, b in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)):
            torch.testing.assert_close(a, b)
    else:
        grads = torch.autograd.grad(loss, inputs)
        assert all(bool((grad == 0).all()) for grad in grads)


def test_gradcheck(loss_of):
    user, item, src, pos, neg = make(num_rows=8)
    keep = torch.arange(8) % 3 > 0
    inputs = [x.requires_grad_() for x in (user, item)]
    for mask in (None, keep):
        assert torch.autograd.gradcheck(loss_of, (*inputs, src, pos, neg, mask))


def test_the_positive_is_no_negative(loss_of):
    user, item, src, pos, _ = make()
    same = pos.clone().fill_(3)
    assert float(loss_of(user, item, src, same, torch.tensor([3]))) == 0.0
    assert float(loss_of(user, item, src, same, torch.tensor([], dtype=torch.long))) == 0.0


def test_a_negative_below_zero_is_none(loss_of):
    user, item, src, pos, neg = make()
    inputs = [x.clone().requires_grad_() for x in (user, item)]
    padded = torch.cat([neg[:4], torch.tensor([-1, -1]), neg[4:]])
    loss, expected = loss_of(*inputs, src, pos, padded), loss_of(*inputs, src, pos, neg)
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(a, b)
    assert float(loss_of(user, item, src, pos, torch.tensor([-1, -1]))) == 0.0


def test_known_values(loss_of):
    user, item, src, pos, neg = make()
    zero = torch.zeros_like(item)
    neg = torch.arange(12)
    # All scores equal: the positive is one of twelve, itself left out of the negatives.
    assert float(loss_of(user, zero, src, pos, neg)) == pytest.approx(math.log(12))


def test_one_negative_is_bpr(loss_of):
    user, item, src, pos, _ = make()
    neg = torch.tensor([5])
    keep = pos != 5
    margin = (user[src] * (item[pos] - item[5])).sum(dim=1)[keep]
    expected = torch.nn.functional.softplus(-margin).mean()
    torch.testing.assert_close(loss_of(user, item, src, pos, neg, keep), expected)


@pytest.mark.parametrize('scale', [1e-3, 1e4])
def test_large_scores(loss_of, scale):
    user, item, src, pos, neg = make(dtype=torch.float32)
    user = (user * scale).requires_grad_()
    loss = loss_of(user, item, src, pos, neg)
    loss.backward()
    expected = naive(user.detach().double(), item.double(), src, pos, neg)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert bool(user.grad.isfinite().all())


def test_order_of_rows_and_negatives(loss_of):
    user, item, src, pos, neg = make()
    perm = torch.randperm(30)
    loss = loss_of(user, item, src, pos, neg)
    torch.testing.assert_close(loss_of(user, item, src[perm], pos[perm], neg.flip(0)), loss)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_is_scored_in_float32(loss_of, dtype):
    user, item, src, pos, neg = make(dtype=torch.float32)
    inputs = [x.to(dtype).requires_grad_() for x in (user, item)]
    loss = loss_of(*inputs, src, pos, neg)
    expected = naive(*(x.detach().double() for x in inputs), src, pos, neg)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    assert all(x.grad.dtype == dtype for x in inputs)


def test_autocast(loss_of):
    user, item, src, pos, neg = make(dtype=torch.float32)
    expected = loss_of(user, item, src, pos, neg)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = loss_of(user, item, src, pos, neg)
    torch.testing.assert_close(loss, expected)


def test_compile():
    inputs = make(dtype=torch.float32)
    inputs[4][2] = -1
    compiled = torch.compile(sampled_softmax_loss, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(*inputs), sampled_softmax_loss(*inputs))
    draw = torch.compile(draw_shared_negatives, fullgraph=True, backend='aot_eager')
    neg, keep = inputs[4][:6], torch.tensor([True, True, False, True, False, True])
    drawn = draw(neg, 5, keep)
    assert drawn.numel() == 5 and sorted(drawn.tolist()) == sorted([-1, *neg[keep].tolist()])


def test_draws_are_uniform_and_without_replacement():
    neg = torch.arange(100, 120)
    keep = torch.arange(20) % 4 > 0
    count = torch.zeros(20)
    for seed in range(2000):
        torch.manual_seed(seed)
        drawn = draw_shared_negatives(neg, 6, keep)
        assert drawn.unique().numel() == 6
        count[drawn - 100] += 1
    assert bool((count[~keep] == 0).all())
    torch.testing.assert_close(count[keep] / 2000, torch.full((15,), 6 / 15), atol=0.05, rtol=0)
    torch.manual_seed(3)
    first = draw_shared_negatives(neg, 6)
    torch.manual_seed(3)
    assert torch.equal(draw_shared_negatives(neg, 6), first)
    assert not torch.equal(draw_shared_negatives(neg, 6), first)


@pytest.mark.parametrize('num, expected', [(3, 3), (5, 5), (9, 8)])
def test_draws_of_too_few(num, expected):
    neg, keep = torch.arange(8), torch.arange(8) < 4
    drawn = draw_shared_negatives(neg, num, keep)
    assert drawn.numel() == expected
    assert (drawn >= 0).sum() == min(num, 4) and set(drawn[drawn >= 0].tolist()) <= {0, 1, 2, 3}
    assert draw_shared_negatives(neg[:0], num).numel() == 0
    assert (draw_shared_negatives(neg, num, torch.zeros(8, dtype=torch.bool)) == -1).all()


def test_repeats_of_an_item_are_positions_of_their_own():
    drawn = draw_shared_negatives(torch.tensor([7, 7, 7]), 3)
    assert drawn.tolist() == [7, 7, 7]


def test_errors():
    user, item, src, pos, neg = make()
    for name, args in (
        ('user', (user[:, :3], item, src, pos, neg)),
        ('src_index', (user, item, src[:5], pos, neg)),
        ('dst_neg_index', (user, item, src, pos, neg.view(-1, 1))),
        ('keep', (user, item, src, pos, neg, torch.ones(30))),
        ('keep', (user, item, src, pos, neg, torch.ones(3, dtype=torch.bool))),
    ):
        with pytest.raises(ValueError, match=f"'{name}'"):
            sampled_softmax_loss(*args)
