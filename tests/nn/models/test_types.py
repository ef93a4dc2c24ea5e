import torch
from torch.autograd import gradcheck

from mrdib_pyg.nn.models import Triplets
from mrdib_pyg.nn.models.batch import batch_norms, batch_squares

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
