from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from mrdib_pyg.ops.sorted_index import sort_stable, to_rowptr

# The entries of a matrix up to which it is small: what counts then is the longest row.
_MAX_SMALL = 2**20

# Up to so many entries `embedding_bag` is given int64 indices: over those it is 5 to 10 % faster in
# single precision, until the time goes into reading features from memory.
_MAX_LONG = 2**21

#: The sums of pieces of rows on CUDA, and counters of how many of a row there are.
Workspace = tuple[Tensor, Tensor]


class CSR:
    r"""The arrays of a sparse matrix in CSR format, and what is derived from them once.

    The rows of a graph of interactions follow a power law, and one program of a CUDA kernel cannot
    be left alone with the longest: on CUDA, :attr:`pieces` cuts them (see :func:`cut_rows`).

    Args:
        rowptr (Tensor): The start of each row, and the end of the last.
        col (Tensor): The column of each entry, in the data type of :obj:`rowptr`.
        value (Tensor): The value of each entry.
        pieces (tuple[Tensor, ...], optional): The cut rows, if known. (default: :obj:`None`)

    Shapes:
        - :obj:`rowptr` :math:`(\textrm{rows} + 1)`, :obj:`col` and :obj:`value`
          :math:`(\textrm{nnz})`
    """

    def __init__(
        self,
        rowptr: Tensor,
        col: Tensor,
        value: Tensor,
        pieces: tuple[Tensor, ...] | None = None,
    ):
        self.rowptr = rowptr
        self.col = col
        self.value = value
        if pieces is None:
            pieces = cut_rows(rowptr, piece_length(col.numel())) if rowptr.is_cuda else ()
        self.pieces: tuple[Tensor, ...] = pieces
        self._cast: dict[torch.dtype, Tensor] = {}
        self._long: tuple[Tensor, Tensor] | None = None

    def indices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        r"""Returns the row pointers and columns in the integer type that is the fastest on CPU for
        features of a data type.
        """
        if dtype.itemsize < 4 or self.col.numel() > _MAX_LONG:
            return self.rowptr, self.col
        if self._long is None:
            if torch.compiler.is_compiling():
                return self.rowptr, self.col
            self._long = self.rowptr.long(), self.col.long()
        return self._long

    def values(self, dtype: torch.dtype) -> Tensor:
        r"""Returns :attr:`value` in another data type; cast once, unless it needs a gradient."""
        if dtype == self.value.dtype:
            return self.value
        if dtype in self._cast:
            return self._cast[dtype]
        value = self.value.to(dtype)
        if not value.requires_grad and not torch.compiler.is_compiling():
            self._cast[dtype] = value
        return value

    def to(self, *args: Any, **kwargs: Any) -> 'CSR':
        r"""Moves or casts; takes the arguments of :meth:`torch.Tensor.to`. A data type applies to
        :attr:`value` alone.
        """
        value = self.value.to(*args, **kwargs)
        device = value.device
        if value is self.value:
            return self
        pieces = self.pieces if device == self.value.device else None
        return CSR(self.rowptr.to(device), self.col.to(device), value, pieces)

    def select(self, rows: Tensor) -> 'CSR':
        r"""Returns the matrix of the rows with the given ids, in their order."""
        start = self.rowptr.index_select(0, rows)
        count = self.rowptr.index_select(0, rows + 1) - start
        rowptr = torch.cat([count.new_zeros(1), count.cumsum(0, dtype=count.dtype)])
        shift = torch.repeat_interleave(start - rowptr[:-1], count)
        entry = torch.arange(shift.numel(), dtype=shift.dtype, device=shift.device) + shift
        return CSR(rowptr, self.col.index_select(0, entry), self.value.index_select(0, entry))

    def t(self, num_cols: int, row: Tensor | None = None) -> 'CSR':
        r"""Returns the transposed matrix, whose rows list their columns in increasing order if
        those of this one do.

        Args:
            num_cols (int): The number of columns of this matrix.
            row (Tensor, optional): The row of each entry, if known. (default: :obj:`None`)
        """
        if _takes_scipy(self.value):
            return self._t_by_scipy(num_cols)
        row = self.row() if row is None else row
        col_sorted, perm = sort_stable(self.col, num_cols)
        rowptr_t = to_rowptr(col_sorted, num_cols)
        del col_sorted  # Each of these is as large as the graph.
        # Not by `[]`, which is slower on CPU.
        return CSR(rowptr_t, row.index_select(0, perm), self.value.index_select(0, perm))

    def _t_by_scipy(self, num_cols: int) -> 'CSR':
        # By counting, in less time than sorting takes.
        arrays = tuple(x.numpy() for x in (self.value, self.col, self.rowptr))
        csc = csr_array(arrays, shape=(self.rowptr.numel() - 1, num_cols)).tocsc()
        # It chooses the type of indices itself.
        rowptr, col = (torch.from_numpy(x).to(self.col.dtype) for x in (csc.indptr, csc.indices))
        return CSR(rowptr, col, torch.from_numpy(csc.data))

    def row(self) -> Tensor:
        r"""Returns the row of each entry."""
        return torch.repeat_interleave(self.rowptr.diff())

    def __getstate__(self) -> dict[str, Any]:
        # Only leaves of the autograd graph can be copied or pickled.
        return {**self.__dict__, '_cast': {}, '_long': None, 'value': self.value.detach()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.rowptr.is_cuda:  # Another version may have cut the rows at another length.
            self.pieces = cut_rows(self.rowptr, piece_length(self.col.numel()))


def _takes_scipy(value: Tensor) -> bool:
    is_plain = value.device.type == 'cpu' and not torch.compiler.is_compiling()
    return is_plain and value.dtype in (torch.float32, torch.float64) and not value.requires_grad


def piece_length(num_entries: int) -> int:
    r"""Returns the most entries of a row that one program of the CUDA kernel sums; longer rows are
    cut. With short pieces the longest rows are done sooner, with long ones fewer sums are added up.

    Args:
        num_entries (int): The number of entries of the matrix.
    """
    return 128 if num_entries < _MAX_SMALL else 512


def cut_rows(rowptr: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""Cuts the rows of more than :obj:`length` entries into pieces.

    Args:
        rowptr (Tensor): The start of each row, and the end of the last.
        length (int): The most entries of a piece, see :func:`piece_length`.

    Returns:
        tuple[Tensor, Tensor, Tensor, Tensor, Tensor]: The cut rows in increasing order; where the
        pieces of each begin in the three lists that follow, and where those of the last end; the
        first entry of each piece; the end of each piece; which of the cut rows it is a piece of.
        All in the data type of :obj:`rowptr`.
    """
    row = (rowptr.diff() > length).nonzero().view(-1)
    start, end = rowptr[row], rowptr[row + 1]
    count = (end - start + length - 1).div(length, rounding_mode='floor')
    piece_ptr = torch.cat([count.new_zeros(1), count.cumsum(0, dtype=count.dtype)])
    owner = torch.repeat_interleave(count).to(rowptr.dtype)
    position = torch.arange(owner.numel(), dtype=rowptr.dtype, device=rowptr.device)
    first = start[owner] + (position - piece_ptr[owner]) * length
    last = torch.minimum(first + length, end[owner])
    return row.to(rowptr.dtype), piece_ptr, first, last, owner
