import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, SparseTensor


def to_coo(
    adj: Adj,
    edge_weight: Tensor | None = None,
    num_nodes: int | tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, int], bool]:
    r"""Reads any PyG adjacency.

    Args:
        adj (Tensor, EdgeIndex or SparseTensor): Edge indices, or a sparse matrix.
        edge_weight (Tensor, optional): The weight of each edge, only with edge indices.
            (default: :obj:`None`)
        num_nodes (int or tuple[int, int], optional): The number of nodes, or the numbers of rows
            and columns of a bipartite matrix. (default: :obj:`None`)

    Returns:
        tuple: Row and column of each entry, of the integer type they came in; the weights, or
        :obj:`None` for ones; the size; and whether rows and columns are different kinds of nodes.

    Raises:
        TypeError: If :obj:`adj` or the indices are of an unsupported type.
        ValueError: If shapes, ids, sizes or weights are inconsistent.
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
        raise ValueError("'edge_weight' goes with an edge_index; a sparse matrix has its own")
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
    return (rows, cols), bipartite
