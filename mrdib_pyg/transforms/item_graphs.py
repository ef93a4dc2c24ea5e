"""Graphs of items and of users as transforms, and the pruning of training edges."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.data.storage import EdgeStorage
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import coalesce

from mrdib_pyg.interactions import (
    TRAIN_EDGE,
    modalities_of,
    modality_mask,
    num_nodes,
    training_edges,
)
from mrdib_pyg.ops import NormalizedAdjacency, feature_knn_graph
from mrdib_pyg.ops.interest_graphs import interest_counts, second_order_edges
from mrdib_pyg.ops.item_graphs import (
    MAX_SCORES,
    WEIGHTINGS,
    cooccurrence_graph,
    edge_cosine,
    prune_edges,
)
from mrdib_pyg.ops.rows import normalize_rows, rows_per_chunk


def chosen_modalities(data: HeteroData, modality: None | str | Sequence[str] = None) -> list[str]:
    r"""Returns the modalities asked for, or all of the items; at least one, with features."""
    known = modalities_of(data)
    names = [modality] if isinstance(modality, str) else list(modality or known)
    for name in names:
        if name not in known:
            raise ValueError(
                f"'modality' must be among {known} (got {name!r}); set data['item'].x_{name}, or "
                f'leave it out'
            )
    if len(names) == 0:
        raise ValueError("'data' must have item features (got none); set data['item'].x_<modality>")
    return names


def available(data: HeteroData, name: str) -> Tensor | None:
    r"""Returns the mask of the items that have a modality, or :obj:`None` if all do. A row of zeros
    has no direction, hence no neighbors: it counts as missing.
    """
    mask = (data['item'][f'x_{name}'] != 0).any(dim=1)
    given = modality_mask(data, name)
    if given is not None:
        mask &= given
    return None if bool(mask.all()) else mask


def _with_loops(edge_index: Tensor, mask: Tensor) -> Tensor:
    # Adds a self-loop of each item that is masked.
    return torch.cat([edge_index, (~mask).nonzero().view(-1).expand(2, -1)], dim=1)


def _neighbor_graph(data: HeteroData, name: str, transform: 'ItemKNN') -> EdgeStorage:
    # The modality's graph of the data, or else of the transform.
    edge = ('item', f'{name}_knn', 'item')
    return (data if edge in data.edge_types else transform(data))[edge]


FORMS = ('similarity', 'binary')

#: The neighbors of all items: an array ``[num_items, n]`` of item ids, or the ``.npy`` file of one.
Neighbors = str | os.PathLike | np.ndarray | Tensor


@functional_transform('item_knn')
class ItemKNN(BaseTransform):
    r"""Adds, per modality, the graph of each item's :math:`k` most cosine-similar items, itself
    included, as edges ``('item', '<modality>_knn', 'item')`` with an ``edge_weight``.

    With the cosines :math:`w_{ij} \ge 0` (negative ones are set to zero) on the edges that are
    kept, and their row sums :math:`r_i`, the weights are

    .. math::
        \frac{w_{ij}}{\sqrt{r_i r_j}} \;\; (\textrm{'similarity'}), \qquad
        \frac{1}{|\mathcal{N}_i|} \;\; (\textrm{'binary'})

    as in `"Multi-View Graph Convolutional Network for Multimedia Recommendation"
    <https://arxiv.org/abs/2308.03588>`_ and in `"A Tale of Two Graphs: Freezing and Denoising Graph
    Structures for Multimodal Recommendation" <https://arxiv.org/abs/2211.06924>`_. The graph is
    directed; among equally similar items those of lower id are kept.

    An item that lacks a modality, or has a row of zeros, keeps only a self-loop of weight one.

    Args:
        k (int, optional): The number of neighbors, the item included. (default: :obj:`10`)
        modality (str or list[str], optional): The modalities. (default: :obj:`None`, all)
        form (str, optional): :obj:`"similarity"` or :obj:`"binary"`.
            (default: :obj:`"similarity"`)
        neighbors (dict[str, str or Tensor], optional): Per modality the given neighbors as item
            ids ``[num_items, n]``, or the ``.npy`` file of such an array, e.g.
            ``{'image': 'baby/image_knn.npy'}``. They are used whatever :obj:`k`; negative ids are
            padding. With them the :obj:`"binary"` form needs no features. (default: :obj:`None`)
        chunk_size (int, optional): The number of items to compare at a time. (default:
            :obj:`None`, chosen by the number of items)

    Raises:
        ValueError: If a setting is out of range or unknown, or given neighbors do not fit.
    """

    def __init__(
        self,
        k: int = 10,
        modality: None | str | Sequence[str] = None,
        form: str = 'similarity',
        neighbors: Mapping[str, Neighbors] | None = None,
        chunk_size: int | None = None,
    ) -> None:
        if k < 1:
            raise ValueError(f"'k' must be at least 1 (got {k})")
        if form not in FORMS:
            raise ValueError(f"'form' must be one of {list(FORMS)} (got {form!r})")
        self.k = k
        self.modality = modality
        self.form = form
        self.neighbors = dict(neighbors or {})
        self.chunk_size = chunk_size

    def forward(self, data: HeteroData) -> HeteroData:
        num_items = num_nodes(data, 'item')
        if self.modality is not None:
            names = [self.modality] if isinstance(self.modality, str) else list(self.modality)
        elif len(self.neighbors) > 0:
            names = list(dict.fromkeys([*modalities_of(data), *self.neighbors]))
        else:
            names = chosen_modalities(data)
        for name in names:
            edge_index, edge_weight = self._edges(data, name, num_items)
            keep = edge_weight > 0
            adj = NormalizedAdjacency(
                edge_index[:, keep],
                edge_weight[keep],
                num_nodes=num_items,
                normalization='left' if self.form == 'binary' else 'sym',
            )
            store = data['item', f'{name}_knn', 'item']
            store.edge_index, store.edge_weight = adj.to_edge_index()
        return data

    def _edges(self, data: HeteroData, name: str, num_items: int) -> tuple[Tensor, Tensor]:
        given = self.neighbors.get(name)
        x: Any = None
        mask, edge_weight = None, torch.empty(0)
        if given is None or self.form == 'similarity' or f'x_{name}' in data['item']:
            chosen_modalities(data, name)
            x, mask = data['item'][f'x_{name}'], available(data, name)
        if given is None:
            edge_index, edge_weight = feature_knn_graph(
                x, self.k, mask=mask, chunk_size=self.chunk_size
            )
        else:
            edge_index = _given_edges(given, name, num_items)
            if mask is not None:
                edge_index = _with_loops(edge_index[:, mask[edge_index].all(dim=0)], mask)
                x = x.where(mask[:, None], 0.0)
            if self.form == 'similarity':
                edge_weight = edge_cosine(x, edge_index)
                # Including the self-loops of rows without features.
                edge_weight.masked_fill_(edge_index[0] == edge_index[1], 1.0)
        if self.form == 'binary':
            edge_weight = torch.ones(edge_index.size(1), device=edge_index.device)
        return edge_index, edge_weight

    def __repr__(self) -> str:
        # Part of the name of cached data, so given arrays are hashed.
        neighbors = {name: _describe(given) for name, given in self.neighbors.items()}
        return (
            f'{self.__class__.__name__}(k={self.k}, modality={self.modality!r}, '
            f'form={self.form!r}, neighbors={neighbors})'
        )


def _given_edges(given: Neighbors, name: str, num_items: int) -> Tensor:
    index: Any = given
    if isinstance(given, (str, os.PathLike)):
        index = np.load(given, allow_pickle=False)
    index = torch.as_tensor(index)
    what = f"the neighbors of '{name}'"
    if index.dim() != 2 or index.size(0) != num_items or index.is_floating_point():
        raise ValueError(
            f'{what} must be item ids with a row for each of the {num_items} items (got '
            f'{index.dtype} of the shape {list(index.shape)})'
        )
    index = index.long()
    if index.numel() > 0 and int(index.max()) >= num_items:
        raise ValueError(f'{what} must be below {num_items} (got {int(index.max())})')
    row = torch.arange(num_items).repeat_interleave(index.size(1))
    col = index.reshape(-1).cpu()
    code = torch.unique((row * num_items + col)[col >= 0])
    return torch.stack([code // num_items, code % num_items]).to(index.device)


def _describe(given: Neighbors) -> str:
    if isinstance(given, (str, os.PathLike)):
        stat = os.stat(given)
        return f'{os.fspath(given)} {stat.st_size} {stat.st_mtime_ns}'
    array = np.ascontiguousarray(torch.as_tensor(given).cpu().numpy())
    return hashlib.sha256(array.data).hexdigest()[:16]


@functional_transform('item_graph_union')
class ItemGraphUnion(BaseTransform):
    r"""Adds the weighted union of the item graphs of all modalities, the frozen item graph of `"A
    Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation"
    <https://arxiv.org/abs/2211.06924>`_, as edges ``('item', 'union', 'item')`` with an
    ``edge_weight``,

    .. math::
        \mathbf{S} = \sum_m w_m \mathbf{S}_m, \quad \sum_m w_m = 1

    of the graphs ``('item', '<modality>_knn', 'item')`` of the data or else of :class:`ItemKNN` in
    the binary form, so that each row of the union sums to one. An item that lacks a modality shares
    its weight among the others; without any, its row is empty.

    Args:
        weights (dict[str, float], optional): The weight of each modality, divided by their sum.
            (default: :obj:`None`: 0.1 for images and 0.9 for texts where these are the two
            modalities, equal ones elsewhere)
        k (int, optional): The number of neighbors in graphs of :class:`ItemKNN`.
            (default: :obj:`10`)

    Raises:
        ValueError: If a weight is missing, negative, or all are zero.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, k: int = 10) -> None:
        self.weights = None if weights is None else dict(weights)
        self.k = k

    def forward(self, data: HeteroData) -> HeteroData:
        names = chosen_modalities(data)
        weight = item_weights(data, names, self.weights)
        edges, values = [], []
        for m, name in enumerate(names):
            graph = _neighbor_graph(data, name, ItemKNN(self.k, name, form='binary'))
            edge_index = graph.edge_index.long()
            edges.append(edge_index)
            values.append(graph.edge_weight * weight[edge_index[0], m])
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
    r"""Returns a weight per modality, with a sum of one: the given ones, else 0.1 for images and
    0.9 for texts where these are the two modalities, else equal ones.
    """
    if weights is None:
        pair = {'image': 0.1, 'visual': 0.1, 'text': 0.9}
        if len(names) == 2 and 'text' in names and all(name in pair for name in names):
            return {name: pair[name] for name in names}
        return {name: 1.0 / len(names) for name in names}
    if set(weights) != set(names):
        raise ValueError(
            f"'weights' must name the modalities {sorted(names)} (got {sorted(weights)})"
        )
    total = sum(weights.values())
    if not (0 < total < math.inf and min(weights.values()) >= 0):
        raise ValueError(f"'weights' must not be negative, nor all zero (got {dict(weights)})")
    return {name: weights[name] / total for name in names}


