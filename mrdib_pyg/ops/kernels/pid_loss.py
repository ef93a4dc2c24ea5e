"""Triton kernels behind :func:`mrdib_pyg.ops.pid_loss`, all modalities in one launch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mrdib_pyg.ops.kernels.launch import launch

#: Of triplets sorted by user: where each user begins, the user of each (or None), and the items.
Triplets = tuple[Tensor, Tensor | None, Tensor, Tensor]


@triton.jit
def _find_piece(rowptr, cut_row, num_cuts, num_rows, SEGMENT: tl.constexpr):
    # The row of a program (-1 for none), its entries from `begin` to `end`, and the slot of their
    # sum (-1 for a whole row). Long rows come first, so that they are not the last to start.
    program = tl.program_id(0).to(tl.int64)
    is_cut = program < num_cuts
    if is_cut:
        row = tl.load(cut_row + program).to(tl.int64) - 1
    else:
        row = program - num_cuts
    is_row = row < num_rows  # Entries behind the last row belong to none.
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


@triton.jit
def _weigh(score, keep, mask, HAS_KEEP: tl.constexpr):
    # The weight of a triplet in gradients: the probability of the wrong answer, where it counts.
    w = tl.where(mask, 1.0 / (1.0 + tl.exp(score)), 0.0)
    if HAS_KEEP:
        w = tl.where(tl.load(keep, mask=mask, other=0) != 0, w, 0.0)
    return w


@triton.jit(do_not_specialize=['num_cuts', 'num_users', 'num_items'])
def score_kernel(
    users, items, scores, sums, partials, keeps, dims, src, pos, neg, rowptr, cut_row, num_cuts,
    num_users, num_items,
    EACH: tl.constexpr, HAS_SRC: tl.constexpr, HAS_SUM: tl.constexpr, HAS_KEEP: tl.constexpr,
    SEGMENT: tl.constexpr, DTYPE: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    r"""Scores the triplets of a piece of a user, sums the user's gradient but for a factor, and
    writes the user of each triplet.
    """
    row, begin, end, slot = _find_piece(rowptr, cut_row, num_cuts, num_users, SEGMENT)
    if row >= 0:
        d = tl.arange(0, BLOCK_D)
        for i in tl.static_range(len(users)):
            if (not EACH) | (tl.program_id(1) == i):
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
                    tl.store(scores[i] + e, tl.where(valid, score, float('nan')), mask=e < end)
                    if HAS_SRC and i == 0:
                        user = tl.zeros([BLOCK_E], tl.int64) + row
                        tl.store(src + e, user.to(src.dtype.element_ty), mask=e < end)
                    if HAS_SUM:
                        w = _weigh(score, keeps[i] + e, valid, HAS_KEEP)
                        total += tl.sum(w[:, None] * difference, axis=0)
                if HAS_SUM:
                    if slot < 0:
                        tl.store(sums[i] + row * dims[i] + d, total, mask=is_d)
                    else:
                        tl.store(partials[i] + slot * dims[i] + d, total, mask=is_d)


@triton.jit(do_not_specialize=['num_cuts', 'num_rows', 'num_cols'])
def sum_rows_kernel(
    tables, outs, partials, scores, scales, keeps, dims, src, entry, rowptr, cut_row, num_cuts,
    num_rows, num_cols,
    HAS_KEEP: tl.constexpr, SEGMENT: tl.constexpr, DTYPE: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    r"""Sums the weighted users that the entries of a piece of an item name."""
    row, begin, end, slot = _find_piece(rowptr, cut_row, num_cuts, num_rows, SEGMENT)
    if row >= 0:
        d = tl.arange(0, BLOCK_D)
        for i in tl.static_range(len(tables)):
            if tl.program_id(1) == i:
                is_d = d < dims[i]
                total = tl.zeros([BLOCK_D], DTYPE)
                for block in range(begin, end, BLOCK_E):
                    e = block + tl.arange(0, BLOCK_E)
                    k = tl.load(entry + e, mask=e < end, other=0)
                    c = tl.load(src + k // 2, mask=e < end, other=-1).to(tl.int64)
                    score = tl.load(scores[i] + k // 2, mask=e < end, other=0.0)
                    w = _weigh(score, keeps[i] + k // 2, e < end, HAS_KEEP)
                    w = tl.where(k % 2 == 0, w, -w)
                    mask = ((c >= 0) & (c < num_cols))[:, None] & is_d[None, :]
                    x = tl.load(
                        tables[i] + (c * dims[i])[:, None] + d[None, :], mask=mask, other=0.0
                    )
                    total += tl.sum(w[:, None] * x.to(DTYPE), axis=0)
                total *= tl.load(scales + i)
                if slot < 0:
                    tl.store(outs[i] + row * dims[i] + d, total, mask=is_d)
                else:
                    tl.store(partials[i] + slot * dims[i] + d, total, mask=is_d)


@triton.jit(do_not_specialize=['num_cuts', 'num_rows'])
def combine_kernel(
    partials, outs, dims, rowptr, cut_row, num_cuts, num_rows,
    SEGMENT: tl.constexpr, DTYPE: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    r"""Adds up the pieces of a long row, at its first boundary."""
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
def add_edges_kernel(
    users, grads, scores, scales, keeps, dims, pos, neg, rowptr, cut_row, num_cuts, num_users,
    num_items,
    HAS_KEEP: tl.constexpr, SEGMENT: tl.constexpr, DTYPE: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    r"""Adds the weighted row of a user to the gradients of the items of the user's triplets."""
    row, begin, end, _ = _find_piece(rowptr, cut_row, num_cuts, num_users, SEGMENT)
    if row >= 0:
        d = tl.arange(0, BLOCK_D)
        for i in tl.static_range(len(users)):
            if tl.program_id(1) == i:
                is_d = d < dims[i]
                x = tl.load(users[i] + row * dims[i] + d, mask=is_d, other=0.0).to(DTYPE)
                x *= tl.load(scales + i)
                for block in range(begin, end, BLOCK_E):
                    e = block + tl.arange(0, BLOCK_E)
                    p = tl.load(pos + e, mask=e < end, other=-1).to(tl.int64)
                    n = tl.load(neg + e, mask=e < end, other=-1).to(tl.int64)
                    score = tl.load(scores[i] + e, mask=e < end, other=0.0)
                    w = _weigh(score, keeps[i] + e, e < end, HAS_KEEP)
                    valid = (p >= 0) & (p < num_items) & (n >= 0) & (n < num_items)
                    mask = valid[:, None] & is_d[None, :]
                    change = w[:, None] * x[None, :]
                    at_p = grads[i] + (p * dims[i])[:, None] + d[None, :]
                    at_n = grads[i] + (n * dims[i])[:, None] + d[None, :]
                    tl.atomic_add(at_p, change, mask=mask, sem='relaxed')
                    tl.atomic_add(at_n, -change, mask=mask, sem='relaxed')


