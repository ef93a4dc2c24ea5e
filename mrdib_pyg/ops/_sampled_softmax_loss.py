import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrdib_pyg.ops._fixed_shapes import can_read

_MAX_SCORES = 2**18  # of a block of rows on CPU: 1 MiB in float32, which stays in its cache


def sampled_softmax_loss(
    user: Tensor,
    item: Tensor,
    src_index: Tensor,
    dst_pos_index: Tensor,
    dst_neg_index: Tensor,
    keep: Tensor | None = None,
) -> Tensor:
    r"""Computes the softmax loss of positive items among :math:`K` negatives that all rows share,

    .. math::
        \mathcal{L} = \frac{1}{B} \sum_{b=1}^{B} \left[ \log \left( e^{s(u_b, i_b)} +
        \sum_{j \in N, \, j \neq i_b} e^{s(u_b, j)} \right) - s(u_b, i_b) \right], \qquad
        s(u, i) = \langle \mathbf{u}_u, \mathbf{v}_i \rangle.

    By `"Representation Learning with Contrastive Predictive Coding"
    <https://arxiv.org/abs/1807.03748>`_ the mutual information of the user's code and the item is
    at least :math:`\ln(K + 1) - \mathcal{L}` nats, where the BPR loss can certify
    :math:`\ln 2` at most. On CPU, rows are scored in blocks and gradients are computed along with
    the loss; no tensor of shape :math:`(B, K, d)` exists.

    Args:
        user (torch.Tensor): The users.
        item (torch.Tensor): The items.
        src_index (torch.Tensor): The user of each row, :math:`[0, U)`.
        dst_pos_index (torch.Tensor): The positive item of each row, :math:`[0, I)`.
        dst_neg_index (torch.Tensor): The shared negatives, :math:`[0, I)`. A negative that equals
            the positive of a row is left out of this row; one below zero is left out of all.
        keep (torch.Tensor, optional): A boolean mask of the rows that count.
            (default: :obj:`None`, all)

    Shapes:
        - **input:** users :math:`(U, d)`, items :math:`(I, d)`, rows :math:`(B)`, negatives
          :math:`(K)`
        - **output:** a scalar in nats, 0 where no row counts

    Raises:
        ValueError: If shapes do not fit.
    """
    if user.dim() != 2 or item.dim() != 2 or user.size(1) != item.size(1):
        raise ValueError(
            f"'user' and 'item' must be matrices of equal width (got {list(user.shape)} and "
            f'{list(item.shape)})'
        )
    if src_index.dim() != 1 or src_index.shape != dst_pos_index.shape:
        raise ValueError(
            f"'src_index' and 'dst_pos_index' must be vectors of equal length (got "
            f'{list(src_index.shape)} and {list(dst_pos_index.shape)})'
        )
    if dst_neg_index.dim() != 1:
        raise ValueError(f"'dst_neg_index' must be a vector (got {list(dst_neg_index.shape)})")
    if keep is not None and (keep.shape != src_index.shape or keep.dtype != torch.bool):
        raise ValueError(
            f"'keep' must be a boolean mask of {src_index.numel()} rows (got {keep.dtype} of the "
            f'shape {list(keep.shape)})'
        )
    args = (user, item, src_index, dst_pos_index)
    if not can_read(user):
        return _plain(*args, dst_neg_index, keep)
    is_negative = dst_neg_index >= 0
    if not bool(is_negative.all()):
        dst_neg_index = dst_neg_index[is_negative]
    with torch.autocast('cpu', enabled=False):  # its products would be of low precision
        return _SampledSoftmax.apply(*args, dst_neg_index, keep)


def draw_shared_negatives(neg: Tensor, num: int, keep: Tensor | None = None) -> Tensor:
    r"""Draws :obj:`num` of the negatives of a batch without replacement, by the global generator of
    their device. The shape of the result does not depend on their values.

    Args:
        neg (torch.Tensor): The negative items of the batch, ``[B]``.
        num (int): How many to draw.
        keep (torch.Tensor, optional): Which positions may be drawn, ``[B]``.
            (default: :obj:`None`, all)

    Returns:
        torch.Tensor: ``min(num, B)`` items, of which those that could not be drawn are -1.
    """
    # torch 2.13 cannot compile indexing by `randperm`.
    key = torch.rand(neg.numel(), device=neg.device)
    if keep is not None:
        key = torch.where(keep, key, key + 1)
    key, index = key.topk(min(num, neg.numel()), largest=False)
    drawn = neg.index_select(0, index)
    return drawn if keep is None else torch.where(key < 1, drawn, -1)


