"""What every model reads of its data: how many users and items there are, and who took what."""

import warnings

from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce

EDGE = ('user', 'rates', 'item')


def num_nodes(data: HeteroData, name: str) -> int:
    r"""Returns the number of users or of items.

    Raises:
        ValueError: If it is not set.
    """
    with warnings.catch_warnings():  # that the number cannot be inferred, which is an error here
        warnings.simplefilter('ignore')
        size = data[name].num_nodes if name in data.node_types else None
    if size is None:
        raise ValueError(f"data['{name}'].num_nodes is not set: set it to the number of {name}s")
    return int(size)


def training_edges(data: HeteroData) -> Tensor:
    r"""Returns the training edges ``[2, E]``, sorted, each once.

    Raises:
        ValueError: If there is none.
    """
    store = data[EDGE] if EDGE in data.edge_types else {}
    if 'edge_index' not in store and 'adj_t' in store:
        raise ValueError(
            f"data{list(EDGE)} has an 'adj_t' but no 'edge_index', which is what models read; "
            f'leave out ToSparseTensor'
        )
    if 'edge_index' not in store or store['edge_index'].numel() == 0:
        raise ValueError(f"'data' has no training edge {EDGE}; nothing can be learned from it")
    # A repeated edge would weigh twice; products of ids may exceed 32 bits.
    return coalesce(store['edge_index'].long())