@triton.jit(do_not_specialize=['num'])
def gain_kernel(
    scores, keeps, gains, totals, num,
    HAS_KEEP: tl.constexpr, HAS_GAIN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    r"""Sums a block of losses, and makes of scores pointwise gains."""
    block = tl.program_id(0).to(tl.int64)
    e = block * BLOCK + tl.arange(0, BLOCK)
    for i in tl.static_range(len(scores)):
        if tl.program_id(1) == i:
            score = tl.load(scores[i] + e, mask=e < num, other=0.0)
            # log(1 + p), where 1 + p would be rounded
            p = tl.exp(-tl.abs(score))
            q = 1.0 + p
            log = tl.where(q == 1.0, p, tl.log(q) * (p / tl.where(q == 1.0, 1.0, q - 1.0)))
            loss = log - tl.minimum(score, 0.0)
            counts = e < num
            if HAS_KEEP:
                counts = counts & (tl.load(keeps[i] + e, mask=counts, other=0) != 0)
            if HAS_GAIN:
                gain = 0.6931471805599453 - loss
                tl.store(gains[i] + e, tl.where(counts, gain, 0.0), mask=e < num)
            tl.store(totals[i] + block, tl.sum(tl.where(counts, loss, 0.0), axis=0))


@triton.jit(do_not_specialize=['num'])
def scale_kernel(sums, outs, scales, dims, num, BLOCK: tl.constexpr):
    r"""Multiplies tables of ``num`` rows by a number each."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    for i in tl.static_range(len(sums)):
        if tl.program_id(1) == i:
            mask = at < num.to(tl.int64) * dims[i]
            x = tl.load(sums[i] + at, mask=mask, other=0.0) * tl.load(scales + i)
            tl.store(outs[i] + at, x.to(outs[i].dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['num', 'num_items'])
def item_kernel(pos, neg, items, num, num_items, BLOCK: tl.constexpr):
    r"""Writes positive and negative items in turn; ids out of range become the first such id."""
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    p = tl.load(pos + e, mask=e < num, other=0).to(tl.int64)
    n = tl.load(neg + e, mask=e < num, other=0).to(tl.int64)
    p = tl.where((p >= 0) & (p < num_items), p, num_items).to(items.dtype.element_ty)
    n = tl.where((n >= 0) & (n < num_items), n, num_items).to(items.dtype.element_ty)
    tl.store(items + 2 * e, p, mask=e < num)
    tl.store(items + 2 * e + 1, n, mask=e < num)


_SEGMENT = 128  # entries of a row per program; longer rows, the hubs of power laws, are cut
_SCORE_TILE, _SUM_TILE = 512, 1024  # elements of the tiles of rows in registers
_BLOCK = 1024  # elements of a program of element-wise kernels

# With up to so many triplets, each table is scored by its own programs. With more, one program
# reads the indices once for all tables.
_MAX_EACH = 2**18


def score_differences(
    triplets: Triplets,
    tables: Sequence[Tensor],
    keep: Tensor | None = None,
    with_sums: bool = False,
    with_src: bool = False,
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    r"""Returns the scores of positive less negative items, ``[K, n]``, NaN where an index is out of
    range. If asked for, also the sums of :math:`\sigma(-\Delta) (z^i - z^j)` per user, which are
    the gradient but for a factor, and the user of each triplet.
    """
    users, items = tuple(tables[0::2]), tuple(tables[1::2])
    rowptr, src, pos, neg = triplets
    num_triplets, dtype = pos.numel(), _sum_dtype(tables)
    size = len(users), num_triplets
    scores = users[0].new_empty(size, dtype=dtype)
    if src is not None:  # triplets of a user that is out of range are met by no program
        scores.fill_(float('nan'))
    sums = [torch.empty_like(x, dtype=dtype) for x in users] if with_sums else []
    makes_src = with_src and src is None
    if makes_src:
        index = torch.int32 if users[0].size(0) < 2**31 else torch.int64
        src = torch.empty_like(pos, dtype=index)
    if num_triplets == 0:
        return scores, [x.zero_() for x in sums], src
    cut = _Cut(rowptr, num_triplets)
    partials = cut.partials(sums, dtype)
    # Any tensor stands in for one that is not there: it is never read.
    args = (
        users, items, scores.unbind(), tuple(sums) or users, tuple(partials) or users,
        users if keep is None else keep.unbind(), _widths(users), pos if src is None else src,
        pos, neg, rowptr, cut.row, cut.num, users[0].size(0), items[0].size(0),
    )  # fmt: skip
    each = num_triplets <= _MAX_EACH
    flags = {'HAS_SRC': makes_src, 'HAS_SUM': with_sums, 'HAS_KEEP': keep is not None}
    constants = {'EACH': each, **flags}
    cut.launch(score_kernel, args, users, dtype, _SCORE_TILE, constants, each=each)
    cut.combine(partials, sums)
    return scores, sums, src


def sum_losses(
    scores: Tensor, keep: Tensor | None = None, with_gains: bool = False
) -> tuple[Tensor, Tensor | None]:
    r"""Returns the sums of the losses :math:`-\log \sigma(\Delta)`, ``[K]``, and, if asked for, the
    pointwise gains :math:`\log 2 + \log \sigma(\Delta)`, ``[K, n]``; zero where not kept.
    """
    num_blocks = -(-scores.size(1) // _BLOCK)
    gains = torch.empty_like(scores) if with_gains else None
    totals = scores.new_empty(scores.size(0), num_blocks)
    if num_blocks > 0:
        rows = scores.unbind()
        keeps = rows if keep is None else keep.unbind()
        outs = rows if gains is None else gains.unbind()
        args = rows, keeps, outs, totals.unbind(), scores.size(1)
        constants = {'HAS_KEEP': keep is not None, 'HAS_GAIN': with_gains, 'BLOCK': _BLOCK}
        launch(gain_kernel, (num_blocks, scores.size(0)), args, constants, num_warps=4)
    return totals.sum(dim=1), gains


def user_gradients(
    sums: Sequence[Tensor], scale: Tensor, tables: Sequence[Tensor], needs: Sequence[bool]
) -> list[Tensor | None]:
    r"""Returns the gradients of the users' tables that need one: the sums of
    :func:`score_differences` times :obj:`scale` ``[K]``.
    """
    out: list[Tensor | None] = [None] * len(needs)
    kept = [i for i, need in enumerate(needs) if need]
    if len(kept) == 0:
        return out
    totals = [sums[i] for i in kept]
    grads = _like([tables[2 * i] for i in kept], scale.dtype)
    dims, num_rows = _widths(totals), totals[0].size(0)
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
    r"""Returns the gradients of the items' tables that need one: the user's row times
    :math:`\sigma(-\Delta)` and :obj:`scale` ``[K]``, added to the positive item and subtracted from
    the negative one; in any order unless :obj:`deterministic`.
    """
    out: list[Tensor | None] = [None] * len(needs)
    kept = [i for i, need in enumerate(needs) if need]
    if len(kept) == 0:
        return out
    items, users = [tables[2 * i + 1] for i in kept], [tables[2 * i] for i in kept]
    if triplets[2].numel() == 0:
        grads = [torch.zeros_like(x) for x in items]
    else:
        rows = tuple([scores[i] for i in kept])
        keeps = rows if keep is None else tuple([keep[i] for i in kept])
        weights = _Weights(rows, _choose(scale, kept), keeps, keep is not None)
        if deterministic:
            # Each triplet is two entries of a matrix of items times users, of opposite weight.
            rowptr, src, pos, _ = triplets
            if src is None:
                src = torch.repeat_interleave(rowptr.diff(), output_size=pos.numel())
            grads = _sum_rows(*_sort_items(triplets, items[0].size(0)), src, weights, users)
        else:
            grads = _add_edges(triplets, weights, users, items)
    for i, grad in zip(kept, grads):
        out[i] = grad.to(tables[2 * i + 1].dtype)
    return out


class _Weights(NamedTuple):
    # The parts of the triplets' weights, for each table.
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
    _, _, pos, neg = triplets
    num = pos.numel()
    types = (torch.int16, torch.int32, torch.int64)
    dtype = next(t for t in types if num_items <= torch.iinfo(t).max)
    items = torch.empty(2 * num, dtype=dtype, device=pos.device)
    args = pos, neg, items, num, num_items
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


def _widths(tables: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple([x.size(1) for x in tables])


def _sum_dtype(tables: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in tables) else torch.float32


class _Cut:
    # The rows of a CSR matrix, long ones cut at multiples of _SEGMENT. Boundary c, before the entry
    # (c + 1) * _SEGMENT, lies in the row `row[c] - 1`. The piece that begins there has the slot
    # num + c. The first piece of a row has the slot of the row's first boundary. No size depends on
    # the data, so that nothing waits for the device.
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
        constants = {**constants, 'SEGMENT': _SEGMENT, 'DTYPE': _TYPES[dtype]}
        constants |= {'BLOCK_E': block_e, 'BLOCK_D': block_d}
        num_warps = min(max(block_d * block_e // 1024, 1), 8)
        launch(kernel, (num_programs, len(tables) if each else 1), args, constants, num_warps)

    def combine(self, partials: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        # Adds up the pieces of each row, in their order, whichever was done first.
        if self.num == 0 or len(outs) == 0:
            return
        size = self.num, self.rowptr.numel() - 1
        args = (tuple(partials), tuple(outs), _widths(outs), self.rowptr, self.row, *size)
        dtype = partials[0].dtype
        self.launch(combine_kernel, args, outs, dtype, _SUM_TILE, {}, num_programs=self.num)


def _sum_rows(
    rowptr: Tensor, entry: Tensor, src: Tensor, weights: _Weights, tables: list[Tensor]
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
        tuple(tables), tuple(outs), tuple(partials), weights.scores, weights.scale, weights.keeps,
        _widths(tables), src, entry, rowptr, cut.row, cut.num, num_rows, tables[0].size(0),
    )  # fmt: skip
    cut.launch(sum_rows_kernel, args, tables, dtype, _SUM_TILE, {'HAS_KEEP': weights.has_keep})
    cut.combine(partials, outs)
    return outs


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _add_edges(
    triplets: Triplets, weights: _Weights, users: list[Tensor], items: list[Tensor]
) -> list[Tensor]:
    # By atomic additions, in any order.
    rowptr, _, pos, neg = triplets
    dtype = weights.scale.dtype
    grads = [torch.zeros_like(x, dtype=dtype) for x in items]
    cut = _Cut(rowptr, pos.numel())
    args = (
        tuple(users), tuple(grads), weights.scores, weights.scale, weights.keeps, _widths(users),
        pos, neg, rowptr, cut.row, cut.num, users[0].size(0), items[0].size(0),
    )  # fmt: skip
    cut.launch(add_edges_kernel, args, users, dtype, _SUM_TILE, {'HAS_KEEP': weights.has_keep})
    return grads
