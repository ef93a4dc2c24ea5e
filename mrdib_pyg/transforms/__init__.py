r"""PyG transforms: the graphs of multimodal recommenders, and splits of their interactions."""

from mrdib_pyg.transforms.interaction_split import InteractionSplit
from mrdib_pyg.transforms.interest_graph import InterestGraph
from mrdib_pyg.transforms.item_graph_union import ItemGraphUnion
from mrdib_pyg.transforms.item_knn import ItemKNN
from mrdib_pyg.transforms.prune_edges import PruneEdges
from mrdib_pyg.transforms.second_order_graph import SecondOrderGraph
from mrdib_pyg.transforms.user_cooccurrence import UserCooccurrence

__all__ = [
    'InteractionSplit',
    'InterestGraph',
    'ItemGraphUnion',
    'ItemKNN',
    'PruneEdges',
    'SecondOrderGraph',
    'UserCooccurrence',
]
