import warnings
from collections.abc import Callable

import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.ops import NormalizedAdjacency


def weighted_graph(
    data: HeteroData,
    relation: str,
    transform: Callable[[HeteroData], HeteroData] | None = None,
    src: str = 'item',
    is_mean: bool = False,
) -> NormalizedAdjacency:
    r"""Returns the edges ``(src, relation, 'item')`` of the data as a matrix, with their weights
    as they are; where the data has none, those that a transform makes.

    With :obj:`is_mean` a row is meant to be a mean, as of the ``'binary'`` form of
    :class:`~mrdib_pyg.transforms.ItemKNN`: a warning tells if the weights of one do not sum to one.

    Raises:
        ValueError: If the edges of the data have no weights.
    """
    edge = (src, relation, 'item')
    if transform is not None and edge not in data.edge_types:
        data = transform(data)
    store = data[edge]
    if 'edge_weight' not in store:
        raise ValueError(f'the edges {edge} of the data have no edge_weight')
    if is_mean:
        total = torch.zeros(int(data[src].num_nodes), dtype=torch.double)
        row, weight = store.edge_index[0].cpu().long(), store.edge_weight.detach().cpu().double()
        total.index_add_(0, row, weight)
        if bool(((total - 1).abs() > 1e-3)[total != 0].any()):
            warnings.warn(
                f'the weights of {edge} do not sum to one for each item, as those of the form '
                f"'binary' do: they are taken as they are; without these edges the model makes its "
                f'own',
                stacklevel=3,
            )
    num_nodes = (int(data[src].num_nodes), int(data['item'].num_nodes))
    return NormalizedAdjacency(
        store.edge_index,
        store.edge_weight,
        num_nodes=num_nodes[1] if src == 'item' else num_nodes,
        normalization=None,
    )
