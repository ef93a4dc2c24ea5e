import torch
import triton
import triton.language as tl
from torch import Tensor

from mrdib_pyg.ops.csr import cut_rows, piece_length
from mrdib_pyg.ops.kernels.launch import launch


@triton.jit
def _sum_entries(
    col_ptr, value_ptr, col_scale_ptr, x_ptr, x_stride, start, end, offset, mask,
    has_value: tl.constexpr, has_col_scale: tl.constexpr, acc_type: tl.constexpr,
    block_entries: tl.constexpr, block_channels: tl.constexpr,
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
        if has_value:
            value = tl.load(value_ptr + entry, mask=valid, other=0.0).to(acc_type)
            rows = rows * value[:, None]
        if has_col_scale:
            scale = tl.load(col_scale_ptr + col, mask=valid, other=0.0).to(acc_type)
            rows = rows * scale[:, None]
        acc += tl.sum(rows, axis=0)
    return acc


@triton.jit
def _store_row(
    acc, row, row_scale_ptr, addend_ptr, addend_stride, out_ptr, out_stride, offset, mask,
    alpha: tl.constexpr, beta: tl.constexpr, has_row_scale: tl.constexpr,
    has_addend: tl.constexpr, acc_type: tl.constexpr,
):  # fmt: skip
    row = row.to(tl.int64)
    if has_row_scale:
        acc = acc * tl.load(row_scale_ptr + row).to(acc_type)
    # Constants, so that they are not rounded to float32 on their way to a float64 kernel.
    if alpha != 1.0:
        acc = acc * alpha
    if has_addend:
        addend = tl.load(addend_ptr + row * addend_stride + offset, mask=mask, other=0.0)
        acc += addend.to(acc_type) * beta
    tl.store(out_ptr + row * out_stride + offset, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['num_pieces'])
def _rows_kernel(
    rowptr_ptr, col_ptr, value_ptr, row_scale_ptr, col_scale_ptr, x_ptr, addend_ptr, out_ptr,
    partial_ptr, first_ptr, last_ptr, num_pieces, dims,
    alpha: tl.constexpr, beta: tl.constexpr, has_row_scale: tl.constexpr,
    has_addend: tl.constexpr, acc_type: tl.constexpr, block_channels: tl.constexpr,
    has_value: tl.constexpr, has_col_scale: tl.constexpr, max_piece: tl.constexpr,
    block_entries: tl.constexpr,
):  # fmt: skip
    # The pieces of long rows come first: they take longest, and should not be the last to start.
    channels, x_stride, addend_stride, out_stride = dims
    program = tl.program_id(0)
    offset = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    mask = offset < channels
    if program < num_pieces:
        acc = _sum_entries(
            col_ptr, value_ptr, col_scale_ptr, x_ptr, x_stride,
            tl.load(first_ptr + program), tl.load(last_ptr + program), offset, mask,
            has_value, has_col_scale, acc_type, block_entries, block_channels,
        )  # fmt: skip
        tl.store(partial_ptr + program.to(tl.int64) * channels + offset, acc, mask=mask)
    else:
        row = program - num_pieces
        start = tl.load(rowptr_ptr + row)
        end = tl.load(rowptr_ptr + row + 1)
        if end - start <= max_piece:
            acc = _sum_entries(
                col_ptr, value_ptr, col_scale_ptr, x_ptr, x_stride, start, end, offset, mask,
                has_value, has_col_scale, acc_type, block_entries, block_channels,
            )  # fmt: skip
            _store_row(
                acc, row, row_scale_ptr, addend_ptr, addend_stride, out_ptr, out_stride, offset,
                mask, alpha, beta, has_row_scale, has_addend, acc_type,
            )  # fmt: skip


@triton.jit
def _cut_rows_kernel(
    cut_row_ptr, piece_ptr_ptr, partial_ptr, row_scale_ptr, addend_ptr, out_ptr, dims,
    alpha: tl.constexpr, beta: tl.constexpr, has_row_scale: tl.constexpr,
    has_addend: tl.constexpr, acc_type: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    channels, _, addend_stride, out_stride = dims
    program = tl.program_id(0)
    offset = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    mask = offset < channels
    acc = tl.zeros([block_channels], dtype=acc_type)
    # In the order of the pieces, whichever was done first: the sum is the same in every run.
    for piece in range(tl.load(piece_ptr_ptr + program), tl.load(piece_ptr_ptr + program + 1)):
        source = partial_ptr + tl.cast(piece, tl.int64) * channels
        acc += tl.load(source + offset, mask=mask, other=0.0)
    _store_row(
        acc, tl.load(cut_row_ptr + program), row_scale_ptr, addend_ptr, addend_stride, out_ptr,
        out_stride, offset, mask, alpha, beta, has_row_scale, has_addend, acc_type,
    )  # fmt: skip


def csr_matmul(
    rowptr: Tensor,
    col: Tensor,
    value: Tensor | None,
    x: Tensor,
    *,
    row_scale: Tensor | None = None,
    col_scale: Tensor | None = None,
    alpha: float = 1.0,
    addend: Tensor | None = None,
    beta: float = 1.0,
    out: Tensor | None = None,
    pieces: tuple[Tensor, ...] | None = None,
) -> Tensor:
    r"""Computes a sparse-dense product and its sum with another matrix in one pass,

    .. math::
        \mathbf{Y} = \alpha \, \mathrm{diag}(\mathbf{r}) \, \mathbf{A} \, \mathrm{diag}(\mathbf{c})
        \, \mathbf{X} + \beta \, \mathbf{B}.

    Rows are split over programs, and those of a power law's head into pieces of at most 128 or 512
    entries, whose sums are added in a fixed order: no atomics, the same bits in every run. Sums are
    kept in :obj:`float32`, or in :obj:`float64` if :obj:`x` is. Not differentiable by itself.

    Args:
        rowptr (Tensor): The start of each row of :math:`\mathbf{A}`, and the end of the last.
        col (Tensor): The column of each entry, of the same integer type.
        value (Tensor, optional): The value of each entry, of any floating-point type;
            :obj:`None` for ones.
        x (Tensor): The dense matrix :math:`\mathbf{X}`.
        row_scale (Tensor, optional): The factors :math:`\mathbf{r}`. (default: :obj:`None`, ones)
        col_scale (Tensor, optional): The factors :math:`\mathbf{c}`. (default: :obj:`None`, ones)
        alpha (float, optional): The factor :math:`\alpha`; compiled in, as is :obj:`beta`.
            (default: :obj:`1.0`)
        addend (Tensor, optional): The matrix :math:`\mathbf{B}`; if it is :obj:`out`, the product
            is accumulated in place. (default: :obj:`None`)
        beta (float, optional): The factor :math:`\beta`. (default: :obj:`1.0`)
        out (Tensor, optional): Where to write :math:`\mathbf{Y}`, other than :obj:`x`.
            (default: :obj:`None`, a new tensor in the data type of :obj:`x`)
        pieces (tuple[Tensor, ...], optional): :obj:`cut_rows(rowptr, piece_length(nnz))`, which
            takes a synchronization with the device. (default: :obj:`None`, computed)

    Shapes:
        - :obj:`rowptr` :math:`(\textrm{rows} + 1)`, :obj:`col` and :obj:`value`
          :math:`(\textrm{nnz})`, :obj:`row_scale` :math:`(\textrm{rows})`, :obj:`col_scale`
          :math:`(\textrm{columns})`
        - :obj:`x` :math:`(\textrm{columns}, d)`, :obj:`addend` and :obj:`out`
          :math:`(\textrm{rows}, d)`

    Raises:
        TypeError: If :obj:`x` is not floating point.
        ValueError: If the shape of :obj:`addend` or :obj:`out` is not that of the product, or
            :obj:`out` has no unit stride or is :obj:`x`.
    """
    if not x.is_floating_point():
        raise TypeError(f"'x' must be floating point (got {x.dtype}); call x.float()")
    size = (rowptr.numel() - 1, x.size(1))
    for name, tensor in (('addend', addend), ('out', out)):
        if tensor is not None and tensor.shape != size:
            raise ValueError(
                f"'{name}' must have the shape {list(size)} of the product (got "
                f'{list(tensor.shape)})'
            )
    x = _rows(x)
    if out is None:
        out = x.new_empty(size)
    elif out.data_ptr() == x.data_ptr() and out.numel() > 0:
        raise ValueError("'out' must not be 'x', which is read until the end; pass another tensor")
    elif out.stride(1) != 1 and out.size(1) > 1:
        raise ValueError("'out' must have a unit stride along the channels; pass out.contiguous()")
    if out.numel() == 0:
        return out
    addend = None if addend is None else _rows(addend)
    length = piece_length(col.numel())
    cut_row, piece_ptr, first, last = cut_rows(rowptr, length) if pieces is None else pieces

    acc_type, acc_dtype = tl.float32, torch.float32
    if x.dtype == torch.float64:
        acc_type, acc_dtype = tl.float64, torch.float64
    partial = torch.empty(first.numel(), size[1], dtype=acc_dtype, device=x.device)
    block_channels = min(triton.next_power_of_2(size[1]), 128)
    blocks = triton.cdiv(size[1], block_channels)
    # Any tensor stands in for one that is not there: it is never read.
    addend_stride = 0 if addend is None else addend.stride(0)
    dims = (size[1], x.stride(0), addend_stride, out.stride(0))
    constants = {
        'alpha': float(alpha),
        'beta': float(beta),
        'has_row_scale': row_scale is not None,
        'has_addend': addend is not None,
        'acc_type': acc_type,
        'block_channels': block_channels,
    }
    with torch.cuda.device_of(x):
        launch(
            _rows_kernel,
            (first.numel() + size[0], blocks),
            (
                rowptr, col, _or(value, x), _or(row_scale, x), _or(col_scale, x), x, _or(addend, x),
                out, partial, first, last, first.numel(), dims,
            ),
            {
                **constants,
                'has_value': value is not None,
                'has_col_scale': col_scale is not None,
                'max_piece': length,
                'block_entries': 16 if block_channels >= 32 else 32,
            },
            num_warps=1,
        )  # fmt: skip
        if cut_row.numel() > 0:
            launch(
                _cut_rows_kernel,
                (cut_row.numel(), blocks),
                (
                    cut_row, piece_ptr, partial, _or(row_scale, x), _or(addend, x), out, dims
                ),
                constants,
                num_warps=1,
            )  # fmt: skip
    return out


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.size(1) == 1 else x.contiguous()


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor


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
    r"""The same for :func:`torch.compile`, which does not look into it."""
    return csr_matmul(
        rowptr, col, value, x, alpha=alpha, addend=addend, beta=beta, pieces=tuple(pieces)
    )


@csr_matmul_op.register_fake
def _(rowptr, col, value, x, pieces, addend, alpha, beta):
    return x.new_empty(rowptr.numel() - 1, x.size(1))
