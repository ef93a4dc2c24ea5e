"""A Triton kernel of the sparse-dense product, of one matrix or of two in one launch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mrdib_pyg.ops.adjacency import Workspace, cut_rows, piece_length
from mrdib_pyg.ops.kernels.launch import launch


@triton.jit
def _sum_entries(
    col_ptr, value_ptr, x_ptr, x_stride, start, end, offset, mask,
    acc_type: tl.constexpr, block_entries: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    acc = tl.zeros([block_channels], dtype=acc_type)
    for begin in range(start, end, block_entries):
        entry = begin + tl.arange(0, block_entries)
        valid = entry < end
        col = tl.load(col_ptr + entry, mask=valid, other=0).to(tl.int64)
        rows = tl.load(
            x_ptr + col[:, None] * x_stride + offset[None, :],
            mask=valid[:, None] & mask[None, :],
            other=0.0,
        ).to(acc_type)
        value = tl.load(value_ptr + entry, mask=valid, other=0.0).to(acc_type)
        acc += tl.sum(rows * value[:, None], axis=0)
    return acc


@triton.jit
def _store_row(
    acc, row, addend_ptr, addend_stride, out_ptr, out_stride, offset, mask,
    alpha: tl.constexpr, beta: tl.constexpr, has_addend: tl.constexpr, acc_type: tl.constexpr,
):  # fmt: skip
    row = row.to(tl.int64)
    # Constants, so that they are not rounded to float32 on their way to a float64 kernel.
    if alpha != 1.0:
        acc = acc * alpha
    if has_addend:
        addend = tl.load(addend_ptr + row * addend_stride + offset, mask=mask, other=0.0)
        acc += addend.to(acc_type) * beta
    tl.store(out_ptr + row * out_stride + offset, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _sum_pieces(
    partial_ptr, begin, end, channels, offset, mask,
    acc_type: tl.constexpr, block_entries: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    # In the order of the pieces, whichever was done first: the sum is the same in every run.
    acc = tl.zeros([block_channels], dtype=acc_type)
    for start in range(begin, end, block_entries):
        piece = start + tl.arange(0, block_entries)
        source = partial_ptr + piece.to(tl.int64)[:, None] * channels + offset[None, :]
        valid = (piece < end)[:, None] & mask[None, :]
        # Past the cache of this multiprocessor: other ones have written them.
        acc += tl.sum(tl.load(source, mask=valid, other=0.0, cache_modifier='.cg'), axis=0)
    return acc


@triton.jit(do_not_specialize=['num_pieces', 'num_pieces_2', 'num_rows', 'num_cuts'])
def _rows_kernel(
    rowptrs, cols, values, xs, addends, outs, firsts, lasts, owners,
    piece_ptrs, cut_rows, partial_ptr, counter_ptr,
    num_pieces, num_pieces_2, num_rows, num_cuts, dims, x_strides, addend_strides, out_strides,
    alpha: tl.constexpr, beta: tl.constexpr, has_addend: tl.constexpr, acc_type: tl.constexpr,
    block_channels: tl.constexpr, max_piece: tl.constexpr, block_entries: tl.constexpr,
):  # fmt: skip
    # One product or two. Pieces of long rows come first, as they take longest.
    channels = dims[0]
    program = tl.program_id(0)
    offset = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    mask = offset < channels
    for i in tl.static_range(len(xs)):
        if i == 0:
            piece = program
            is_piece = program < num_pieces
            row = program - num_pieces - num_pieces_2
            is_row = (row >= 0) & (row < num_rows)
        else:
            piece = program - num_pieces
            is_piece = (piece >= 0) & (piece < num_pieces_2)
            row = program - num_pieces - num_pieces_2 - num_rows
            is_row = row >= 0
        if is_piece:
            acc = _sum_entries(
                cols[i], values[i], xs[i], x_strides[i],
                tl.load(firsts[i] + piece), tl.load(lasts[i] + piece), offset, mask,
                acc_type, block_entries, block_channels,
            )  # fmt: skip
            tl.store(partial_ptr + program.to(tl.int64) * channels + offset, acc, mask=mask)
            # The last program of a row adds up its pieces. The others are written by then: the
            # counter releases earlier writes and acquires the writes that others have released.
            tl.debug_barrier()
            cut = tl.load(owners[i] + piece)
            begin = tl.load(piece_ptrs[i] + cut)
            end = tl.load(piece_ptrs[i] + cut + 1)
            place = (cut if i == 0 else num_cuts + cut) * tl.num_programs(1) + tl.program_id(1)
            num_done = tl.atomic_add(counter_ptr + place, 1, sem='acq_rel', scope='gpu')
            if num_done == end - begin - 1:
                tl.debug_barrier()
                tl.store(counter_ptr + place, 0)  # for the next product
                shift = program - piece
                acc = _sum_pieces(
                    partial_ptr, begin + shift, end + shift, channels, offset, mask,
                    acc_type, block_entries, block_channels,
                )  # fmt: skip
                _store_row(
                    acc, tl.load(cut_rows[i] + cut), addends[i], addend_strides[i], outs[i],
                    out_strides[i], offset, mask, alpha, beta, has_addend, acc_type,
                )  # fmt: skip
        if is_row:
            start = tl.load(rowptrs[i] + row)
            end = tl.load(rowptrs[i] + row + 1)
            if end - start <= max_piece:
                acc = _sum_entries(
                    cols[i], values[i], xs[i], x_strides[i], start, end, offset, mask,
                    acc_type, block_entries, block_channels,
                )  # fmt: skip
                _store_row(
                    acc, row, addends[i], addend_strides[i], outs[i], out_strides[i],
                    offset, mask, alpha, beta, has_addend, acc_type,
                )  # fmt: skip


class _Product(NamedTuple):
    rowptr: Tensor
    col: Tensor
    value: Tensor
    x: Tensor
    addend: Tensor | None
    out: Tensor
    pieces: tuple[Tensor, ...]


def csr_matmul(
    rowptr: Tensor,
    col: Tensor,
    value: Tensor,
    x: Tensor,
    *,
    alpha: float = 1.0,
    addend: Tensor | None = None,
    beta: float = 1.0,
    pieces: tuple[Tensor, ...] | None = None,
    workspace: Workspace | None = None,
) -> Tensor:
    r"""Computes :math:`\alpha \mathbf{A} \mathbf{X} + \beta \mathbf{B}` in the type of :obj:`x`,
    without a gradient. The last program of a row to finish adds up its pieces in their order, so
    that every run gives the same bits. Sums are in :obj:`float32`, or :obj:`float64` if :obj:`x`
    is.
    """
    x = _rows(x)
    out = x.new_empty(rowptr.numel() - 1, x.size(1))
    addend = None if addend is None else _rows(addend)
    if pieces is None:
        pieces = cut_rows(rowptr, piece_length(col.numel()))
    product = _Product(rowptr, col, value, x, addend, out, tuple(pieces))
    _multiply([product], alpha, beta, workspace)
    return out


def csr_matmul_pair(
    arrays: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    x: tuple[Tensor, Tensor],
    *,
    alpha: float = 1.0,
    addend: tuple[Tensor, Tensor] | None = None,
    beta: float = 1.0,
    workspace: Workspace | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Computes two products as :func:`csr_matmul` does in one launch, so that neither waits for
    the longest rows of the other. :obj:`arrays` are the values, row pointers, columns and pieces of
    each; both have as many entries, and features of one width, type and device.
    """
    products = []
    for i, (value, rowptr, col, *pieces) in enumerate(arrays):
        own = _rows(x[i])
        out = own.new_empty(rowptr.numel() - 1, own.size(1))
        other = None if addend is None else _rows(addend[i])
        products.append(_Product(rowptr, col, value, own, other, out, tuple(pieces)))
    _multiply(products, alpha, beta, workspace)
    return products[0].out, products[1].out


