import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.ops import NormalizedAdjacency, edge_cosine, knn_graph
from mrdib_pyg.transforms.item_features import available, modalities_of

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

    An item that lacks a modality, or has a row of zeros, keeps only a self-loop of weight one,
    and is nobody's neighbor.

    Args:
        k (int, optional): The number of neighbors, the item included. (default: :obj:`10`)
        modality (str or list[str], optional): The modalities. (default: :obj:`None`, all)
        form (str, optional): :obj:`"similarity"` or :obj:`"binary"`.
            (default: :obj:`"similarity"`)
        neighbors (dict[str, str or Tensor], optional): Per modality the neighbors that are given,
            as item ids ``[num_items, n]`` or as the ``.npy`` file of such an array, e.g.
            ``{'image': 'baby/image_knn.npy'}``. They are taken as they are, whatever :obj:`k`;
            negative ids are padding. The :obj:`"binary"` form needs no features then.
            (default: :obj:`None`)
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
        num_items = int(data['item'].num_nodes)
        if self.modality is None and len(self.neighbors) > 0:
            known = [key[2:] for key in data['item'].keys() if key.startswith('x_')]
            names = [*known, *(name for name in self.neighbors if name not in known)]
        elif isinstance(self.modality, str) or self.modality is not None:
            names = [self.modality] if isinstance(self.modality, str) else list(self.modality)
        else:
            names = modalities_of(data, None)
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
        given = name in self.neighbors
        if not given or self.form == 'similarity' or f'x_{name}' in data['item']:
            modalities_of(data, name)
            x, mask = data['item'][f'x_{name}'], available(data, name)
        else:
            x, mask = None, None
        if given:
            edge_index = _given_edges(self.neighbors[name], name, num_items)
            if mask is not None:
                edge_index = edge_index[:, mask[edge_index].all(dim=0)]
                absent = (~mask).nonzero().view(-1)
                edge_index = torch.cat([edge_index, absent.expand(2, -1)], dim=1)
        if self.form == 'binary':
            if not given:
                edge_index, _ = knn_graph(x, self.k, mask=mask, chunk_size=self.chunk_size)
            return edge_index, torch.ones(edge_index.size(1), device=edge_index.device)
        if not given:
            return knn_graph(x, self.k, mask=mask, chunk_size=self.chunk_size)
        edge_weight = edge_cosine(x if mask is None else x.where(mask[:, None], 0.0), edge_index)
        # The self-loops of rows without features among them.
        return edge_index, edge_weight.masked_fill_(edge_index[0] == edge_index[1], 1.0)

    def __repr__(self) -> str:
        # The name of cached data is made of this: given arrays go in by their content.
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
        raise ValueError(f'{what} name item {int(index.max())}, but there are {num_items} items')
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
