import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import coalesce

from mrdib_pyg.ops import NormalizedAdjacency, edge_cosine, interest_counts
from mrdib_pyg.ops.normalize_rows import normalize_rows
from mrdib_pyg.transforms.item_features import available, modalities_of, train_edges
from mrdib_pyg.transforms.item_knn import ItemKNN

# Similarities that one chunk of items may hold: 32 MiB.
_MAX_SCORES = 2**23


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
    graph of :class:`ItemKNN`, which is taken from the data where it has one, and
    :math:`\mathrm{norm}(\mathbf{W})_{ij} = W_{ij} / \sqrt{r_i r_j}` with the row sums :math:`r`.

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
        names = modalities_of(data, None)
        num_items = int(data['item'].num_nodes)
        features = [data['item'][f'x_{name}'].float() for name in names]
        masks = [available(data, name) for name in names]
        pairs, count = interest_counts(
            train_edges(data),
            features,
            self.k,
            num_users=int(data['user'].num_nodes),
            masks=masks,
            chunk_size=self.chunk_size,
        )
        for name, x, mask in zip(names, features, masks):
            edge = ('item', f'{name}_knn', 'item')
            graph = data
            if edge not in data.edge_types:
                graph = ItemKNN(self.num_neighbors, name, chunk_size=self.chunk_size)(data)
            edge_index, weight = pairs, count
            if mask is not None:
                keep = mask[pairs].all(dim=0)
                edge_index, weight, x = pairs[:, keep], count[keep], x.where(mask[:, None], 0.0)
            weight = weight * _cosine(x, edge_index, self.chunk_size)
            keep = weight > 0
            edge_index, weight = edge_index[:, keep], weight[keep]
            if mask is not None:
                absent = (~mask).nonzero().view(-1)
                edge_index = torch.cat([edge_index, absent.expand(2, -1)], dim=1)
                weight = torch.cat([weight, weight.new_ones(absent.numel())])
            adj = NormalizedAdjacency(edge_index, weight, num_nodes=num_items)
            edge_index, weight = adj.to_edge_index()
            store = data['item', f'{name}_interest', 'item']
            store.edge_index, store.edge_weight = coalesce(
                torch.cat([edge_index, graph[edge].edge_index], dim=1),
                torch.cat([weight, graph[edge].edge_weight]),
                reduce='sum',
            )
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(k={self.k}, num_neighbors={self.num_neighbors})'


def _cosine(x: Tensor, edge_index: Tensor, chunk_size: int | None) -> Tensor:
    # A product of matrices costs less per pair than gathered rows, and pays off from a share of
    # the pairs on. The edges are sorted by row.
    num_items = x.size(0)
    if edge_index.size(1) < num_items * num_items / 100:
        return edge_cosine(x, edge_index)
    chunk_size = chunk_size or max(_MAX_SCORES // num_items, 1)
    x = normalize_rows(x)
    start = torch.arange(0, num_items + chunk_size, chunk_size, device=x.device)
    bounds = torch.searchsorted(edge_index[0].contiguous(), start).tolist()
    out = []
    for i, (begin, end) in enumerate(zip(bounds, bounds[1:])):
        rows = slice(i * chunk_size, (i + 1) * chunk_size)
        row, col = edge_index[:, begin:end]
        out.append((x[rows] @ x.t())[row - i * chunk_size, col])
    return torch.cat(out).clamp_(-1, 1)
