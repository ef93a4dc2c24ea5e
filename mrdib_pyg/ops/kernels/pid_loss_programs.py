"""The programs of the Triton kernels behind :func:`mrdib_pyg.ops.pid_loss`."""

import triton
import triton.language as tl


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


@triton.jit
def _weigh(score, keep, mask, HAS_KEEP: tl.constexpr):
    # By what a triplet enters gradients: the probability of the wrong answer, where it counts.
    w = tl.where(mask, 1.0 / (1.0 + tl.exp(score)), 0.0)
    if HAS_KEEP:
        w = tl.where(tl.load(keep, mask=mask, other=0) != 0, w, 0.0)
    return w


@triton.jit(do_not_specialize=['num_cuts', 'num_users', 'num_items'])
def score_kernel(
    users,
    items,
    scores,
    sums,
    partials,
    keeps,
    dims,
    src,
    pos,
    neg,
    rowptr,
    cut_row,
    num_cuts,
    num_users,
    num_items,
    EACH: tl.constexpr,
    HAS_SRC: tl.constexpr,
    HAS_SUM: tl.constexpr,
    HAS_KEEP: tl.constexpr,
    SEGMENT: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    r"""Scores the triplets of a piece of a user, sums what his gradient is a multiple of, and notes
    him for each of them.
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
    tables,
    outs,
    partials,
    scores,
    scales,
    keeps,
    dims,
    src,
    entry,
    rowptr,
    cut_row,
    num_cuts,
    num_rows,
    num_cols,
    HAS_KEEP: tl.constexpr,
    SEGMENT: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
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
    users,
    grads,
    scores,
    scales,
    keeps,
    dims,
    pos,
    neg,
    rowptr,
    cut_row,
    num_cuts,
    num_users,
    num_items,
    HAS_KEEP: tl.constexpr,
    SEGMENT: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    r"""Adds the weighted row of a user to the gradients of the items of his triplets."""
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
    scores,
    keeps,
    gains,
    totals,
    num,
    HAS_KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    r"""Makes of scores pointwise gains, and sums a block of losses."""
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
            gain = 0.6931471805599453 - loss
            counts = e < num
            if HAS_KEEP:
                counts = counts & (tl.load(keeps[i] + e, mask=counts, other=0) != 0)
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
    r"""Lists the positive and the negative item of each triplet in turn; one that is out of range
    as the first that is.
    """
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    p = tl.load(pos + e, mask=e < num, other=0).to(tl.int64)
    n = tl.load(neg + e, mask=e < num, other=0).to(tl.int64)
    p = tl.where((p >= 0) & (p < num_items), p, num_items).to(items.dtype.element_ty)
    n = tl.where((n >= 0) & (n < num_items), n, num_items).to(items.dtype.element_ty)
    tl.store(items + 2 * e, p, mask=e < num)
    tl.store(items + 2 * e + 1, n, mask=e < num)
