"""Triton kernels behind :func:`mrdib_pyg.ops.pid_loss`, all modalities in one launch."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from mrdib_pyg.ops.bpr_terms import Triplets
from mrdib_pyg.ops.sorted_index import bound, sort_stable

# The most entries of one row that a program sums: longer rows are split, so that the hubs of a
# power-law graph do not keep one program busy while the others are done.
_SEGMENT = 1024
# Said, because Triton's default is about to change.
_OPTIONS = {'enable_fp_fusion': True}


def score_differences(triplets: Triplets, tables: Sequence[Tensor]) -> Tensor:
    r"""Returns the score of the positive less that of the negative item, ``[K, n]``; NaN where an
    index is out of range.
    """
    users, items = tuple(tables[0::2]), tuple(tables[1::2])
    num_triplets, dtype = triplets.pos.numel(), _sum_dtype(tables)
    out = users[0].new_empty(len(users), num_triplets, dtype=dtype)
    if num_triplets == 0:
        return out
    block = 32
    with torch.cuda.device_of(out):
        _score_kernel[(triton.cdiv(num_triplets, block),)](
            users,
            items,
            out.unbind(),
            tuple(user.size(1) for user in users),
            triplets.users(),
            triplets.pos,
            triplets.neg,
            num_triplets,
            users[0].size(0),
            items[0].size(0),
            DTYPE=_TYPES[dtype],
            BLOCK_E=block,
            BLOCK_D=_block_d(users),
            num_warps=4,
            **_OPTIONS,
        )
    return out


def table_gradients(
    triplets: Triplets,
    weight: Tensor,
    tables: Sequence[Tensor],
    needs: Sequence[bool],
    deterministic: bool = True,
) -> list[Tensor | None]:
    r"""Returns the gradients of the tables that need one, given those of the scores ``[K, n]``."""
    out: list[Tensor | None] = [None] * len(tables)
    if triplets.pos.numel() == 0:
        return [torch.zeros_like(x) if need else None for x, need in zip(tables, needs)]
    if not deterministic:
        kept = [i for i in range(len(tables) // 2) if needs[2 * i] or needs[2 * i + 1]]
        pairs = [(tables[2 * i], tables[2 * i + 1]) for i in kept]
        for i, grads in zip(kept, _add_edges(triplets, [weight[i] for i in kept], pairs)):
            for j in range(2):
                if needs[2 * i + j]:
                    out[2 * i + j] = grads[j].to(tables[2 * i + j].dtype)
        return out

    # Each triplet is two entries of a matrix of users times items, positive and negative.
    col = torch.stack([triplets.pos, triplets.neg], dim=1).view(-1)
    kept = [i for i in range(len(tables) // 2) if needs[2 * i]]
    if kept:
        items, weights = [tables[2 * i + 1] for i in kept], [weight[i] for i in kept]
        sums = _sum_rows(triplets.rowptr * 2, col, None, weights, items)
        for i, grad in zip(kept, sums):
            out[2 * i] = grad.to(tables[2 * i].dtype)
    kept = [i for i in range(len(tables) // 2) if needs[2 * i + 1]]
    if kept:
        users, weights = [tables[2 * i] for i in kept], [weight[i] for i in kept]
        num_items = tables[1].size(0)
        col_sorted, perm = sort_stable(bound(col, num_items), num_items)
        rowptr = torch.searchsorted(col_sorted, _arange(num_items + 1, col_sorted))
        row = triplets.users().index_select(0, perm >> 1)
        for i, grad in zip(kept, _sum_rows(rowptr, row, perm, weights, users)):
            out[2 * i + 1] = grad.to(tables[2 * i + 1].dtype)
    return out


_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def _sum_dtype(tables: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in tables) else torch.float32


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _block_d(tables: Sequence[Tensor]) -> int:
    return min(triton.next_power_of_2(max(x.size(1) for x in tables)), 64)


class _Segments:
    # The rows of a CSR matrix, those of more than _SEGMENT entries in pieces. All sizes are upper
    # bounds, because exact ones would wait for the device; surplus programs return at once.
    def __init__(self, rowptr: Tensor, num_entries: int):
        num_rows = rowptr.numel() - 1
        count = (rowptr.diff() + (_SEGMENT - 1)).div(_SEGMENT, rounding_mode='floor').clamp_(min=1)
        end = count.cumsum(0)
        self.num = num_rows + num_entries // _SEGMENT
        self.ptr = torch.cat([end.new_zeros(1), end])
        self.row = torch.searchsorted(end, _arange(self.num, end), right=True)
        # A partial sum for each segment of a row that has several.
        slots = count.masked_fill_(count == 1, 0)
        end = slots.cumsum(0)
        self.num_slots = 2 * (num_entries // _SEGMENT)
        self.slot_ptr = end - slots
        self.slot_row = torch.searchsorted(end, _arange(self.num_slots, end), right=True)


def _arange(num: int, like: Tensor) -> Tensor:
    return torch.arange(num, device=like.device)


def _sum_rows(
    rowptr: Tensor,
    col: Tensor,
    entry: Tensor | None,
    weights: list[Tensor],
    tables: list[Tensor],
) -> list[Tensor]:
    # Weighted sums of rows in a fixed order. The entry e stands for the triplet entry[e] // 2, its
    # positive item if even and its negative one, of opposite weight, if odd.
    num_rows, dtype = rowptr.numel() - 1, _sum_dtype(weights)
    # Kernels do not round double to half precision.
    types = [x.dtype if dtype == torch.float32 else _wide(x.dtype) for x in tables]
    outs = tuple(x.new_empty(num_rows, x.size(1), dtype=t) for x, t in zip(tables, types))
    dims = tuple(x.size(1) for x in tables)
    if num_rows == 0:
        return list(outs)
    segments = _Segments(rowptr, col.numel())
    partials = tuple(x.new_empty(segments.num_slots, x.size(1), dtype=dtype) for x in tables)
    options = {'DTYPE': _TYPES[dtype], 'BLOCK_E': 16, 'BLOCK_D': _block_d(tables), 'num_warps': 2}
    options |= _OPTIONS
    with torch.cuda.device_of(rowptr):
        _sum_rows_kernel[(segments.num,)](
            tuple(tables),
            outs,
            partials,
            tuple(weights),
            dims,
            col,
            col if entry is None else entry,
            rowptr,
            segments.row,
            segments.ptr,
            segments.slot_ptr,
            num_rows,
            tables[0].size(0),
            HAS_ENTRY=entry is not None,
            SEGMENT=_SEGMENT,
            **options,
        )
        if segments.num_slots > 0:
            _combine_kernel[(segments.num_slots,)](
                partials,
                outs,
                dims,
                segments.slot_row,
                segments.slot_ptr,
                segments.ptr,
                num_rows,
                **options,
            )
    return list(outs)


def _add_edges(
    triplets: Triplets, weights: list[Tensor], pairs: list[tuple[Tensor, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    # Both gradients in one pass, those of items by atomic additions in any order.
    dtype = _sum_dtype(weights)
    users, items = tuple(user for user, _ in pairs), tuple(item for _, item in pairs)
    grad_users = tuple(torch.zeros_like(x, dtype=dtype) for x in users)
    grad_items = tuple(torch.zeros_like(x, dtype=dtype) for x in items)
    segments = _Segments(triplets.rowptr, triplets.pos.numel())
    with torch.cuda.device_of(triplets.pos):
        _add_edges_kernel[(segments.num,)](
            users,
            items,
            grad_users,
            grad_items,
            tuple(weights),
            tuple(user.size(1) for user in users),
            triplets.pos,
            triplets.neg,
            triplets.rowptr,
            segments.row,
            segments.ptr,
            users[0].size(0),
            items[0].size(0),
            SEGMENT=_SEGMENT,
            DTYPE=_TYPES[dtype],
            BLOCK_E=16,
            BLOCK_D=_block_d(users),
            num_warps=2,
            **_OPTIONS,
        )
    return list(zip(grad_users, grad_items))


@triton.jit
def _score_kernel(
    users,
    items,
    outs,
    dims,
    src,
    pos,
    neg,
    num_triplets,
    num_users,
    num_items,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # Triplets are sorted by user: the row of a user is read from memory once and then from cache.
    edge = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    is_edge = edge < num_triplets
    u = tl.load(src + edge, mask=is_edge, other=-1)
    p = tl.load(pos + edge, mask=is_edge, other=-1)
    n = tl.load(neg + edge, mask=is_edge, other=-1)
    valid = (u >= 0) & (u < num_users) & (p >= 0) & (p < num_items) & (n >= 0) & (n < num_items)
    for i in tl.static_range(len(users)):
        total = tl.zeros([BLOCK_E], DTYPE)
        for start in range(0, dims[i], BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            mask = valid[:, None] & (d < dims[i])[None, :]
            x = tl.load(users[i] + (u * dims[i])[:, None] + d[None, :], mask=mask, other=0.0)
            a = tl.load(items[i] + (p * dims[i])[:, None] + d[None, :], mask=mask, other=0.0)
            b = tl.load(items[i] + (n * dims[i])[:, None] + d[None, :], mask=mask, other=0.0)
            total += tl.sum(x.to(DTYPE) * (a.to(DTYPE) - b.to(DTYPE)), axis=1)
        tl.store(outs[i] + edge, tl.where(valid, total, float('nan')), mask=is_edge)


@triton.jit
def _sum_rows_kernel(
    tables,
    outs,
    partials,
    weights,
    dims,
    col,
    entry,
    rowptr,
    segment_row,
    segment_ptr,
    slot_ptr,
    num_rows,
    num_cols,
    HAS_ENTRY: tl.constexpr,
    SEGMENT: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    segment = tl.program_id(0).to(tl.int64)
    row = tl.load(segment_row + segment)
    if row < num_rows:
        first = tl.load(segment_ptr + row)
        is_whole = tl.load(segment_ptr + row + 1) == first + 1
        slot = tl.load(slot_ptr + row) + segment - first
        begin = tl.load(rowptr + row) + (segment - first) * SEGMENT
        end = tl.minimum(begin + SEGMENT, tl.load(rowptr + row + 1))
        for i in tl.static_range(len(tables)):
            for start in range(0, dims[i], BLOCK_D):
                d = start + tl.arange(0, BLOCK_D)
                total = tl.zeros([BLOCK_D], DTYPE)
                for block in range(begin, end, BLOCK_E):
                    e = block + tl.arange(0, BLOCK_E)
                    c = tl.load(col + e, mask=e < end, other=-1)
                    k = e
                    if HAS_ENTRY:
                        k = tl.load(entry + e, mask=e < end, other=0)
                    w = tl.load(weights[i] + k // 2, mask=e < end, other=0.0)
                    w = tl.where(k % 2 == 0, w, -w)
                    mask = ((c >= 0) & (c < num_cols))[:, None] & (d < dims[i])[None, :]
                    x = tl.load(
                        tables[i] + (c * dims[i])[:, None] + d[None, :], mask=mask, other=0.0
                    )
                    total += tl.sum(w[:, None] * x.to(DTYPE), axis=0)
                if is_whole:
                    tl.store(outs[i] + row * dims[i] + d, total, mask=d < dims[i])
                else:
                    tl.store(partials[i] + slot * dims[i] + d, total, mask=d < dims[i])


@triton.jit
def _combine_kernel(
    partials,
    outs,
    dims,
    slot_row,
    slot_ptr,
    segment_ptr,
    num_rows,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # The first slot of each row adds up all slots of the row.
    slot = tl.program_id(0).to(tl.int64)
    row = tl.load(slot_row + slot)
    if row < num_rows:
        if tl.load(slot_ptr + row) == slot:
            end = slot + tl.load(segment_ptr + row + 1) - tl.load(segment_ptr + row)
            for i in tl.static_range(len(partials)):
                for start in range(0, dims[i], BLOCK_D):
                    d = start + tl.arange(0, BLOCK_D)
                    total = tl.zeros([BLOCK_D], DTYPE)
                    for block in range(slot, end, BLOCK_E):
                        s = block + tl.arange(0, BLOCK_E)
                        mask = (s < end)[:, None] & (d < dims[i])[None, :]
                        part = partials[i] + (s * dims[i])[:, None] + d[None, :]
                        total += tl.sum(tl.load(part, mask=mask, other=0.0), axis=0)
                    tl.store(outs[i] + row * dims[i] + d, total, mask=d < dims[i])


@triton.jit
def _add_edges_kernel(
    users,
    items,
    grad_users,
    grad_items,
    weights,
    dims,
    pos,
    neg,
    rowptr,
    segment_row,
    segment_ptr,
    num_users,
    num_items,
    SEGMENT: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    segment = tl.program_id(0).to(tl.int64)
    row = tl.load(segment_row + segment)
    if row < num_users:
        first = tl.load(segment_ptr + row)
        is_whole = tl.load(segment_ptr + row + 1) == first + 1
        begin = tl.load(rowptr + row) + (segment - first) * SEGMENT
        end = tl.minimum(begin + SEGMENT, tl.load(rowptr + row + 1))
        for i in tl.static_range(len(users)):
            for start in range(0, dims[i], BLOCK_D):
                d = start + tl.arange(0, BLOCK_D)
                x = tl.load(users[i] + row * dims[i] + d, mask=d < dims[i], other=0.0).to(DTYPE)
                total = tl.zeros([BLOCK_D], DTYPE)
                for block in range(begin, end, BLOCK_E):
                    e = block + tl.arange(0, BLOCK_E)
                    p = tl.load(pos + e, mask=e < end, other=-1)
                    n = tl.load(neg + e, mask=e < end, other=-1)
                    w = tl.load(weights[i] + e, mask=e < end, other=0.0)
                    valid = (p >= 0) & (p < num_items) & (n >= 0) & (n < num_items)
                    mask = valid[:, None] & (d < dims[i])[None, :]
                    at_p = (p * dims[i])[:, None] + d[None, :]
                    at_n = (n * dims[i])[:, None] + d[None, :]
                    a = tl.load(items[i] + at_p, mask=mask, other=0.0).to(DTYPE)
                    b = tl.load(items[i] + at_n, mask=mask, other=0.0).to(DTYPE)
                    total += tl.sum(w[:, None] * (a - b), axis=0)
                    change = w[:, None] * x[None, :]
                    tl.atomic_add(grad_items[i] + at_p, change, mask=mask, sem='relaxed')
                    tl.atomic_add(grad_items[i] + at_n, -change, mask=mask, sem='relaxed')
                if is_whole:
                    tl.store(grad_users[i] + row * dims[i] + d, total, mask=d < dims[i])
                else:
                    tl.atomic_add(
                        grad_users[i] + row * dims[i] + d, total, mask=d < dims[i], sem='relaxed'
                    )
