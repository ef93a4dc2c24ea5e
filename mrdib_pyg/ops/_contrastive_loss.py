import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrdib_pyg.ops._fixed_shapes import has_fixed_shapes
from mrdib_pyg.ops.rows import rows_per_chunk

_MAX_SCORES = 2**18  # of a chunk of anchors on CPU, which fits a core's cache


def contrastive_loss(
    anchor: Tensor,
    candidate: Tensor,
    anchor_index: Tensor,
    candidate_index: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    r"""Computes the in-batch contrastive loss of `"Representation Learning with Contrastive
    Predictive Coding" <https://arxiv.org/abs/1807.03748>`_,

    .. math::
        -\frac{1}{B} \sum_{b=1}^{B} \log \frac{\exp(\langle \mathbf{x}_b, \mathbf{y}_b \rangle /
        \tau)}{\sum_{c=1}^{B} \exp(\langle \mathbf{x}_b, \mathbf{y}_c \rangle / \tau)}

    where each pair names a row of :obj:`anchor` and one of :obj:`candidate`. Pairs that repeat a
    candidate are each other's negatives, as in public code, but each pair of rows is compared only
    once, a chunk of anchors at a time.

    Args:
        anchor (Tensor): The anchors. Rows that no pair names only cost time.
        candidate (Tensor): The candidates, likewise.
        anchor_index (Tensor): The row of :obj:`anchor` of each pair.
        candidate_index (Tensor): The row of :obj:`candidate` of each pair.
        temperature (float, optional): The temperature :math:`\tau`. (default: :obj:`1.0`)

    Shapes:
        - **input:** anchors :math:`(A, d)`, candidates :math:`(C, d)`, indices :math:`(B)`
        - **output:** a scalar, in nats; at least :obj:`torch.float32`, also under autocast

    Raises:
        ValueError: If :obj:`temperature` is not positive, or the indices are not of one length.
    """
    if not temperature > 0:
        raise ValueError(f"'temperature' must be positive (got {temperature})")
    if anchor_index.dim() != 1 or anchor_index.shape != candidate_index.shape:
        raise ValueError(
            f"'anchor_index' and 'candidate_index' must be vectors of one length (got the shapes "
            f'{list(anchor_index.shape)} and {list(candidate_index.shape)})'
        )
    # Differences of large terms in an exponential: not in half precision.
    dtype = torch.promote_types(torch.promote_types(anchor.dtype, candidate.dtype), torch.float32)
    anchor, candidate = anchor.to(dtype), candidate.to(dtype)
    with torch.autocast(anchor.device.type, enabled=False):
        return _contrastive_loss(anchor, candidate, anchor_index, candidate_index, temperature)


def _contrastive_loss(
    anchor: Tensor,
    candidate: Tensor,
    anchor_index: Tensor,
    candidate_index: Tensor,
    temperature: float,
) -> Tensor:
    anchor = anchor / temperature
    if has_fixed_shapes():  # no length may depend on the data
        anchor, candidate = anchor[anchor_index], candidate[candidate_index]
        target = torch.arange(anchor_index.numel(), device=anchor.device)
        return F.cross_entropy(anchor @ candidate.t(), target)
    num = anchor_index.numel()
    anchor_count = torch.bincount(anchor_index, minlength=anchor.size(0)).to(anchor.dtype) / num
    candidate_count = torch.bincount(candidate_index, minlength=candidate.size(0))
    pairs = anchor.index_select(0, anchor_index) * candidate.index_select(0, candidate_index)
    positive = pairs.sum(dim=-1).mean()
    total = _LogSumExp.apply(anchor, candidate, anchor_count, candidate_count.to(anchor.dtype))
    return total - positive


class _LogSumExp(torch.autograd.Function):
    r"""The weighted sum over anchors of the log of the weighted sum of exponentials over
    candidates.
    """

    @staticmethod
    def forward(ctx, x, y, x_weight, y_weight):
        chunk = rows_per_chunk(y.size(0), x.device, _MAX_SCORES)
        needs_grad = any(ctx.needs_input_grad[:2])
        grad_x, grad_y = torch.empty_like(x), torch.zeros_like(y)
        bias = y_weight.log()  # -inf where no pair names the candidate
        total = x.new_zeros(())
        for start in range(0, x.size(0), chunk):
            rows, weight = x[start : start + chunk], x_weight[start : start + chunk]
            scores = torch.addmm(bias, rows, y.t())
            top = scores.amax(dim=1, keepdim=True)
            scores.sub_(top).exp_()
            mass = scores.sum(dim=1, keepdim=True)
            total += (weight * (mass.log() + top).view(-1)).sum()
            if needs_grad:
                scores.mul_(weight.unsqueeze(1) / mass)
                torch.mm(scores, y, out=grad_x[start : start + chunk])
                grad_y.addmm_(scores.t(), rows)
        ctx.save_for_backward(grad_x, grad_y)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad_x, grad_y = ctx.saved_tensors
        return grad_x * grad, grad_y * grad, None, None
