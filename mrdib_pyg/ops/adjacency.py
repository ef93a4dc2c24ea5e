"""Sparse matrices: sorted indices, any PyG adjacency as COO, CSR, and the normalized adjacency."""

import warnings
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.index import index2ptr
from torch_geometric.typing import Adj, SparseTensor

from mrdib_pyg.interactions import is_coalesced
from mrdib_pyg.ops._fixed_shapes import can_read

_INT32_END = 2**31
_MAX_RADIX = 2**16  # indices that NumPy sorts faster than torch


def bound(index: Tensor, num_rows: int) -> Tensor:
    r"""Replaces indices that are out of range by the first that is."""
    return index.clamp(-1, num_rows).remainder_(num_rows + 1)


def sort_stable(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    r"""Sorts indices of rows, equal ones in their order; returns them and their former places."""
    is_small = index.numel() <= _MAX_RADIX and num_rows < 2**32
    if not (can_read(index) and is_small):
        out, perm = (index.int() if num_rows < 2**31 else index).sort(stable=True)
        return out.to(index.dtype), perm
    # NumPy sorts 16-bit integers by radix, without the branches that make short sorts slow: five
    # times faster for the batch of a training step.
    perm = torch.from_numpy(np.argsort(index.numpy().astype(np.uint16), kind='stable'))
    if num_rows >= 2**16:  # not `>`: `num_rows` itself marks an index out of range
        high = (index >> 16).index_select(0, perm)
        order = torch.from_numpy(np.argsort(high.numpy().astype(np.uint16), kind='stable'))
        perm = perm.index_select(0, order)
    return index.index_select(0, perm), perm


def to_rowptr(index: Tensor, num_rows: int) -> Tensor:
    r"""Returns where each row begins among sorted indices, ``[num_rows + 1]``, in their type."""
    if can_read(index):
        return index2ptr(index, num_rows)
    # Works with an index out of range, which nobody looks for on an accelerator.
    first = torch.arange(num_rows + 1, dtype=index.dtype, device=index.device)
    return torch.searchsorted(index, first, out_int32=index.dtype == torch.int32)


def csr_tensor(rowptr: Tensor, col: Tensor, value: Tensor, num_cols: int) -> Tensor:
    r"""Returns a sparse CSR tensor without checks, and without the warning that it is in beta."""
    size = (rowptr.numel() - 1, num_cols)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return torch.sparse_csr_tensor(rowptr, col, value, size, check_invariants=False)


def to_coo(
    adj: Adj,
    edge_weight: Tensor | None = None,
    num_nodes: int | tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, int], bool]:
    r"""Reads any PyG adjacency. Returns the row and column of each entry in their integer type, the
    weights (:obj:`None` for ones), the size, and whether rows and columns are different nodes.
    """
    size: tuple[int | None, int | None] = (None, None)
    value: Tensor | None = None
    is_matrix = True
    if isinstance(adj, EdgeIndex):
        size, is_matrix = adj.sparse_size(), False
        index = adj.as_tensor()
    elif isinstance(adj, SparseTensor):
        row, col, value = adj.coo()
        index, size = torch.stack([row, col]), (adj.size(0), adj.size(1))
    elif not isinstance(adj, Tensor):
        raise TypeError(
            f"'adj' must be an edge_index, EdgeIndex, sparse tensor or SparseTensor (got "
            f'{type(adj).__name__})'
        )
    elif adj.layout == torch.strided:
        index, is_matrix = adj, False
    elif adj.layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc) and adj.dim() == 2:
        coo = adj.to_sparse_coo().coalesce()
        index, value, size = coo.indices(), coo.values(), (adj.size(0), adj.size(1))
    else:
        raise TypeError(
            f"'adj' must be a matrix in COO, CSR or CSC layout if sparse (got {adj.dim()} "
            f'dimensions in {adj.layout})'
        )

    if index.dim() != 2 or index.size(0) != 2:
        raise ValueError(
            f"'adj' must have the shape [2, num_edges] if given as edge_index (got "
            f'{list(index.shape)})'
        )
    if index.dtype not in (torch.int64, torch.int32):
        raise TypeError(
            f"'adj' must hold integer ids if given as edge_index (got {index.dtype}); call .long()"
        )
    if is_matrix and edge_weight is not None:
        raise ValueError("'edge_weight' must be None for a sparse matrix, which has its own values")
    weight = _check_weight(edge_weight if value is None else value, index.size(1))
    rows_cols, bipartite = _check_size(size, num_nodes)
    for name, ids, bound in (('row', index[0], rows_cols[0]), ('column', index[1], rows_cols[1])):
        if ids.numel() > 0 and (int(ids.min()) < 0 or int(ids.max()) >= bound):
            raise ValueError(
                f"'adj' has {name} ids from {int(ids.min())} to {int(ids.max())}, but 'num_nodes' "
                f'allows 0 to {bound - 1}'
            )
    return index[0], index[1], weight, rows_cols, bipartite


