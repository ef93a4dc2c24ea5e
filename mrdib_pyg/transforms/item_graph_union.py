import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import coalesce

from mrdib_pyg.transforms.item_features import modalities_of
from mrdib_pyg.transforms.item_knn import ItemKNN


@functional_transform('item_graph_union')
class ItemGraphUnion(BaseTransform):
    r"""Adds the weighted union of the item graphs of all modalities, the frozen item graph of `"A
    Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation"
    <https://arxiv.org/abs/2211.06924>`_, as edges ``('item', 'union', 'item')`` with an
    ``edge_weight``,

    .. math::
        \mathbf{S} = \sum_m w_m \mathbf{S}_m, \quad \sum_m w_m = 1

    of the graphs ``('item', '<modality>_knn', 'item')`` or, where the data has none, of those of
    :class:`ItemKNN` in the binary form, so that each row of the union sums to one. An item that
    lacks a modality shares its weight among those it has; without any, its row is empty.

    Args:
        weights (dict[str, float], optional): The weight of each modality; they are divided by
            their sum. (default: :obj:`None`, see :func:`modality_weights`)
        k (int, optional): The number of neighbors where a graph is to be made.
            (default: :obj:`10`)

    Raises:
        ValueError: If a weight is missing, negative, or all are zero.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, k: int = 10) -> None:
        self.weights = None if weights is None else dict(weights)
        self.k = k

    def forward(self, data: HeteroData) -> HeteroData:
        names = modalities_of(data, None)
        weight = item_weights(data, names, self.weights)
        edges, values = [], []
        for m, name in enumerate(names):
            edge = ('item', f'{name}_knn', 'item')
            graph = data
            if edge not in data.edge_types:
                graph = ItemKNN(self.k, name, form='binary')(data)
            edge_index = graph[edge].edge_index.long()
            edges.append(edge_index)
            values.append(graph[edge].edge_weight * weight[edge_index[0], m])
        store = data['item', 'union', 'item']
        value = torch.cat(values)
        keep = value > 0
        store.edge_index, store.edge_weight = coalesce(
            torch.cat(edges, dim=1)[:, keep], value[keep], reduce='sum'
        )
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(weights={self.weights}, k={self.k})'


def modality_weights(names: list[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    r"""Returns a weight per modality, with a sum of one: those given or, without any, 0.1 for
    images and 0.9 for texts where these are the two modalities, and equal ones elsewhere.

    Raises:
        ValueError: If a weight is missing, unknown, negative, or all are zero.
    """
    if weights is None:
        pair = {'image': 0.1, 'visual': 0.1, 'text': 0.9}
        if len(names) == 2 and 'text' in names and all(name in pair for name in names):
            return {name: pair[name] for name in names}
        return {name: 1.0 / len(names) for name in names}
    if set(weights) != set(names):
        raise ValueError(
            f'the weights name {sorted(weights)}, but the modalities are {sorted(names)}'
        )
    total = sum(weights.values())
    if not (0 < total < math.inf and min(weights.values()) >= 0):
        raise ValueError(f'weights must not be negative, nor all zero (got {dict(weights)})')
    return {name: weights[name] / total for name in names}


def item_weights(data: HeteroData, names: list[str], weights: Mapping[str, float] | None) -> Tensor:
    r"""Returns the weight of each modality for each item, ``[num_items, M]``: that of a modality
    an item lacks is shared among those it has. Without any, all are zero.
    """
    given = torch.tensor(list(modality_weights(names, weights).values()))
    out = given.repeat(int(data['item'].num_nodes), 1)
    is_full = True
    for m, name in enumerate(names):
        if f'has_{name}' in data['item']:
            has = data['item'][f'has_{name}'].bool().cpu()
            is_full &= bool(has.all())
            out[~has, m] = 0.0
    if is_full:  # no division, so that a mask of ones changes no bit
        return out
    total = out.sum(dim=1, keepdim=True)
    return out / total.masked_fill(total == 0, 1.0)
