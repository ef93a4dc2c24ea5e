from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from mrdib_pyg.ops.coo import to_coo
from mrdib_pyg.ops.csr import CSR
from mrdib_pyg.ops.sorted_index import to_rowptr

_INT32_END = 2**31


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

    All layouts follow the matrix convention: the edge :obj:`(edge_index[0], edge_index[1])` is
    the entry :obj:`(row, column)`, and a sparse matrix is taken as it is.

    Where the weights need no gradient, a symmetric matrix is recognized at construction and its
    arrays serve the backward pass as well. Where they do, :attr:`value` is differentiable with
    respect to them, and the adjacency is to be built anew for each backward pass.

    Indices are kept as :obj:`int32` where they fit, which halves their memory;
    :meth:`to_edge_index` gives them as PyG takes them.

    Args:
        adj (Tensor, EdgeIndex or SparseTensor): Edge indices :math:`(2, |\mathcal{E}|)`, a
            :class:`~torch_geometric.EdgeIndex`, a sparse COO, CSR or CSC tensor, or a
            :class:`torch_sparse.SparseTensor`.
        edge_weight (Tensor, optional): The weight of each edge :math:`(|\mathcal{E}|)`, only
            with edge indices. (default: :obj:`None`, all ones)
        num_nodes (int or tuple[int, int], optional): The number of nodes of a square matrix,
            or the numbers of rows and columns of a bipartite one. Needed with plain edge
            indices; elsewhere taken from :obj:`adj`, which is bipartite if not square.
            (default: :obj:`None`)
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
        # From here on in the type that is kept: what follows is as large as the graph.
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
        r"""Moves or casts the matrix; takes the arguments of :meth:`torch.Tensor.to`. A data
        type applies to :attr:`value` alone.
        """
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
    if _is_coalesced(row, col):
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


def _is_coalesced(row: Tensor, col: Tensor) -> bool:
    # Without the codes that the sort needs: they are as large as the edge indices.
    if bool((row[1:] < row[:-1]).any()):
        return False
    rising = col[1:] > col[:-1]
    rising |= row[1:] > row[:-1]
    return bool(rising.all())


def _normalize(
    row: Tensor,
    col: Tensor,
    weight: Tensor | None,
    size: tuple[int, int],
    bipartite: bool,
    normalization: str | None,
) -> Tensor:
    if normalization is None:
        return _ones(col) if weight is None else weight.clone()  # A later change is not ours.
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


def _ones(like: Tensor) -> Tensor:
    return torch.ones(like.numel(), dtype=_value_dtype(), device=like.device)


def _value_dtype() -> torch.dtype:
    # Degrees are never summed in a low precision.
    dtype = torch.get_default_dtype()
    return dtype if dtype.itemsize >= 4 else torch.float32


def _inverse_power(degree: Tensor, power: float) -> Tensor:
    # Zero stays zero, and without the NaN that the gradient of 0 ** power would be.
    empty = degree == 0
    return degree.masked_fill(empty, 1.0).pow(power).masked_fill(empty, 0.0)