def item_weights(data: HeteroData, names: list[str], weights: Mapping[str, float] | None) -> Tensor:
    r"""Returns the weight of each modality for each item, ``[num_items, M]``. That of a missing
    modality is shared among the others; without any, all are zero.
    """
    given = torch.tensor(list(modality_weights(names, weights).values()))
    out = given.repeat(num_nodes(data, 'item'), 1)
    is_full = True
    for m, name in enumerate(names):
        has = modality_mask(data, name)
        if has is not None:
            is_full &= bool(has.all())
            out[~has.cpu(), m] = 0.0
    if is_full:  # no division, so that a mask of ones changes no bit
        return out
    return share(out)


def share(weight: Tensor) -> Tensor:
    r"""Divides each row by its sum; a row of zeros stays."""
    total = weight.sum(dim=1, keepdim=True)
    return weight / total.masked_fill(total == 0, 1.0)


@functional_transform('interest_graph')
class InterestGraph(BaseTransform):
    r"""Adds, per modality, the interest-aware item graph of "SOIL: Contrastive Second-Order
    Interest Learning for Multimodal Recommendation" (ACM Multimedia 2024) as edges
    ``('item', '<modality>_interest', 'item')`` with an ``edge_weight``,

    .. math::
        \mathbf{G}_m = \mathrm{norm}(\mathbf{W}_m) + \mathrm{norm}(\tilde{\mathbf{S}}_m), \quad
        W_{m,ij} = \nu_{ij} \max(0, \cos(\mathbf{x}_{m,i}, \mathbf{x}_{m,j}))

    where :math:`\nu_{ij}` counts the users who know item :math:`i` and whose profile is close to
    item :math:`j` (:func:`~mrdib_pyg.ops.interest_counts`), :math:`\tilde{\mathbf{S}}_m` is the
    :class:`ItemKNN` graph of the data or a new one, and :math:`\mathrm{norm}(\mathbf{W})_{ij} =
    W_{ij} / \sqrt{r_i r_j}` with the row sums :math:`r`.

    Args:
        k (int, optional): The number of items a user is interested in, per modality.
            (default: :obj:`10`)
        num_neighbors (int, optional): The number of neighbors in the graph of :class:`ItemKNN`.
            (default: :obj:`10`)
        chunk_size (int, optional): The number of users or items to compare at a time. (default:
            :obj:`None`, chosen by the number of items)
    """

    def __init__(self, k: int = 10, num_neighbors: int = 10, chunk_size: int | None = None) -> None:
        self.k = k
        self.num_neighbors = num_neighbors
        self.chunk_size = chunk_size

    def forward(self, data: HeteroData) -> HeteroData:
        names = chosen_modalities(data)
        features = [data['item'][f'x_{name}'].float() for name in names]
        masks = [available(data, name) for name in names]
        pairs, count = interest_counts(
            training_edges(data),
            features,
            self.k,
            num_users=num_nodes(data, 'user'),
            masks=masks,
            chunk_size=self.chunk_size,
        )
        for name, x, mask in zip(names, features, masks):
            knn = ItemKNN(self.num_neighbors, name, chunk_size=self.chunk_size)
            graph = _neighbor_graph(data, name, knn)
            edge_index, weight = pairs, count
            if mask is not None:
                keep = mask[pairs].all(dim=0)
                edge_index, weight, x = pairs[:, keep], count[keep], x.where(mask[:, None], 0.0)
            weight = weight * _cosine(x, edge_index, self.chunk_size)
            keep = weight > 0
            edge_index, weight = edge_index[:, keep], weight[keep]
            if mask is not None:
                edge_index = _with_loops(edge_index, mask)
                weight = torch.cat([weight, weight.new_ones(int((~mask).sum()))])
            adj = NormalizedAdjacency(edge_index, weight, num_nodes=x.size(0))
            edge_index, weight = adj.to_edge_index()
            store = data['item', f'{name}_interest', 'item']
            store.edge_index, store.edge_weight = coalesce(
                torch.cat([edge_index, graph.edge_index], dim=1),
                torch.cat([weight, graph.edge_weight]),
                reduce='sum',
            )
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(k={self.k}, num_neighbors={self.num_neighbors})'


