r"""PyG transforms: graphs of multimodal recommenders, splits, and what is missing or held out."""

from mrdib_pyg.transforms.cold_item_split import ColdItemSplit
from mrdib_pyg.transforms.fill_missing import FillMissing
from mrdib_pyg.transforms.interaction_split import InteractionSplit
from mrdib_pyg.transforms.interest_graph import InterestGraph
from mrdib_pyg.transforms.item_graph_union import ItemGraphUnion
from mrdib_pyg.transforms.item_knn import ItemKNN
from mrdib_pyg.transforms.mask_modality import MaskModality
from mrdib_pyg.transforms.prune_edges import PruneEdges
from mrdib_pyg.transforms.second_order_graph import SecondOrderGraph
from mrdib_pyg.transforms.user_cooccurrence import UserCooccurrence

__all__ = [
    'ColdItemSplit',
    'FillMissing',
    'InteractionSplit',
    'InterestGraph',
    'ItemGraphUnion',
    'ItemKNN',
    'MaskModality',
    'PruneEdges',
    'SecondOrderGraph',
    'UserCooccurrence',
]
