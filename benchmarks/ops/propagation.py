r"""Propagation over a user-item graph: three layers and their mean, and one product alone.

    python -m benchmarks.ops.propagation --short

Rivals: ``torch.sparse.mm`` on the uncoalesced COO matrix (the baseline: what common implementations
run), the same coalesced, a torch CSR matrix, :meth:`EdgeIndex.matmul`, ``torch_sparse`` where it is
installed, and PyG's :class:`LGConv` on edge indices with weights computed beforehand.

The package takes nodes in the order that the data have. What other orders bring is timed beside it:
the same graph, whose nodes were numbered anew beforehand.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import LGConv

from benchmarks.graphs import Graph, graphs
from benchmarks.run import Part, part_main
from benchmarks.schema import CAPTURED
from benchmarks.timer import copy_bandwidth, with_captured
from mrdib_pyg.ops import NormalizedAdjacency, propagate, propagate_mean

NUM_LAYERS = 3
BASELINE = 'torch COO sparse.mm'
#: The same with nodes in other orders, by how they are found.
ORDERED: dict[str, Callable[[Graph], tuple[Tensor, Tensor]]] = {
    'propagate_mean, nodes sorted by degree': Graph.by_degree,
    'propagate_mean, users sorted by their rarest item': Graph.by_rarest_item,
}
OURS = ('propagate_mean', 'propagate_mean, square', *ORDERED, 'propagate')
#: What is timed as a CUDA graph, too; the baseline waits for the device.
IN_GRAPHS = ('propagate_mean', 'propagate_mean, square', 'propagate', 'torch CSR mm')
#: Messages that LGConv may hold for its backward pass, in bytes.
_MAX_MESSAGES = {'cpu': 4 * 2**30, 'cuda': 16 * 2**30}

Product = Callable[[Tensor], Tensor]


def measure(part: Part) -> None:
    warnings.filterwarnings('ignore', message='Sparse ', category=UserWarning)
    part.settings.update(num_layers=NUM_LAYERS)
    bandwidth = copy_bandwidth(part.device, part.pick(2**28, 2**27, 2**20))
    widths = part.pick((64, 16, 128), (64,), (8,))
    # The width of the target first, on every graph.
    every = [graph.to(part.device) for graph in graphs(part)]
    if part.device == 'cuda':  # where time is short: one of each size first
        every.sort(key=lambda graph: graph.skew == 'uniform' or graph.name == 'Baby-sized')
    for graph in every:
        case = {**graph.case, 'channels': widths[0], 'dtype': 'float32'}
        arguments = part, graph, widths[0], torch.float32, case, bandwidth
        part.attempt(case, functools.partial(_measure, *arguments))
    for graph in every:
        cases = [(width, torch.float32) for width in widths[1:]]
        if part.device == 'cuda' and graph.skew != 'power law':  # where time is short
            cases = []
        if graph.skew != 'uniform' and graph.edge_index.size(1) < 10**6 and not part.short:
            others = [torch.bfloat16, torch.float64]
            cases += [(64, dtype) for dtype in others]
            cases += [(64, torch.float16)] if part.device == 'cuda' else []
        elif part.device == 'cuda' and graph.skew == 'power law':
            cases += [(64, torch.bfloat16)]
        for channels, dtype in cases:
            case = {**graph.case, 'channels': channels, 'dtype': str(dtype)[6:]}
            run = functools.partial(_measure, part, graph, channels, dtype, case, bandwidth)
            part.attempt(case, run)


def _measure(
    part: Part,
    graph: Graph,
    channels: int,
    dtype: torch.dtype,
    case: dict[str, Any],
    bandwidth: float,
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(graph.num_nodes, channels, generator=generator).to(part.device, dtype)
    square = NormalizedAdjacency(graph.symmetric(), num_nodes=graph.num_nodes).to(dtype)
    products, missing = rival_products(square, channels)

    layered: dict[str, Product] = {
        'propagate_mean': _propagate_mean(graph, dtype),
        'propagate_mean, square': lambda x: propagate_mean(x, square, NUM_LAYERS),
        **{name: functools.partial(_mean, product) for name, product in products.items()},
    }
    orders: dict[str, Tensor] = {}
    for name, sort in ORDERED.items():
        user, item = sort(graph)
        layered[name] = _propagate_mean(graph.renumbered((user, item)), dtype)
        orders[name] = torch.cat([user, item + graph.num_users])
    inputs = {name: x[orders[name]] if name in orders else x for name in layered}
    reference = _mean(reference_product(square), x.double())
    roles = {BASELINE: 'baseline', **dict.fromkeys(OURS, 'ours')}
    roles |= {f'{name}{CAPTURED}': 'ours' for name in OURS}
    settings: dict[str, Any] = {'min_runs': 7, 'min_seconds': 0.2}
    wanted = {name: reference[orders[name]] if name in orders else reference for name in layered}
    extra = {
        name: {'values': _error(fn, inputs[name], wanted[name])} for name, fn in layered.items()
    }

    forward = {name: functools.partial(_forward, fn, inputs[name]) for name, fn in layered.items()}
    graphed = IN_GRAPHS if part.device == 'cuda' else ()
    forward = with_captured(forward, *graphed)
    part.time({**case, 'task': 'forward'}, forward, roles, extra=extra, **settings)
    leaf, grad = x.clone().requires_grad_(), torch.randn_like(x)
    leaves = {name: inputs[name].requires_grad_() for name in orders}
    both = {
        name: functools.partial(_backward, fn, leaves.get(name, leaf), grad)
        for name, fn in layered.items()
    }
    both = with_captured(both, *graphed)
    part.time({**case, 'task': 'forward+backward'}, both, roles, **settings)
    for name, why in missing.items():
        part.miss(case, name, why)

    # One product by itself, against the bytes it has to move.
    names = [BASELINE, 'torch CSR mm']
    single = {'propagate': functools.partial(propagate, adj=square)}
    single |= {name: products[name] for name in names if name in products}
    single = {name: functools.partial(_forward, fn, x) for name, fn in single.items()}
    single = with_captured(single, *graphed)
    one = {**case, 'task': 'one product'}
    size = graph.num_nodes, graph.num_nodes, square.nnz, channels, x.element_size()
    part.time(one, single, roles, **settings)
    part.add_rooflines(one, propagation_bytes(*size, 4 if part.device == 'cuda' else 8), bandwidth)


def _propagate_mean(graph: Graph, dtype: torch.dtype) -> Product:
    sizes = graph.num_users, graph.num_items
    adj = NormalizedAdjacency(graph.edge_index, num_nodes=sizes).to(dtype)

    def ours(x: Tensor) -> Tensor:
        pair = x.split(sizes)
        return torch.cat(propagate_mean((pair[0], pair[1]), adj, NUM_LAYERS))

    return ours


def rival_products(
    square: NormalizedAdjacency, channels: int
) -> tuple[dict[str, Product], dict[str, str]]:
    r"""Returns :math:`\hat{A} x` by each rival that is there, and why others are not."""
    # With int64 indices, as PyG hands them to all of these.
    index, value = square.to_edge_index()
    rowptr, col, size = square.rowptr.long(), index[1], (square.size(0), square.size(1))
    device = value.device.type
    # As it is usually built: sorted by rows, but not known to be coalesced.
    coo = torch.sparse_coo_tensor(index, value, size, check_invariants=False)
    coalesced = coo.coalesce()
    csr = torch.sparse_csr_tensor(rowptr, col, value, size, check_invariants=False)
    edge_index = EdgeIndex(index, sparse_size=size, sort_order='row', is_undirected=True)
    edge_index.fill_cache_()
    products: dict[str, Product] = {
        BASELINE: lambda x: torch.sparse.mm(coo, x),
        'torch COO, coalesced': lambda x: torch.sparse.mm(coalesced, x),
        'torch CSR mm': lambda x: csr @ x,
        'EdgeIndex.matmul': lambda x: edge_index.matmul(x, input_value=value),
    }
    missing: dict[str, str] = {}
    try:
        from torch_sparse import SparseTensor, matmul
    except ImportError:
        missing['torch_sparse.matmul'] = 'not installed'
    else:
        sparse = SparseTensor(
            rowptr=rowptr, col=col, value=value, sparse_sizes=size, is_sorted=True
        )
        products['torch_sparse.matmul'] = lambda x: matmul(sparse, x)
    needed = 2 * NUM_LAYERS * square.nnz * channels * value.element_size()
    if needed > _MAX_MESSAGES.get(device, 0):
        missing['PyG LGConv'] = f'left out: would hold {needed / 2**30:.0f} GiB of messages'
    else:
        conv = LGConv(normalize=False)
        products['PyG LGConv'] = lambda x: conv(x, index, value)
    return products, missing


def propagation_bytes(
    num_rows: int, num_columns: int, nnz: int, channels: int, itemsize: int, index: int = 8
) -> tuple[int, int]:
    r"""Requested and compulsory bytes of one product of a CSR matrix and dense rows."""
    matrix = nnz * (index + itemsize) + (num_rows + 1) * index
    written = num_rows * channels * itemsize
    return (
        matrix + nnz * channels * itemsize + written,
        matrix + num_columns * channels * itemsize + written,
    )


def reference_product(square: NormalizedAdjacency) -> Product:
    r"""Returns the product in double precision."""
    csr = torch.sparse_csr_tensor(
        square.rowptr,
        square.col,
        square.value.double(),
        (square.size(0), square.size(1)),
        check_invariants=False,
    )
    return lambda x: csr @ x


def _mean(product: Product, x: Tensor) -> Tensor:
    out = x
    for _ in range(NUM_LAYERS):
        x = product(x)
        out = out + x
    return out / (NUM_LAYERS + 1)


@torch.no_grad()
def _forward(fn: Product, x: Tensor) -> None:
    fn(x)


def _backward(fn: Product, x: Tensor, grad: Tensor) -> None:
    x.grad = None
    fn(x).backward(grad)


@torch.no_grad()
def _error(fn: Product, x: Tensor, reference: Tensor) -> dict[str, float]:
    # A rival that cannot do this type is reported by the timer.
    try:
        difference = (fn(x).double() - reference).abs().max()
    except Exception:
        return {}
    return {'relative_error': float(difference / reference.abs().max())}


if __name__ == '__main__':
    part_main('propagation', measure)
