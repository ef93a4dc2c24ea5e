r"""PyG transforms that add the graphs of multimodal recommenders to a data set."""

from mrdib_pyg.transforms.interest_graph import InterestGraph
from mrdib_pyg.transforms.item_graph_union import ItemGraphUnion
from mrdib_pyg.transforms.item_knn import ItemKNN
from mrdib_pyg.transforms.prune_edges import PruneEdges
from mrdib_pyg.transforms.second_order_graph import SecondOrderGraph
from mrdib_pyg.transforms.user_cooccurrence import UserCooccurrence

__all__ = [
    'InterestGraph',
    'ItemGraphUnion',
    'ItemKNN',
    'PruneEdges',
    'SecondOrderGraph',
    'UserCooccurrence',
]