def _plain(
    user: Tensor, item: Tensor, src: Tensor, pos: Tensor, neg: Tensor, keep: Tensor | None
) -> Tensor:
    x, y, z = _rows(user, src), _rows(item, pos), _rows(item, neg.clamp(min=0))
    with torch.autocast(x.device.type, enabled=False):
        score = (x * y).sum(dim=1, keepdim=True)
        is_out = (pos.view(-1, 1) == neg) | (neg < 0)
        other = (x @ z.t()).masked_fill(is_out, -math.inf)
        loss = torch.cat([score, other], dim=1).logsumexp(dim=1) - score.squeeze(1)
    if keep is None:
        return loss.sum() / max(loss.numel(), 1)
    return torch.where(keep, loss, 0.0).sum() / keep.sum().clamp(min=1)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    x = x.index_select(0, index)
    return x if x.dtype == torch.float64 else x.float()


class _SampledSoftmax(torch.autograd.Function):
    # The gradient comes with the loss: a block of scores is in the cache once, and not kept.

    @staticmethod
    def forward(
        ctx: Any,
        user: Tensor,
        item: Tensor,
        src: Tensor,
        pos: Tensor,
        neg: Tensor,
        keep: Tensor | None,
    ) -> Tensor:
        x, y, z = _rows(user, src), _rows(item, pos), _rows(item, neg)
        num_rows = x.size(0) if keep is None else int(keep.sum())
        scale = 1.0 / max(num_rows, 1)
        total = x.new_zeros(())
        grad_x, grad_y, grad_z = torch.empty_like(x), torch.empty_like(y), torch.zeros_like(z)
        # Marking takes a tenth of the time of `isin`.
        is_marked = torch.zeros(item.size(0), dtype=torch.bool).index_fill_(0, neg, True)
        is_negative = is_marked.index_select(0, pos)
        size = max(_MAX_SCORES // max(z.size(0), 1), 1)
        for start in range(0, x.size(0), size):
            part = slice(start, start + size)
            score = torch.linalg.vecdot(x[part], y[part]).unsqueeze(1)
            other = x[part] @ z.t()
            row = is_negative[part].nonzero().view(-1)
            if row.numel() > 0:
                same = pos[part][row].view(-1, 1) == neg
                other[row] = other[row].masked_fill(same, -math.inf)
            bound = score
            if neg.numel() > 0:
                bound = torch.maximum(score, other.amax(dim=1, keepdim=True))
            # e to the scores, of which the largest is 1: no exponential overflows.
            mine, other = (score - bound).exp(), other.sub_(bound).exp_()
            norm = mine + other.sum(dim=1, keepdim=True)
            loss, weight = norm.log() + (bound - score), scale / norm
            count: float | Tensor = scale
            if keep is not None:
                counted = keep[part].view(-1, 1)
                loss, weight = torch.where(counted, loss, 0.0), torch.where(counted, weight, 0.0)
                count = counted * scale
            total += loss.sum()
            other *= weight  # the share of each negative
            own = mine * weight - count
            torch.addmm(y[part] * own, other, z, out=grad_x[part])
            torch.mul(x[part], own, out=grad_y[part])
            grad_z.addmm_(other.t(), x[part])
        ctx.save_for_backward(grad_x, grad_y, grad_z, src, pos, neg)
        ctx.shapes = ((user.shape, user.dtype), (item.shape, item.dtype))
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_y, grad_z, src, pos, neg = ctx.saved_tensors
        (shape_user, dtype_user), (shape_item, dtype_item) = ctx.shapes
        grad_user = grad_item = None
        if ctx.needs_input_grad[0]:
            grad_user = grad_x.new_zeros(shape_user).index_add_(0, src, grad_x * grad)
            grad_user = grad_user.to(dtype_user)
        if ctx.needs_input_grad[1]:
            grad_item = grad_y.new_zeros(shape_item).index_add_(0, pos, grad_y * grad)
            grad_item = grad_item.index_add_(0, neg, grad_z * grad).to(dtype_item)
        return grad_user, grad_item, None, None, None, None