def _check_weight(weight: Tensor | None, num_edges: int) -> Tensor | None:
    if weight is None:
        return None
    if weight.dim() == 2 and weight.size(1) == 1:
        weight = weight.view(-1)
    if weight.shape != (num_edges,):
        raise ValueError(
            f"'edge_weight' must have one value for each of the {num_edges} edges (got the "
            f'shape {list(weight.shape)})'
        )
    if not weight.is_floating_point() or weight.element_size() < 4:
        weight = weight.float()
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("'edge_weight' must be finite (got NaN or infinity)")
    return weight


def _check_size(
    size: tuple[int | None, int | None], num_nodes: int | tuple[int, int] | None
) -> tuple[tuple[int, int], bool]:
    bipartite = isinstance(num_nodes, (tuple, list))
    if num_nodes is not None:
        given = num_nodes if isinstance(num_nodes, (tuple, list)) else (num_nodes, num_nodes)
        if len(given) != 2 or any(not isinstance(n, int) or n < 0 for n in given):
            raise ValueError(
                f"'num_nodes' must be an integer or a pair (rows, columns) (got {num_nodes!r})"
            )
        rows, cols = given
    elif size[0] is None or size[1] is None:
        raise ValueError(
            "'num_nodes' must be set for an edge_index (got None); pass the number of nodes, or "
            '(rows, columns) for a bipartite graph'
        )
    else:
        rows, cols = size[0], size[1]
        bipartite = rows != cols
    for n, known in zip((rows, cols), size):
        if known is not None and n != known:
            raise ValueError(
                f"'num_nodes' ({rows}, {cols}) does not match the size {tuple(size)} of 'adj'"
            )
    return (rows, cols), bipartite


_MAX_SMALL = 2**20  # entries of a matrix whose time is that of its longest row

# With up to so many entries, `embedding_bag` is 5 to 10 % faster on int64 indices in single
# precision. Beyond, reading the features takes most of the time.
_MAX_LONG = 2**21

#: On CUDA the sums of the pieces of rows, and the counters of finished pieces per row.
Workspace = tuple[Tensor, Tensor]


