"""Triton kernels behind :func:`mrdib_pyg.ops.pid_loss`, all modalities in one launch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from mrdib_pyg.ops.bpr_terms import Triplets
from mrdib_pyg.ops.kernels.launch import launch
from mrdib_pyg.ops.kernels.pid_loss_programs import (
    add_edges_kernel,
    combine_kernel,
    gain_kernel,
    item_kernel,
    scale_kernel,
    score_kernel,
    sum_rows_kernel,
)

# The most entries of one row that a program sums: longer rows are cut, so that the hubs of a
# power-law graph do not keep one program busy while the others are done.
_SEGMENT = 128
# The elements of the tiles of rows that a program holds in registers: two for the scores, and one
# for the sums.
_SCORE_TILE, _SUM_TILE = 512, 1024
# The elements that a program takes where all are alike.
_BLOCK = 1024
# The triplets up to which each table is scored by a program of its own. Beyond, there are programs
# enough, and one for all tables reads the indices once.
_MAX_EACH = 2**18


def score_differences(
    triplets: Triplets,
    tables: Sequence[Tensor],
    keep: Tensor | None = None,
    with_sums: bool = False,
    with_src: bool = False,
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    r"""Returns the score of the positive less that of the negative item, ``[K, n]``, NaN where an
    index is out of range; and, if asked for, for each table of users the sum over the triplets of a
    user of :math:`\sigma(-\Delta) (z^i - z^j)`, and the user of each triplet. The gradient of the
    table is a multiple of the sum: the rows are at hand here, and the backward pass need not read
    them again.

    Args:
        triplets (Triplets): The triplets.
        tables (Sequence[Tensor]): Users and items in turn.
        keep (Tensor, optional): Which triplets enter the sums, ``[K, n]``. (default: :obj:`None`)
        with_sums (bool, optional): Whether the sums are needed. (default: :obj:`False`)
        with_src (bool, optional): Whether the users are needed; those that the triplets list are
            returned as they are. (default: :obj:`False`)
    """
    users, items = tuple(tables[0::2]), tuple(tables[1::2])
    num_triplets, dtype = triplets.pos.numel(), _sum_dtype(tables)
    size = len(users), num_triplets
    scores = users[0].new_empty(size, dtype=dtype)
    if triplets.src is not None:  # triplets of a user that is out of range are met by no program
        scores.fill_(float('nan'))
    sums = [torch.empty_like(x, dtype=dtype) for x in users] if with_sums else []
    src, makes_src = triplets.src, with_src and triplets.src is None
    if makes_src:
        index = torch.int32 if users[0].size(0) < 2**31 else torch.int64
        src = torch.empty_like(triplets.pos, dtype=index)
    if num_triplets == 0:
        return scores, [x.zero_() for x in sums], src
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
        tuple([user.size(1) for user in users]),
        triplets.pos if src is None else src,
        triplets.pos,
        triplets.neg,
        triplets.rowptr,
        cut.row,
        cut.num,
        users[0].size(0),
        items[0].size(0),
    )
    each = num_triplets <= _MAX_EACH
    constants = {'EACH': each, 'HAS_SRC': makes_src, 'HAS_SUM': with_sums}
    constants |= {'HAS_KEEP': keep is not None}
    cut.launch(score_kernel, args, users, dtype, _SCORE_TILE, constants, each=each)
    cut.combine(partials, sums)
    return scores, sums, src


def sum_losses(scores: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Returns the sums of the losses :math:`-\log \sigma(\Delta)`, ``[K]``, and the pointwise
    gains :math:`\log 2 + \log \sigma(\Delta)`, ``[K, n]``; zero where a triplet is left out.

    Args:
        scores (Tensor): The differences :math:`\Delta`, ``[K, n]``.
        keep (Tensor, optional): Which triplets count, ``[K, n]``. (default: :obj:`None`, all)
    """
    num_blocks = -(-scores.size(1) // _BLOCK)
    gains, totals = torch.empty_like(scores), scores.new_empty(scores.size(0), num_blocks)
    if num_blocks > 0:
        rows = scores.unbind()
        keeps = rows if keep is None else keep.unbind()
        args = rows, keeps, gains.unbind(), totals.unbind(), scores.size(1)
        constants = {'HAS_KEEP': keep is not None, 'BLOCK': _BLOCK}
        launch(gain_kernel, (num_blocks, scores.size(0)), args, constants, num_warps=4)
    return totals.sum(dim=1), gains


def user_gradients(
    sums: Sequence[Tensor], scale: Tensor, tables: Sequence[Tensor], needs: Sequence[bool]
) -> list[Tensor | None]:
    r"""Returns the gradients of the tables of users that need one.

    Args:
        sums (Sequence[Tensor]): The sums of :func:`score_differences`.
        scale (Tensor): What each is multiplied with, ``[K]``.
        tables (Sequence[Tensor]): Users and items in turn.
        needs (Sequence[bool]): Which tables of users need a gradient.
    """
    out: list[Tensor | None] = [None] * len(needs)
    kept = [i for i, need in enumerate(needs) if need]
    if len(kept) == 0:
        return out
    totals = [sums[i] for i in kept]
    grads = _like([tables[2 * i] for i in kept], scale.dtype)
    dims = tuple([x.size(1) for x in totals])
    num_rows = totals[0].size(0)
    num_blocks = -(-num_rows * max(dims) // _BLOCK)
    if num_blocks > 0:
        args = tuple(totals), tuple(grads), _choose(scale, kept), dims, num_rows
        launch(scale_kernel, (num_blocks, len(kept)), args, {'BLOCK': _BLOCK}, num_warps=4)
    for i, grad in zip(kept, grads):
        out[i] = grad.to(tables[2 * i].dtype)
    return out


def item_gradients(
    triplets: Triplets,
    scores: Tensor,
    scale: Tensor,
    keep: Tensor | None,
    tables: Sequence[Tensor],
    needs: Sequence[bool],
    deterministic: bool = True,
) -> list[Tensor | None]:
    r"""Returns the gradients of the tables of items that need one: for each triplet the row of the
    user times :math:`\sigma(-\Delta)` and a factor, added to the positive item and subtracted from
    the negative one.

    Args:
        triplets (Triplets): The triplets, with their users.
        scores (Tensor): The differences :math:`\Delta`, ``[K, n]``.
        scale (Tensor): The factor of each table, ``[K]``.
        keep (Tensor, optional): Which triplets count, ``[K, n]``.
        tables (Sequence[Tensor]): Users and items in turn.
        needs (Sequence[bool]): Which tables of items need a gradient.
        deterministic (bool, optional): If set to :obj:`False`, sums may be taken in any order.
            (default: :obj:`True`)
    """
    out: list[Tensor | None] = [None] * len(needs)
    kept = [i for i, need in enumerate(needs) if need]
    if len(kept) == 0:
        return out
    items, users = [tables[2 * i + 1] for i in kept], [tables[2 * i] for i in kept]
    if triplets.pos.numel() == 0:
        grads = [torch.zeros_like(x) for x in items]
    else:
        rows = tuple([scores[i] for i in kept])
        keeps = rows if keep is None else tuple([keep[i] for i in kept])
        weights = _Weights(rows, _choose(scale, kept), keeps, keep is not None)
        if deterministic:
            # Each triplet is two entries of a matrix of items times users, of opposite weight.
            rowptr, entry = _sort_items(triplets, items[0].size(0))
            src = triplets.users()
            grads = _sum_rows(rowptr, src, entry, weights, users)
        else:
            grads = _add_edges(triplets, weights, users, items)
    for i, grad in zip(kept, grads):
        out[i] = grad.to(tables[2 * i + 1].dtype)
    return out


class _Weights(NamedTuple):
    # What the weights of triplets are made of, for each table.
    scores: tuple[Tensor, ...]
    scale: Tensor
    keeps: tuple[Tensor, ...]
    has_keep: bool


def _choose(scale: Tensor, kept: list[int]) -> Tensor:
    # Without indices on the CPU, which would be copied and waited for.
    return scale if len(kept) == scale.numel() else torch.stack([scale[i] for i in kept])


def _sort_items(triplets: Triplets, num_items: int) -> tuple[Tensor, Tensor]:
    # The positive and negative items of triplets in turn, sorted: where each item begins, and the
    # former places. Short integers are sorted in fewer passes.
    num = triplets.pos.numel()
    types = (torch.int16, torch.int32, torch.int64)
    dtype = next(t for t in types if num_items <= torch.iinfo(t).max)
    items = torch.empty(2 * num, dtype=dtype, device=triplets.pos.device)
    args = triplets.pos, triplets.neg, items, num, num_items
    launch(item_kernel, (-(-num // _BLOCK),), args, {'BLOCK': _BLOCK}, num_warps=4)
    items, entry = items.sort(stable=True)
    first = torch.arange(num_items + 1, dtype=dtype, device=items.device)
    return torch.searchsorted(items, first, out_int32=2 * num < 2**31), entry


_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def _like(
    tables: Sequence[Tensor], dtype: torch.dtype, num_rows: int | None = None
) -> list[Tensor]:
    # Tables to be written to by sums of a type: kernels do not round double to half precision.
    types = [x.dtype if dtype == torch.float32 else _wide(x.dtype) for x in tables]
    sizes = [(x.size(0) if num_rows is None else num_rows, x.size(1)) for x in tables]
    return [x.new_empty(size, dtype=t) for x, size, t in zip(tables, sizes, types)]


def _sum_dtype(tables: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in tables) else torch.float32


class _Cut:
    # The rows of a CSR matrix, those of more than _SEGMENT entries cut at multiples of it. Boundary
    # c, before the entry (c + 1) * _SEGMENT, lies in the row `row[c] - 1`. The sum of the piece
    # that begins there has the slot num + c, that of the first piece of a row the slot of the row's
    # first boundary. No size depends on the data: it would have to be waited for.
    def __init__(self, rowptr: Tensor, num_entries: int):
        self.rowptr, self.num = rowptr, num_entries // _SEGMENT
        step, end = _SEGMENT, (self.num + 1) * _SEGMENT
        first = torch.arange(step, end, step, device=rowptr.device, dtype=rowptr.dtype)
        self.row = torch.searchsorted(rowptr, first, right=True)

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
        each: bool = True,
    ) -> None:
        # A program for each boundary and row, and each table unless one takes all of them. It reads
        # a row as a whole, once.
        block_d = 1 << (max(1, *[x.size(1) for x in tables]) - 1).bit_length()
        block_e = min(max(tile // block_d, 1), 16)
        if num_programs is None:
            num_programs = self.num + self.rowptr.numel() - 1
        launch(
            kernel,
            (num_programs, len(tables) if each else 1),
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
        dims = tuple([x.size(1) for x in outs])
        size = self.num, self.rowptr.numel() - 1
        args = (tuple(partials), tuple(outs), dims, self.rowptr, self.row, *size)
        dtype = partials[0].dtype
        self.launch(combine_kernel, args, outs, dtype, _SUM_TILE, {}, num_programs=self.num)


def _sum_rows(
    rowptr: Tensor, src: Tensor, entry: Tensor, weights: _Weights, tables: list[Tensor]
) -> list[Tensor]:
    # Weighted sums of rows in a fixed order. The entry e stands for the triplet entry[e] // 2, its
    # positive item if even and its negative one, of opposite weight, if odd.
    num_rows, dtype = rowptr.numel() - 1, weights.scale.dtype
    outs = _like(tables, dtype, num_rows)
    if num_rows == 0:
        return outs
    cut = _Cut(rowptr, entry.numel())
    partials = cut.partials(tables, dtype)
    args = (
        tuple(tables),
        tuple(outs),
        tuple(partials),
        weights.scores,
        weights.scale,
        weights.keeps,
        tuple([x.size(1) for x in tables]),
        src,
        entry,
        rowptr,
        cut.row,
        cut.num,
        num_rows,
        tables[0].size(0),
    )
    cut.launch(sum_rows_kernel, args, tables, dtype, _SUM_TILE, {'HAS_KEEP': weights.has_keep})
    cut.combine(partials, outs)
    return outs


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _add_edges(
    triplets: Triplets, weights: _Weights, users: list[Tensor], items: list[Tensor]
) -> list[Tensor]:
    # By atomic additions, in any order.
    dtype = weights.scale.dtype
    grads = [torch.zeros_like(x, dtype=dtype) for x in items]
    cut = _Cut(triplets.rowptr, triplets.pos.numel())
    args = (
        tuple(users),
        tuple(grads),
        weights.scores,
        weights.scale,
        weights.keeps,
        tuple([user.size(1) for user in users]),
        triplets.pos,
        triplets.neg,
        triplets.rowptr,
        cut.row,
        cut.num,
        users[0].size(0),
        items[0].size(0),
    )
    cut.launch(add_edges_kernel, args, users, dtype, _SUM_TILE, {'HAS_KEEP': weights.has_keep})
    return grads
