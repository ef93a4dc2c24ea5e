"""Triton kernels behind :func:`mrdib_pyg.ops.pid_loss`, all modalities in one launch."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mrdib_pyg.ops.bpr_terms import Triplets
from mrdib_pyg.ops.kernels.launch import launch
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
    partials = cut.partials(sums)
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
    cut.launch(_score_kernel, args, users, dtype, _SCORE_TILE, constants)
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

    def partials(self, sums: Sequence[Tensor]) -> list[Tensor]:
        return [x.new_empty(2 * self.num, x.size(1)) for x in sums]

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
        self.launch(_combine_kernel, args, outs, dtype, _SUM_TILE, {}, num_programs=self.num)


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
    partials = [x.new_empty(2 * cut.num, x.size(1), dtype=dtype) for x in tables]
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
    cut.launch(_sum_rows_kernel, args, tables, dtype, _SUM_TILE, {})
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
    cut.launch(_add_edges_kernel, args, users, dtype, _SUM_TILE, {})
    return grads


@triton.jit
def _find_piece(rowptr, cut_row, num_cuts, num_rows, SEGMENT: tl.constexpr):
    # The row of a program, its entries from `begin` to `end`, and the slot of their sum, -1 where
    # they are the whole row; the row -1 where there is nothing to do. Long rows come first: they
    # should not be the last to start.
    program = tl.program_id(0).to(tl.int64)
    is_cut = program < num_cuts
    if is_cut:
        row = tl.load(cut_row + program).to(tl.int64) - 1
    else:
        row = program - num_cuts
    is_row = row < num_rows  # What follows the last row belongs to none.
    begin = tl.load(rowptr + row, mask=is_row, other=0).to(tl.int64)
    end = tl.load(rowptr + row + 1, mask=is_row, other=0).to(tl.int64)
    is_long = end - begin > SEGMENT
    if is_cut:
        first = (program + 1) * SEGMENT
        is_row = is_row & is_long & (begin < first)
        begin = first
        slot = num_cuts + program
    else:
        slot = tl.where(is_long, begin // SEGMENT, -1)
    if is_long:
        end = tl.minimum(end, (begin // SEGMENT + 1) * SEGMENT)
    return tl.where(is_row, row, -1), begin, end, slot


@triton.jit(do_not_specialize=['num_cuts', 'num_users', 'num_items'])
def _score_kernel(
    users,
    items,
    scores,
    sums,
    partials,
    keeps,
    dims,
    pos,
    neg,
    rowptr,
    cut_row,
    num_cuts,
    num_users,
    num_items,
    HAS_SUM: tl.constexpr,
    HAS_KEEP: tl.constexpr,
    SEGMENT: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row, begin, end, slot = _find_piece(rowptr, cut_row, num_cuts, num_users, SEGMENT)
    if row >= 0:
        d = tl.arange(0, BLOCK_D)
        for i in tl.static_range(len(users)):
            if tl.program_id(1) == i:
                is_d = d < dims[i]
                x = tl.load(users[i] + row * dims[i] + d, mask=is_d, other=0.0).to(DTYPE)
                total = tl.zeros([BLOCK_D], DTYPE)
                for block in range(begin, end, BLOCK_E):
                    e = block + tl.arange(0, BLOCK_E)
                    p = tl.load(pos + e, mask=e < end, other=-1).to(tl.int64)
                    n = tl.load(neg + e, mask=e < end, other=-1).to(tl.int64)
                    valid = (p >= 0) & (p < num_items) & (n >= 0) & (n < num_items)
                    mask = valid[:, None] & is_d[None, :]
                    a = tl.load(
                        items[i] + (p * dims[i])[:, None] + d[None, :], mask=mask, other=0.0
                    )
                    b = tl.load(
                        items[i] + (n * dims[i])[:, None] + d[None, :], mask=mask, other=0.0
                    )
                    difference = a.to(DTYPE) - b.to(DTYPE)
                    score = tl.sum(x[None, :] * difference, axis=1)
                    tl.store(scores[i] + e, score, mask=valid)  # the others stay NaN
                    if HAS_SUM:
                        w = 1.0 / (1.0 + tl.exp(score))
                        w = tl.where(valid, w, 0.0)
                        if HAS_KEEP:
                            w = tl.where(tl.load(keeps[i] + e, mask=valid, other=0) != 0, w, 0.0)
                        total += tl.sum(w[:, None] * difference, axis=0)
                if HAS_SUM:
                    if slot < 0:
                        tl.store(sums[i] + row * dims[i] + d, total, mask=is_d)
                    else:
                        tl.store(partials[i] + slot * dims[i] + d, total, mask=is_d)


@triton.jit(do_not_specialize=['num_cuts', 'num_rows', 'num_cols'])
def _sum_rows_kernel(
    tables,
    outs,
    partials,
    weights,
    dims,
    col,
    entry,
    rowptr,
    cut_row,
    num_cuts,
    num_rows,
    num_cols,
    SEGMENT: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row, begin, end, slot = _find_piece(rowptr, cut_row, num_cuts, num_rows, SEGMENT)
    if row >= 0:
        d = tl.arange(0, BLOCK_D)
        for i in tl.static_range(len(tables)):
            if tl.program_id(1) == i:
                is_d = d < dims[i]
                total = tl.zeros([BLOCK_D], DTYPE)
                for block in range(begin, end, BLOCK_E):
                    e = block + tl.arange(0, BLOCK_E)
                    c = tl.load(col + e, mask=e < end, other=-1).to(tl.int64)
                    k = tl.load(entry + e, mask=e < end, other=0)
                    w = tl.load(weights[i] + k // 2, mask=e < end, other=0.0)
                    w = tl.where(k % 2 == 0, w, -w)
                    mask = ((c >= 0) & (c < num_cols))[:, None] & is_d[None, :]
                    x = tl.load(
                        tables[i] + (c * dims[i])[:, None] + d[None, :], mask=mask, other=0.0
                    )
                    total += tl.sum(w[:, None] * x.to(DTYPE), axis=0)
                if slot < 0:
                    tl.store(outs[i] + row * dims[i] + d, total, mask=is_d)
                else:
                    tl.store(partials[i] + slot * dims[i] + d, total, mask=is_d)


@triton.jit(do_not_specialize=['num_cuts', 'num_rows'])
def _combine_kernel(
    partials,
    outs,
    dims,
    rowptr,
    cut_row,
    num_cuts,
    num_rows,
    SEGMENT: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # The first boundary in a long row adds up all pieces of the row.
    cut = tl.program_id(0).to(tl.int64)
    row = tl.load(cut_row + cut).to(tl.int64) - 1
    is_row = row < num_rows
    begin = tl.load(rowptr + row, mask=is_row, other=0).to(tl.int64)
    end = tl.load(rowptr + row + 1, mask=is_row, other=0).to(tl.int64)
    if (end - begin > SEGMENT) & (begin // SEGMENT == cut):
        last = (end - 1) // SEGMENT  # the first boundary behind the row
        d = tl.arange(0, BLOCK_D)
        for i in tl.static_range(len(partials)):
            if tl.program_id(1) == i:
                is_d = d < dims[i]
                total = tl.load(partials[i] + cut * dims[i] + d, mask=is_d, other=0.0)
                for block in range(cut, last, BLOCK_E):
                    c = block + tl.arange(0, BLOCK_E)
                    mask = (c < last)[:, None] & is_d[None, :]
                    part = partials[i] + ((num_cuts + c) * dims[i])[:, None] + d[None, :]
                    total += tl.sum(tl.load(part, mask=mask, other=0.0), axis=0)
                tl.store(outs[i] + row * dims[i] + d, total, mask=is_d)


@triton.jit(do_not_specialize=['num_cuts', 'num_users', 'num_items'])
def _add_edges_kernel(
    users,
    grads,
    weights,
    dims,
    pos,
    neg,
    rowptr,
    cut_row,
    num_cuts,
    num_users,
    num_items,
    SEGMENT: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row, begin, end, _ = _find_piece(rowptr, cut_row, num_cuts, num_users, SEGMENT)
    if row >= 0:
        d = tl.arange(0, BLOCK_D)
        for i in tl.static_range(len(users)):
            if tl.program_id(1) == i:
                is_d = d < dims[i]
                x = tl.load(users[i] + row * dims[i] + d, mask=is_d, other=0.0).to(DTYPE)
                for block in range(begin, end, BLOCK_E):
                    e = block + tl.arange(0, BLOCK_E)
                    p = tl.load(pos + e, mask=e < end, other=-1).to(tl.int64)
                    n = tl.load(neg + e, mask=e < end, other=-1).to(tl.int64)
                    w = tl.load(weights[i] + e, mask=e < end, other=0.0)
                    valid = (p >= 0) & (p < num_items) & (n >= 0) & (n < num_items)
                    mask = valid[:, None] & is_d[None, :]
                    change = w[:, None] * x[None, :]
                    at_p = grads[i] + (p * dims[i])[:, None] + d[None, :]
                    at_n = grads[i] + (n * dims[i])[:, None] + d[None, :]
                    tl.atomic_add(at_p, change, mask=mask, sem='relaxed')
                    tl.atomic_add(at_n, -change, mask=mask, sem='relaxed')