class CSR:
    r"""The arrays of a sparse matrix in CSR format: :obj:`rowptr` ``[rows + 1]``, :obj:`col` of the
    same type and :obj:`value`, ``[nnz]`` each. On CUDA :attr:`pieces` cuts long rows, since one
    program cannot be left alone with the longest row of a power law (see :func:`cut_rows`).
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
        r"""Returns the row pointers and columns in the integer type that is fastest on CPU for a
        type of features.
        """
        if dtype.itemsize < 4 or self.col.numel() > _MAX_LONG:
            return self.rowptr, self.col
        if self._long is None:
            if torch.compiler.is_compiling():
                return self.rowptr, self.col
            self._long = self.rowptr.long(), self.col.long()
        return self._long

    def values(self, dtype: torch.dtype) -> Tensor:
        r"""Returns :attr:`value` in another data type, cast once unless it needs a gradient."""
        if dtype == self.value.dtype:
            return self.value
        if dtype in self._cast:
            return self._cast[dtype]
        value = self.value.to(dtype)
        if not value.requires_grad and not torch.compiler.is_compiling():
            self._cast[dtype] = value
        return value

    def to(self, *args: Any, **kwargs: Any) -> 'CSR':
        r"""Takes the arguments of :meth:`torch.Tensor.to`; a data type applies to values alone."""
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
        r"""Returns the transposed matrix, with increasing columns if those of this one increase.
        :obj:`row`, the row of each entry, saves time where it is known.
        """
        has_type = self.value.dtype in (torch.float32, torch.float64)
        if can_read(self.value) and has_type and not self.value.requires_grad:
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


def piece_length(num_entries: int) -> int:
    r"""Returns the most entries of a row that one program of the CUDA kernel sums. Short pieces end
    the longest rows sooner, long ones leave fewer sums to add up.
    """
    return 128 if num_entries < _MAX_SMALL else 512


def cut_rows(rowptr: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""Cuts rows of more than :obj:`length` entries into pieces. Returns the cut rows (increasing),
    where the pieces of each begin (and the last end) in the three lists that follow, and per piece
    its first entry, its end, and the index of its cut row.
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


class NormalizedAdjacency:
    r"""A sparse matrix :math:`\hat{\mathbf{A}}`, normalized once and kept ready for
    :func:`propagate`.

    .. math::
        \hat{a}_{ij} = \frac{a_{ij}}{\sqrt{d_i d_j}} \;\; (\textrm{'sym'}), \qquad
        \hat{a}_{ij} = \frac{a_{ij}}{d_i} \;\; (\textrm{'left'}), \qquad
        \hat{a}_{ij} = a_{ij} \;\; (\textrm{None})

    where :math:`d_i` is the sum of row :math:`i` and, in a bipartite matrix, :math:`d_j` that of
    column :math:`j`; in a square one :math:`d_j` is the sum of *row* :math:`j`, as in
    :math:`\mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2}`. Rows and columns without an entry
    stay zero, self-loops are not added, and repeated edges are summed.

    Rows are users and columns items in a bipartite graph: :obj:`edge_index[0]` holds rows, and a
    sparse matrix is taken as given. For a transposed ``adj_t`` pass ``adj_t.t()``.

    If the weights need a gradient, :attr:`value` is differentiable with respect to them. Build the
    adjacency anew for each backward pass then. Otherwise the arrays of a symmetric matrix also
    serve the backward pass.

    Indices are :obj:`int32` where they fit, which halves their memory; :meth:`to_edge_index`
    returns :obj:`int64`.

    Args:
        adj (Tensor, EdgeIndex or SparseTensor): Edge indices :math:`(2, |\mathcal{E}|)`, a
            :class:`~torch_geometric.EdgeIndex`, a sparse COO, CSR or CSC tensor, or a
            :class:`torch_sparse.SparseTensor`.
        edge_weight (Tensor, optional): The weight of each edge :math:`(|\mathcal{E}|)`, only
            with edge indices. (default: :obj:`None`, all ones)
        num_nodes (int or tuple[int, int], optional): The number of nodes of a square matrix,
            or the numbers of rows and columns of a bipartite one. Required for plain edge indices.
            (default: :obj:`None`, the size of :obj:`adj`, bipartite if not square)
        normalization (str, optional): :obj:`'sym'`, :obj:`'left'` or :obj:`None`.
            (default: :obj:`'sym'`)

    Shapes:
        - :attr:`rowptr` :math:`(\textrm{rows} + 1)`, :attr:`col` and :attr:`value`
          :math:`(\textrm{nnz})`: the matrix in CSR format, the columns of a row in increasing
          order.

    Raises:
        TypeError: If :obj:`adj` or the indices are of an unsupported type.
        ValueError: If shapes, ids, sizes or weights are inconsistent, or a weight is negative
            where it is to be normalized.
    """

    def __init__(
        self,
        adj: Adj,
        edge_weight: Tensor | None = None,
        *,
        num_nodes: int | tuple[int, int] | None = None,
        normalization: str | None = 'sym',
    ):
        if normalization not in ('sym', 'left', None):
            raise ValueError(
                f"'normalization' must be 'sym', 'left' or None (got {normalization!r})"
            )
        row, col, weight, size, bipartite = to_coo(adj, edge_weight, num_nodes)
        row, col, weight = _coalesce(row, col, weight, size)
        if normalization is not None and weight is not None and bool((weight < 0).any()):
            raise ValueError(
                f"'edge_weight' must not be negative with normalization={normalization!r} (got a "
                f'minimum of {float(weight.detach().min()):.4g}); clamp it, or pass '
                f'normalization=None'
            )

        self.normalization = normalization
        self._size = size
        # Narrow already here: all that follows is as large as the graph.
        dtype = torch.int32 if max(col.numel(), *size) < _INT32_END else torch.int64
        row = row.to(dtype).contiguous()
        col = col.to(dtype, copy=True).contiguous()  # A later change of the edges is not ours.
        value = _normalize(row, col, weight, size, bipartite, normalization)
        del weight
        self._csr = CSR(to_rowptr(row, size[0]), col, value)
        self._csr_t = self._csr.t(size[1], row)
        self.is_symmetric = (
            size[0] == size[1]
            and not value.requires_grad
            and torch.equal(self._csr_t.rowptr, self._csr.rowptr)
            and torch.equal(self._csr_t.col, self._csr.col)
            and torch.equal(self._csr_t.value, self._csr.value)
        )
        if self.is_symmetric:
            self._csr_t = self._csr

    @property
    def rowptr(self) -> Tensor:
        r"""The start of each row in :attr:`col` and :attr:`value`, and the end of the last."""
        return self._csr.rowptr

    @property
    def col(self) -> Tensor:
        r"""The column of each entry."""
        return self._csr.col

    @property
    def value(self) -> Tensor:
        r"""The value of each entry."""
        return self._csr.value

    def size(self, dim: int | None = None) -> tuple[int, int] | int:
        r"""Returns the numbers of rows and columns, or the one of dimension :obj:`dim`."""
        return self._size if dim is None else self._size[dim]

    @property
    def nnz(self) -> int:
        r"""The number of stored entries."""
        return self.col.numel()

    @property
    def device(self) -> torch.device:
        r"""The device of the arrays."""
        return self.value.device

    @property
    def dtype(self) -> torch.dtype:
        r"""The data type of :attr:`value`."""
        return self.value.dtype

    def t(self) -> 'NormalizedAdjacency':
        r"""Returns the transposed matrix, which shares the arrays of this one."""
        if self.is_symmetric:
            return self
        return self._like((self._size[1], self._size[0]), self._csr_t, self._csr)

    def select(self, rows: Tensor) -> 'NormalizedAdjacency':
        r"""Returns the matrix of the rows with the given ids, in their order."""
        csr = self._csr.select(rows)
        csr_t = csr.t(self._size[1])
        out = self._like((rows.numel(), self._size[1]), csr, csr_t)
        out.is_symmetric = False
        return out

    def to(self, *args: Any, **kwargs: Any) -> 'NormalizedAdjacency':
        r"""Moves or casts the matrix as :meth:`torch.Tensor.to`; indices keep their type."""
        csr = self._csr.to(*args, **kwargs)
        csr_t = csr if self.is_symmetric else self._csr_t.to(*args, **kwargs)
        return self._like(self._size, csr, csr_t)

    def to_dense(self) -> Tensor:
        r"""Returns the matrix as a dense tensor :math:`(\textrm{rows}, \textrm{columns})`."""
        edge_index, value = self.to_edge_index()
        return value.new_zeros(self._size).index_put(tuple(edge_index), value)

    def to_edge_index(self) -> tuple[Tensor, Tensor]:
        r"""Returns the entries as edge indices :math:`(2, \textrm{nnz})` of type :obj:`int64`,
        sorted by row, and their values.
        """
        return torch.stack([self._csr.row(), self.col]).long(), self.value

    def _like(self, size: tuple[int, int], csr: CSR, csr_t: CSR) -> 'NormalizedAdjacency':
        out = object.__new__(type(self))
        # One by one: torch.compile cannot trace a copy of the dictionary everywhere.
        out.normalization, out.is_symmetric = self.normalization, self.is_symmetric
        out._size, out._csr, out._csr_t = size, csr, csr_t
        return out

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self._size[0]}, {self._size[1]}, nnz={self.nnz}, '
            f'normalization={self.normalization!r})'
        )


def _coalesce(
    row: Tensor, col: Tensor, weight: Tensor | None, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    # Entries sorted by row and column, the repeated ones summed.
    if is_coalesced(row, col):
        return row, col, weight
    code = row.long() * size[1]
    code += col
    del row, col
    code, perm = torch.sort(code, stable=True)
    weight = None if weight is None else weight.index_select(0, perm)
    del perm
    repeated = code[1:] == code[:-1]
    if bool(repeated.any()):
        first = torch.cat([repeated.new_ones(1), ~repeated])
        if weight is None:
            place = first.nonzero().view(-1)
            weight = place.diff(append=place.new_tensor([first.numel()])).to(_value_dtype())
            code = code.index_select(0, place)
            del place
        else:
            code = code.masked_select(first)
            weight = weight.new_zeros(code.numel()).index_add(0, first.cumsum(0) - 1, weight)
    del repeated
    row = code.div(max(size[1], 1), rounding_mode='floor')
    return row, code.sub_(row, alpha=size[1]), weight


def _normalize(
    row: Tensor,
    col: Tensor,
    weight: Tensor | None,
    size: tuple[int, int],
    bipartite: bool,
    normalization: str | None,
) -> Tensor:
    if normalization is None:
        if weight is None:
            return torch.ones(col.numel(), dtype=_value_dtype(), device=col.device)
        return weight.clone()  # A later change is not ours.
    power = -1.0 if normalization == 'left' else -0.5
    row_scale = _inverse_power(_degree(row, weight, size[0]), power)
    scale = row_scale.index_select(0, row)
    if normalization == 'sym':
        # The scales first: their product commutes, so a symmetric matrix stays so to the last bit.
        col_degree = _degree(col, weight, size[1]) if bipartite else None
        col_scale = row_scale if col_degree is None else _inverse_power(col_degree, power)
        scale = scale * col_scale.index_select(0, col)
    return scale if weight is None else weight * scale


def _degree(index: Tensor, weight: Tensor | None, size: int) -> Tensor:
    if weight is None:  # A sum of ones in float32 would stall at 2 ** 24.
        return torch.bincount(index, minlength=size).to(_value_dtype())
    return weight.new_zeros(size).index_add(0, index, weight)


def _value_dtype() -> torch.dtype:
    # Degrees are never summed in a low precision.
    dtype = torch.get_default_dtype()
    return dtype if dtype.itemsize >= 4 else torch.float32


def _inverse_power(degree: Tensor, power: float) -> Tensor:
    # Zero stays zero, and without the NaN that the gradient of 0 ** power would be.
    empty = degree == 0
    return degree.masked_fill(empty, 1.0).pow(power).masked_fill(empty, 0.0)
