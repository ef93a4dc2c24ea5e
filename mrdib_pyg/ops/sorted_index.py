"""Indices of rows in sorted order, and where each row begins among them."""

import numpy as np
import torch
from torch import Tensor
from torch_geometric.index import index2ptr

# The most indices that NumPy sorts faster than torch.
_MAX_RADIX = 2**16


def bound(index: Tensor, num_rows: int) -> Tensor:
    r"""Replaces indices that are out of range by the first that is."""
    return index.clamp(-1, num_rows).remainder_(num_rows + 1)


def sort_stable(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    r"""Sorts indices of rows; returns them and their former places. Equal ones keep their order."""
    is_small = index.numel() <= _MAX_RADIX and num_rows < 2**32
    if index.device.type != 'cpu' or torch.compiler.is_compiling() or not is_small:
        out, perm = (index.int() if num_rows < 2**31 else index).sort(stable=True)
        return out.to(index.dtype), perm
    # Branches that cannot be predicted make short sorts slow. NumPy sorts 16-bit integers by
    # radix, which has none: five times faster for the batch of a training step.
    perm = torch.from_numpy(np.argsort(index.numpy().astype(np.uint16), kind='stable'))
    if num_rows >= 2**16:  # Also to tell the first that is out of range.
        high = (index >> 16).index_select(0, perm)
        order = torch.from_numpy(np.argsort(high.numpy().astype(np.uint16), kind='stable'))
        perm = perm.index_select(0, order)
    return index.index_select(0, perm), perm


def to_rowptr(index: Tensor, num_rows: int) -> Tensor:
    r"""Returns where each row begins among sorted indices, ``[num_rows + 1]``, in their type."""
    if index.device.type == 'cpu' and not torch.compiler.is_compiling():
        return index2ptr(index, num_rows)
    # Not confused by an index out of range, which is not looked for on an accelerator.
    first = torch.arange(num_rows + 1, dtype=index.dtype, device=index.device)
    return torch.searchsorted(index, first, out_int32=index.dtype == torch.int32)