def make_workspace(x: Tensor, *pieces: Sequence[Tensor]) -> Workspace:
    r"""Makes room for the sums of pieces of products with :obj:`x` that are computed at once, and
    the counters of finished pieces, which each product leaves at zero.
    """
    num_pieces = sum([p[2].numel() for p in pieces])
    if num_pieces == 0:  # placeholders of the right types, never read
        return x, pieces[0][1]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    num_counters = sum([p[0].numel() for p in pieces]) * _blocks(x.size(1))[1]
    partial = x.new_empty(num_pieces, x.size(1), dtype=dtype)
    return partial, x.new_zeros(num_counters, dtype=torch.int32)


def _blocks(channels: int) -> tuple[int, int]:
    # The width of a block of channels, and how many there are.
    width = min(1 << (channels - 1).bit_length(), 128)
    return width, -(-channels // width)


def _multiply(
    products: list[_Product], alpha: float, beta: float, workspace: Workspace | None
) -> None:
    x = products[0].x
    channels = x.size(1)
    num_pieces = [product.pieces[2].numel() for product in products]
    num_cuts = [product.pieces[0].numel() for product in products]
    num_rows = [product.rowptr.numel() - 1 for product in products]
    num_programs = sum(num_pieces) + sum(num_rows)
    if num_programs == 0 or channels == 0:
        return
    block_channels, num_blocks = _blocks(channels)
    if workspace is None:
        workspace = make_workspace(x, *[product.pieces for product in products])
    partial, counter = workspace
    first = products[0]
    cut_row, piece_ptr, starts, ends, owners = zip(*[product.pieces for product in products])
    args = (
        tuple([p.rowptr for p in products]), tuple([p.col for p in products]),
        tuple([p.value for p in products]), tuple([p.x for p in products]),
        # Any tensor stands in for one that is not there.
        tuple([x if p.addend is None else p.addend for p in products]),
        tuple([p.out for p in products]), starts, ends, owners, piece_ptr, cut_row,
        partial, counter, num_pieces[0], num_pieces[-1] if len(products) == 2 else 0,
        num_rows[0], num_cuts[0], (channels,), tuple([p.x.stride(0) for p in products]),
        tuple([0 if p.addend is None else p.addend.stride(0) for p in products]),
        tuple([p.out.stride(0) for p in products]),
    )  # fmt: skip
    constants = {
        'alpha': float(alpha),
        'beta': float(beta),
        'has_addend': first.addend is not None,
        'acc_type': tl.float64 if x.dtype == torch.float64 else tl.float32,
        'block_channels': block_channels,
        'max_piece': piece_length(first.col.numel()),
        'block_entries': 16 if block_channels >= 32 else 32,
    }
    launch(_rows_kernel, (num_programs, num_blocks), args, constants, num_warps=1)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.size(1) == 1 else x.contiguous()


@torch.library.custom_op('mrdib_pyg::csr_matmul', mutates_args=())
def csr_matmul_op(
    rowptr: Tensor,
    col: Tensor,
    value: Tensor,
    x: Tensor,
    pieces: list[Tensor],
    addend: Tensor | None,
    alpha: float,
    beta: float,
) -> Tensor:
    r"""Computes :func:`csr_matmul` as an operator that :func:`torch.compile` does not trace."""
    return csr_matmul(
        rowptr, col, value, x, alpha=alpha, addend=addend, beta=beta, pieces=tuple(pieces)
    )


@csr_matmul_op.register_fake
def _(rowptr, col, value, x, pieces, addend, alpha, beta):
    return x.new_empty(rowptr.numel() - 1, x.size(1))
