import pytest
import torch
from torch.autograd import gradcheck

from mrdib_pyg.nn.models import Triplets, batch
from mrdib_pyg.nn.models.batch import (
    Rows,
    batch_norms,
    batch_squares,
    bpr_loss,
    propagate_rows,
    take_rows,
    to_local,
)
from mrdib_pyg.ops import NormalizedAdjacency, propagate_mean

BATCH = Triplets(torch.tensor([0, 2, 2]), torch.tensor([1, 0, 3]), torch.tensor([3, 3, 1]))


def tables():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 5, dtype=torch.float64, generator=generator) for n in (3, 4)]


def test_norms_of_the_rows_of_a_batch():
    user, item = tables()
    read = [user[BATCH.src_index], item[BATCH.dst_pos_index], item[BATCH.dst_neg_index]]
    squares = torch.stack([x.square().sum() for x in read])
    torch.testing.assert_close(batch_squares(user, item, BATCH), squares)
    torch.testing.assert_close(batch_norms(user, item, BATCH), sum(x.norm() for x in read))
    leaves = [x.requires_grad_() for x in (user, item)]
    assert gradcheck(lambda *x: batch_squares(*x, BATCH), leaves)
    assert gradcheck(lambda *x: batch_norms(*x, BATCH), leaves)


def test_rows_of_zeros_pass_no_gradient():
    user, item = (torch.zeros(n, 5, requires_grad=True) for n in (3, 4))
    batch_norms(user, item, BATCH).backward()
    assert user.grad.abs().sum() == item.grad.abs().sum() == 0


def test_half_precision_is_summed_in_single():
    user, item = (torch.full((n, 300), 3.0, dtype=torch.float16) for n in (3, 4))
    out = batch_squares(user, item, BATCH)
    assert out.dtype == torch.float32 and out.tolist() == [3 * 300 * 9.0] * 3


def test_local_rows():
    batch = Triplets(torch.tensor([7, 2, 7]), torch.tensor([5, 1, 9]), torch.tensor([1, 5, 4]))
    rows, local = to_local(batch)
    assert rows.user.tolist() == [2, 7] and rows.item.tolist() == [1, 4, 5, 9]
    for ids, index, expected in (
        (rows.user, local.src_index, batch.src_index),
        (rows.item, local.dst_pos_index, batch.dst_pos_index),
        (rows.item, local.dst_neg_index, batch.dst_neg_index),
    ):
        assert torch.equal(ids[index], expected)


def test_bpr_loss():
    user, item = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    batch = Triplets(torch.tensor([0, 2]), torch.tensor([1, 1]), torch.tensor([4, 3]))
    expected = -sum(
        (user[u] @ item[i] - user[u] @ item[j]).sigmoid().log() for u, i, j in zip(*batch)
    )
    torch.testing.assert_close(bpr_loss(user, item, batch), expected / 2)
    extreme = bpr_loss(
        torch.tensor([[1e4]]),
        torch.tensor([[0.0], [1.0]]),
        Triplets(*torch.tensor([[0], [0], [1]])),
    )
    assert float(extreme) == 1e4  # and not infinite


@pytest.mark.parametrize('limit', [0, 2**22], ids=['large', 'small'])
@pytest.mark.parametrize('num_layers', [0, 1, 2])
def test_rows_of_a_propagation(num_layers, limit, monkeypatch):
    monkeypatch.setattr(batch, '_MIN_ENTRIES', limit)
    edge_index = torch.tensor([[0, 0, 1, 2, 2, 4], [1, 3, 0, 3, 2, 1]])
    adj = NormalizedAdjacency(edge_index, num_nodes=(5, 4)).to(torch.float64)
    x = tuple(torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 4))
    rows = Rows(torch.tensor([0, 4]), torch.tensor([1, 2, 3]))
    means, own = propagate_rows(x, adj, num_layers, rows)
    expected = take_rows(*propagate_mean(x, adj, num_layers), rows)
    weights = [torch.randn_like(y) for y in (*means, *own)]
    losses = [
        sum((w * y).sum() for w, y in zip(weights, out))
        for out in ((*means, *own), (*expected, *take_rows(*x, rows)))
    ]
    for a, b in zip(means, expected):
        torch.testing.assert_close(a, b)
    for a, b in zip(*(torch.autograd.grad(loss, x) for loss in losses)):
        torch.testing.assert_close(a, b)
    for a, b in zip(
        propagate_rows(x, adj, num_layers, None)[0], propagate_mean(x, adj, num_layers)
    ):
        assert torch.equal(a, b)
