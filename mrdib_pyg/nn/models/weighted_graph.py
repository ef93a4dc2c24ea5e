from collections.abc import Callable

from torch_geometric.data import HeteroData

from mrdib_pyg.ops import NormalizedAdjacency


def weighted_graph(
    data: HeteroData,
    relation: str,
    transform: Callable[[HeteroData], HeteroData] | None = None,
    src: str = 'item',
) -> NormalizedAdjacency:
    r"""Returns the edges ``(src, relation, 'item')`` of the data as a matrix, with their weights
    as they are; where the data has none, those that a transform makes.

    Raises:
        ValueError: If the edges of the data have no weights.
    """
    edge = (src, relation, 'item')
    if transform is not None and edge not in data.edge_types:
        data = transform(data)
    store = data[edge]
    if 'edge_weight' not in store:
        raise ValueError(f'the edges {edge} of the data have no edge_weight')
    num_nodes = (int(data[src].num_nodes), int(data['item'].num_nodes))
    return NormalizedAdjacency(
        store.edge_index,
        store.edge_weight,
        num_nodes=num_nodes[1] if src == 'item' else num_nodes,
        normalization=None,
    )
