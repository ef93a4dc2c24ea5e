from collections.abc import Sequence

import torch
from torch import Tensor

from mrdib_pyg.ops.fixed_shapes import has_fixed_shapes


def critic_rows(
    index: Tensor, num_rows: int, masks: Sequence[Tensor | None], limit: int | None
) -> Tensor:
    r"""Returns the rows that an estimator of the redundancy reads: those of a batch, each once,
    that have both modalities, or a sample of :obj:`limit` of them.

    Where shapes must not depend on the batch, as in a compiled graph, always :obj:`limit` rows are
    returned, or as many as :obj:`index` has or there are: where a batch has fewer, rows of other
    nodes that have both modalities fill the sample up, and where these run out, they are repeated.

    Args:
        index (torch.Tensor): The rows of a batch, with repeats.
        num_rows (int): The number of rows there are.
        masks (Sequence[torch.Tensor, optional]): Which rows have a modality, ``[num_rows]`` each.
        limit (int, optional): The size of a sample; :obj:`None` takes all.
    """
    if has_fixed_shapes():
        size = index.numel() if limit is None else limit
        return _static_sample(index, num_rows, masks, min(size, num_rows))
    # Marking takes a tenth of what `unique` does.
    is_read = torch.zeros(num_rows, dtype=torch.bool, device=index.device)
    is_read[index] = True
    for mask in masks:
        if mask is not None:
            is_read &= mask
    index = is_read.nonzero().squeeze(1)
    if limit is not None and index.numel() > limit:
        # Not `randperm`, whose use as an index torch 2.13 cannot compile.
        index = index[torch.rand(index.numel(), device=index.device).argsort()[:limit]]
    return index


def _static_sample(
    index: Tensor, num_rows: int, masks: Sequence[Tensor | None], size: int
) -> Tensor:
    # Random keys, in three classes: rows of the batch, other rows, rows without a modality.
    key = torch.rand(num_rows, device=index.device) + 1
    in_batch = torch.zeros(num_rows, dtype=torch.bool, device=index.device)
    key = key - in_batch.index_fill(0, index, True).to(key.dtype)
    for mask in masks:
        if mask is not None:
            key = torch.where(mask, key, key + 2)
    key, rows = key.topk(size, largest=False)
    num_valid = (key < 2).sum().clamp(min=1)
    return rows[torch.arange(size, device=rows.device) % num_valid]
