import torch
from torch import Tensor


@torch.library.custom_op('mrdib_pyg::materialize', mutates_args=())
def _materialize(x: Tensor) -> Tensor:
    return x.clone()


@_materialize.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def materialize(x: Tensor) -> Tensor:
    r"""Returns :obj:`x`, and under :func:`torch.compile` keeps its value for the backward pass.

    What is computed from a running statistic may otherwise be computed once more in the backward
    pass, when the statistic has been updated in place, and silently give a wrong gradient: the
    partitioner of PyTorch (at least up to 2.13) does not know of the update.

    Args:
        x (torch.Tensor): A tensor that needs no gradient.
    """
    return _materialize(x) if torch.compiler.is_compiling() else x