def _cosine(x: Tensor, edge_index: Tensor, chunk_size: int | None) -> Tensor:
    # Many pairs are cheaper by a product of matrices than by gathered rows. The edges are sorted.
    num_items = x.size(0)
    if edge_index.size(1) < num_items * num_items / 100:
        return edge_cosine(x, edge_index)
    chunk_size = chunk_size or rows_per_chunk(num_items, x.device, MAX_SCORES)
    x = normalize_rows(x)
    start = torch.arange(0, num_items + chunk_size, chunk_size, device=x.device)
    bounds = torch.searchsorted(edge_index[0].contiguous(), start).tolist()
    out = []
    for i, (begin, end) in enumerate(zip(bounds, bounds[1:])):
        rows = slice(i * chunk_size, (i + 1) * chunk_size)
        row, col = edge_index[:, begin:end]
        out.append((x[rows] @ x.t())[row - i * chunk_size, col])
    return torch.cat(out).clamp_(-1, 1)


@functional_transform('second_order_graph')
class SecondOrderGraph(BaseTransform):
    r"""Adds the second-order graph of "SOIL: Contrastive Second-Order Interest Learning for
    Multimodal Recommendation" (ACM Multimedia 2024), from users to the items that their items
    attract, as edges ``('user', 'second_order', 'item')`` with an ``edge_weight``. See
    :func:`~mrdib_pyg.ops.second_order_edges`.

    Args:
        k (int, optional): The number of second-order edges of a user. (default: :obj:`2`)
        rule (str, optional): :obj:`"public"`, the rule of the public code, or
            :obj:`"unrecorded"`, that of the paper. (default: :obj:`"public"`)
        chunk_size (int, optional): The number of items to compare at a time. (default:
            :obj:`None`, chosen by the number of items)
    """

    def __init__(self, k: int = 2, rule: str = 'public', chunk_size: int | None = None) -> None:
        self.k = k
        self.rule = rule
        self.chunk_size = chunk_size

    def forward(self, data: HeteroData) -> HeteroData:
        names = chosen_modalities(data)
        store = data['user', 'second_order', 'item']
        store.edge_index, store.edge_weight = second_order_edges(
            training_edges(data),
            [data['item'][f'x_{name}'] for name in names],
            self.k,
            self.rule,
            num_users=num_nodes(data, 'user'),
            masks=[available(data, name) for name in names],
            chunk_size=self.chunk_size,
        )
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(k={self.k}, rule={self.rule!r})'


