r"""PyG transforms: graphs of multimodal recommenders, splits, and missing modalities."""

from mrdib_pyg.transforms.item_graphs import (
    InterestGraph,
    ItemGraphUnion,
    ItemKNN,
    PruneEdges,
    SecondOrderGraph,
    UserCooccurrence,
)
from mrdib_pyg.transforms.missing import FillMissing, MaskModality
from mrdib_pyg.transforms.splits import ColdItemSplit, InteractionSplit

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
