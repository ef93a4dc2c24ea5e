import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def unit_rows(x: Tensor) -> Tensor:
    r"""Scales each row to unit Euclidean norm; a row of zeros stays, and passes no gradient on.

    As :func:`torch.nn.functional.normalize`, with fewer passes over the table in the backward pass.
    """
    return _UnitRows.apply(x)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.where(norm > 0, norm, torch.inf).reciprocal_()
        out = x * inverse
        ctx.save_for_backward(out, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        out, inverse = ctx.saved_tensors
        along = (out * grad).sum(dim=-1, keepdim=True)
        return torch.addcmul(grad, out, along, value=-1).mul_(inverse)