class UserCooccurrence(BaseTransform):
    r"""Adds the user graph of `"DualGNN: Dual Graph Neural Network for Multimedia Recommendation"
    <https://doi.org/10.1109/TMM.2021.3138298>`_: edges ``('user', 'cooccurrence', 'user')`` from
    each user to those with the most items in common, and their ``edge_weight``.

    .. math::
        c_{uv} = |\mathcal{N}_u \cap \mathcal{N}_v|, \quad
        w_{uv} = \frac{\exp(c_{uv})}{\sum_{v'} \exp(c_{uv'})}

    Only training edges are read. See :func:`~mrdib_pyg.ops.cooccurrence_graph`.

    Args:
        k (int, optional): The largest number of neighbors of a user. (default: :obj:`40`)
        weighting (str, optional): :obj:`"softmax"` over the counts of the neighbors that are kept,
            or :obj:`"mean"` for equal weights. (default: :obj:`"softmax"`)

    Raises:
        ValueError: If a setting is unknown or not positive, or the data has no training edges.
    """

    def __init__(self, k: int = 40, weighting: str = 'softmax') -> None:
        if k < 1:
            raise ValueError(f"'k' must be at least 1 (got {k})")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"'weighting' must be one of {list(WEIGHTINGS)} (got {weighting!r})")
        self.k = k
        self.weighting = weighting

    def forward(self, data: HeteroData) -> HeteroData:
        store = data['user', 'cooccurrence', 'user']
        store.edge_index, store.edge_weight = cooccurrence_graph(
            training_edges(data), num_nodes(data, 'user'), self.k, weighting=self.weighting
        )
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.k}, weighting={self.weighting!r})'


