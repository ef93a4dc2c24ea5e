from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, SparseTensor


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
          :math:`(\textrm{nnz})`: the matrix in CSR format.

    Raises:
        TypeError: If :obj:`adj` or the indices are of an unsupported type.
        ValueError: If shapes, ids, sizes or weights are inconsistent, or a weight is negative
            where it is to be normalized.
    """

    rowptr: Tensor
    col: Tensor
    value: Tensor

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
        row, col, weight, size, bipartite = _to_coo(adj, edge_weight, num_nodes)
        row, col, weight = _coalesce(row, col, weight, size)
        if normalization is not None and bool((weight < 0).any()):
            raise ValueError(
                f"'edge_weight' must not be negative with normalization={normalization!r} (got a "
                f'minimum of {float(weight.detach().min()):.4g}); clamp it, or pass '
                f'normalization=None'
            )

        self.normalization = normalization
        self._size = size
        self.rowptr = _to_rowptr(row, size[0])
        self.col = col
        self.value = _normalize(row, col, weight, size, bipartite, normalization)

        # The transposed matrix, in CSR format. `col` is sorted stably, so that the rows of the
        # transposed matrix list their columns in increasing order, too.
        perm = torch.argsort(col, stable=True)
        self._rowptr_t = _to_rowptr(col[perm], size[1])
        self._col_t = row[perm]
        self._value_t = self.value[perm]
        self.is_symmetric = (
            size[0] == size[1]
            and not self.value.requires_grad
            and torch.equal(self._rowptr_t, self.rowptr)
            and torch.equal(self._col_t, self.col)
            and torch.equal(self._value_t, self.value)
        )
        if self.is_symmetric:
            self._share()
        self._cast: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

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
        out = self._like()
        out._size = (self._size[1], self._size[0])
        out.rowptr, out.col, out.value = self._rowptr_t, self._col_t, self._value_t
        out._rowptr_t, out._col_t, out._value_t = self.rowptr, self.col, self.value
        return out

    def select(self, rows: Tensor) -> 'NormalizedAdjacency':
        r"""Returns the matrix of the rows with the given ids, in their order."""
        start = self.rowptr[rows]
        count = self.rowptr[rows + 1] - start
        out = self._like()
        out.is_symmetric = False
        out._size = (rows.numel(), self._size[1])
        out.rowptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
        row = torch.repeat_interleave(count)
        entry = torch.arange(row.numel(), device=row.device) + (start - out.rowptr[:-1])[row]
        out.col, out.value = self.col[entry], self.value[entry]
        perm = torch.argsort(out.col, stable=True)
        out._rowptr_t = _to_rowptr(out.col[perm], self._size[1])
        out._col_t, out._value_t = row[perm], out.value[perm]
        return out

    def to(self, *args: Any, **kwargs: Any) -> 'NormalizedAdjacency':
        r"""Moves or casts the matrix; takes the arguments of :meth:`torch.Tensor.to`. A data
        type applies to :attr:`value` alone.
        """
        out = self._like()
        out.value = self.value.to(*args, **kwargs)
        device = out.value.device
        out.rowptr, out.col = self.rowptr.to(device), self.col.to(device)
        if self.is_symmetric:
            out._share()
        else:
            out._rowptr_t, out._col_t = self._rowptr_t.to(device), self._col_t.to(device)
            out._value_t = self._value_t.to(*args, **kwargs)
        return out

    def to_dense(self) -> Tensor:
        r"""Returns the matrix as a dense tensor :math:`(\textrm{rows}, \textrm{columns})`."""
        row = torch.repeat_interleave(self.rowptr.diff())
        return self.value.new_zeros(self._size).index_put((row, self.col), self.value)

    def _like(self) -> 'NormalizedAdjacency':
        out = object.__new__(type(self))
        out.__dict__.update(self.__dict__)
        out._cast = {}
        return out

    def _share(self) -> None:
        self._rowptr_t, self._col_t, self._value_t = self.rowptr, self.col, self.value

    def _values(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        # The values of the matrix and of its transpose in the data type of `x`.
        if dtype == self.value.dtype:
            return self.value, self._value_t
        if dtype in self._cast:
            return self._cast[dtype]
        value = self.value.to(dtype)
        value_t = value if self.is_symmetric else self._value_t.to(dtype)
        if not value.requires_grad and not torch.compiler.is_compiling():
            self._cast[dtype] = (value, value_t)
        return value, value_t

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, '_cast': {}}
        if self.value.requires_grad:  # Only leaves of the autograd graph can be copied or pickled.
            state['value'] = self.value.detach()
            state['_value_t'] = self._value_t.detach()
        return state

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self._size[0]}, {self._size[1]}, nnz={self.nnz}, '
            f'normalization={self.normalization!r})'
        )


def _to_coo(
    adj: Adj,
    edge_weight: Tensor | None,
    num_nodes: int | tuple[int, int] | None,
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int], bool]:
    # Row, column, weight, size, and whether rows and columns are different kinds of nodes.
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
    index = index.long()

    if is_matrix and edge_weight is not None:
        raise ValueError("'edge_weight' goes with an edge_index; a sparse matrix has its own")
    weight = edge_weight if value is None else value
    if weight is None:
        weight = torch.ones(index.size(1), device=index.device)
    if weight.dim() == 2 and weight.size(1) == 1:
        weight = weight.view(-1)
    if weight.shape != index.shape[1:]:
        raise ValueError(
            f"'edge_weight' must have one value for each of the {index.size(1)} edges (got the "
            f'shape {list(weight.shape)})'
        )
    if not weight.is_floating_point() or weight.element_size() < 4:
        weight = weight.float()
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("'edge_weight' must be finite (got NaN or infinity)")

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
            "'num_nodes' is needed with an edge_index, where isolated nodes cannot be seen; pass "
            'the number of nodes, or (rows, columns) for a bipartite graph'
        )
    else:
        rows, cols = size[0], size[1]
        bipartite = rows != cols
    for n, known in zip((rows, cols), size):
        if known is not None and n != known:
            raise ValueError(
                f"'num_nodes' ({rows}, {cols}) does not match the size {tuple(size)} of 'adj'"
            )
    for name, ids, bound in (('row', index[0], rows), ('column', index[1], cols)):
        if ids.numel() > 0 and (int(ids.min()) < 0 or int(ids.max()) >= bound):
            raise ValueError(
                f"'adj' has {name} ids from {int(ids.min())} to {int(ids.max())}, but 'num_nodes' "
                f'allows 0 to {bound - 1}'
            )
    return index[0], index[1], weight, (rows, cols), bipartite


def _coalesce(
    row: Tensor, col: Tensor, weight: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    code = row * size[1] + col
    step = code.diff()
    if bool((step < 0).any()):
        code, perm = code.sort(stable=True)
        row, col, weight = row[perm], col[perm], weight[perm]
        step = code.diff()
    if bool((step == 0).any()):
        first = torch.cat([step.new_ones(1, dtype=torch.bool), step > 0])
        weight = weight.new_zeros(int(first.sum())).index_add(0, first.cumsum(0) - 1, weight)
        row, col = row[first], col[first]
    return row.contiguous(), col.contiguous(), weight


def _normalize(
    row: Tensor,
    col: Tensor,
    weight: Tensor,
    size: tuple[int, int],
    bipartite: bool,
    normalization: str | None,
) -> Tensor:
    if normalization is None:
        return weight
    power = -1.0 if normalization == 'left' else -0.5
    row_scale = _inverse_power(weight.new_zeros(size[0]).index_add(0, row, weight), power)
    if normalization == 'left':
        return weight * row_scale[row]
    col_scale = row_scale
    if bipartite:
        col_scale = _inverse_power(weight.new_zeros(size[1]).index_add(0, col, weight), power)
    # The scales first: their product commutes, so a symmetric matrix stays so to the last bit.
    return weight * (row_scale[row] * col_scale[col])


def _inverse_power(degree: Tensor, power: float) -> Tensor:
    # Zero stays zero, and without the NaN that the gradient of 0 ** power would be.
    empty = degree == 0
    return degree.masked_fill(empty, 1.0).pow(power).masked_fill(empty, 0.0)


def _to_rowptr(row: Tensor, num_rows: int) -> Tensor:
    # `row` is sorted.
    bound = torch.arange(num_rows + 1, device=row.device)
    return torch.searchsorted(row, bound)
