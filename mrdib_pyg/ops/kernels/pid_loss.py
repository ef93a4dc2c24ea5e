"""Triton kernels behind :func:`mrdib_pyg.ops.pid_loss`, all modalities in one launch."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mrdib_pyg.ops.bpr_terms import Triplets
from mrdib_pyg.ops.kernels.launch import launch
from mrdib_pyg.ops.kernels.pid_loss_programs import (
    add_edges_kernel,
    combine_kernel,
    score_kernel,
    sum_rows_kernel,
)
from mrdib_pyg.ops.sorted_index import bound, sort_stable, to_rowptr

# The most entries of one row that a program sums: longer rows are cut, so that the hubs of a
# power-law graph do not keep one program busy while the others are done.
_SEGMENT = 128
# The elements of the tiles of rows that a program holds in registers: two for the scores, and one
# for the sums.
_SCORE_TILE, _SUM_TILE = 512, 1024


def score_differences(
    triplets: Triplets,
    tables: Sequence[Tensor],
    keep: Tensor | None = None,
    with_sums: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    r"""Returns the score of the positive less that of the negative item, ``[K, n]``, NaN where an
    index is out of range; and, if asked for, for each table of users the sum over the triplets of a
    user of :math:`\sigma(-\Delta) (z^i - z^j)`. The gradient of the table is a multiple of it: the
    rows are at hand here, and the backward pass need not read them again.

    Args:
        triplets (Triplets): The triplets.
        tables (Sequence[Tensor]): Users and items in turn.
        keep (Tensor, optional): Which triplets enter the sums, ``[K, n]``. (default: :obj:`None`)
        with_sums (bool, optional): Whether the sums are needed. (default: :obj:`False`)
    """
    users, items = tuple(tables[0::2]), tuple(tables[1::2])
    num_triplets, dtype = triplets.pos.numel(), _sum_dtype(tables)
    size = len(users), num_triplets
    # Triplets of a user that is out of range are met by no program.
    scores = users[0].new_full(size, float('nan'), dtype=dtype)
    sums = [torch.empty_like(x, dtype=dtype) for x in users] if with_sums else []
    if num_triplets == 0:
        return scores, [x.zero_() for x in sums]
    cut = _Cut(triplets.rowptr, num_triplets)
    partials = cut.partials(sums, dtype)
    args = (
        users,
        items,
        scores.unbind(),
        # Any tensor stands in for one that is not there: it is never read.
        tuple(sums) or users,
        tuple(partials) or users,
        users if keep is None else keep.unbind(),
        tuple(user.size(1) for user in users),
        triplets.pos,
        triplets.neg,
        triplets.rowptr,
        cut.row,
        cut.num,
        users[0].size(0),
        items[0].size(0),
    )
    constants = {'HAS_SUM': with_sums, 'HAS_KEEP': keep is not None}
    cut.launch(score_kernel, args, users, dtype, _SCORE_TILE, constants)
    cut.combine(partials, sums)
    return scores, sums


def item_gradients(
    triplets: Triplets,
    weight: Tensor,
    tables: Sequence[Tensor],
    needs: Sequence[bool],
    deterministic: bool = True,
) -> list[Tensor | None]:
    r"""Returns the gradients of the tables of items that need one.

    Args:
        triplets (Triplets): The triplets.
        weight (Tensor): The gradients of the scores, ``[K, n]``.
        tables (Sequence[Tensor]): Users and items in turn.
        needs (Sequence[bool]): Which tables of items need a gradient.
        deterministic (bool, optional): If set to :obj:`False`, sums may be taken in any order.
            (default: :obj:`True`)
    """
    out: list[Tensor | None] = [None] * (len(tables) // 2)
    kept = [i for i, need in enumerate(needs) if need]
    if len(kept) == 0:
        return out
    items, users = [tables[2 * i + 1] for i in kept], [tables[2 * i] for i in kept]
    weights = [weight[i] for i in kept]
    if triplets.pos.numel() == 0:
        grads = [torch.zeros_like(x) for x in items]
    elif deterministic:
        # Each triplet is two entries of a matrix of items times users, of opposite weight.
        num_items = items[0].size(0)
        col = torch.stack([triplets.pos, triplets.neg], dim=1).view(-1)
        col_sorted, perm = sort_stable(bound(col, num_items), num_items)
        row = triplets.users().index_select(0, perm >> 1)
        grads = _sum_rows(to_rowptr(col_sorted, num_items), row, perm, weights, users)
    else:
        grads = _add_edges(triplets, weights, users, items)
    for i, grad in zip(kept, grads):
        out[i] = grad.to(tables[2 * i + 1].dtype)
    return out


_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def _sum_dtype(tables: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in tables) else torch.float32


class _Cut:
    # The rows of a CSR matrix, those of more than _SEGMENT entries cut at multiples of it. Boundary
    # c, before the entry (c + 1) * _SEGMENT, lies in the row `row[c] - 1`. The sum of the piece
    # that begins there has the slot num + c, that of the first piece of a row the slot of the row's
    # first boundary. No size depends on the data: it would have to be waited for.
    def __init__(self, rowptr: Tensor, num_entries: int):
        self.rowptr, self.num = rowptr, num_entries // _SEGMENT
        first = torch.arange(1, self.num + 1, device=rowptr.device, dtype=rowptr.dtype)
        self.row = torch.searchsorted(rowptr, first.mul_(_SEGMENT), right=True)

    def partials(self, tables: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        return [x.new_empty(2 * self.num, x.size(1), dtype=dtype) for x in tables]

    def launch(
        self,
        kernel: Any,
        args: tuple[Any, ...],
        tables: Sequence[Tensor],
        dtype: torch.dtype,
        tile: int,
        constants: dict[str, Any],
        num_programs: int | None = None,
    ) -> None:
        # A program for each boundary and row, and each table. It reads a row as a whole, once.
        block_d = triton.next_power_of_2(max(1, *(x.size(1) for x in tables)))
        block_e = min(max(tile // block_d, 1), 16)
        if num_programs is None:
            num_programs = self.num + self.rowptr.numel() - 1
        with torch.cuda.device_of(self.rowptr):
            launch(
                kernel,
                (num_programs, len(tables)),
                args,
                {
                    **constants,
                    'SEGMENT': _SEGMENT,
                    'DTYPE': _TYPES[dtype],
                    'BLOCK_E': block_e,
                    'BLOCK_D': block_d,
                },
                num_warps=min(max(block_d * block_e // 1024, 1), 8),
            )

    def combine(self, partials: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        # Adds up the pieces of each row, in their order, whichever was done first.
        if self.num == 0 or len(outs) == 0:
            return
        dims = tuple(x.size(1) for x in outs)
        size = self.num, self.rowptr.numel() - 1
        args = (tuple(partials), tuple(outs), dims, self.rowptr, self.row, *size)
        dtype = partials[0].dtype
        self.launch(combine_kernel, args, outs, dtype, _SUM_TILE, {}, num_programs=self.num)


def _sum_rows(
    rowptr: Tensor, col: Tensor, entry: Tensor, weights: list[Tensor], tables: list[Tensor]
) -> list[Tensor]:
    # Weighted sums of rows in a fixed order. The entry e stands for the triplet entry[e] // 2, its
    # positive item if even and its negative one, of opposite weight, if odd.
    num_rows, dtype = rowptr.numel() - 1, weights[0].dtype
    # Kernels do not round double to half precision.
    types = [x.dtype if dtype == torch.float32 else _wide(x.dtype) for x in tables]
    outs = [x.new_empty(num_rows, x.size(1), dtype=t) for x, t in zip(tables, types)]
    if num_rows == 0:
        return outs
    cut = _Cut(rowptr, col.numel())
    partials = cut.partials(tables, dtype)
    args = (
        tuple(tables),
        tuple(outs),
        tuple(partials),
        tuple(weights),
        tuple(x.size(1) for x in tables),
        col,
        entry,
        rowptr,
        cut.row,
        cut.num,
        num_rows,
        tables[0].size(0),
    )
    cut.launch(sum_rows_kernel, args, tables, dtype, _SUM_TILE, {})
    cut.combine(partials, outs)
    return outs


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _add_edges(
    triplets: Triplets, weights: list[Tensor], users: list[Tensor], items: list[Tensor]
) -> list[Tensor]:
    # By atomic additions, in any order.
    dtype = weights[0].dtype
    grads = [torch.zeros_like(x, dtype=dtype) for x in items]
    cut = _Cut(triplets.rowptr, triplets.pos.numel())
    args = (
        tuple(users),
        tuple(grads),
        tuple(weights),
        tuple(user.size(1) for user in users),
        triplets.pos,
        triplets.neg,
        triplets.rowptr,
        cut.row,
        cut.num,
        users[0].size(0),
        items[0].size(0),
    )
    cut.launch(add_edges_kernel, args, users, dtype, _SUM_TILE, {})
    return grads