@functional_transform('prune_edges')
class PruneEdges(BaseTransform):
    r"""Drops training edges at random, more often between nodes of high degree, by the
    degree-sensitive pruning of `"A Tale of Two Graphs: Freezing and Denoising Graph Structures for
    Multimodal Recommendation" <https://arxiv.org/abs/2211.06924>`_. See
    :func:`~mrdib_pyg.ops.prune_edges`.

    The remaining edges are sorted and without repeats. A repeated edge keeps the attributes of its
    first entry.

    Args:
        ratio (float, optional): The ratio of edges to drop. (default: :obj:`0.8`)
        seed (int, optional): Makes every draw the same. (default: :obj:`None`, the global seed)
    """

    def __init__(self, ratio: float = 0.8, seed: int | None = None) -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"'ratio' must lie in [0, 1) (got {ratio})")
        self.ratio = ratio
        self.seed = seed

    def forward(self, data: HeteroData) -> HeteroData:
        edge_index, perm = _sorted(data)
        generator = None
        if self.seed is not None:
            generator = torch.Generator(edge_index.device).manual_seed(self.seed)
        size = num_nodes(data, 'user'), num_nodes(data, 'item')
        kept = prune_edges(edge_index, self.ratio, num_nodes=size, generator=generator)
        store = data[TRAIN_EDGE]
        for key, value in list(store.items()):
            if key != 'edge_index' and isinstance(value, Tensor) and store.is_edge_attr(key):
                store[key] = value[perm[kept]]
        store.edge_index = edge_index[:, kept]
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(ratio={self.ratio}, seed={self.seed})'


def _sorted(data: HeteroData) -> tuple[Tensor, Tensor]:
    # The training edges, sorted and without repeats, and their first positions in the data.
    edge_index, given = training_edges(data), data[TRAIN_EDGE].edge_index.long()
    if edge_index.size(1) == given.size(1) and torch.equal(edge_index, given):
        return edge_index, torch.arange(edge_index.size(1), device=edge_index.device)
    num_items = num_nodes(data, 'item')
    code = given[0] * num_items + given[1]
    order = code.argsort(stable=True)
    place = torch.searchsorted(code[order], edge_index[0] * num_items + edge_index[1])
    return edge_index, order[place]
