import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.ops import prune_edges
from mrdib_pyg.transforms.item_features import EDGE, train_edges


@functional_transform('prune_edges')
class PruneEdges(BaseTransform):
    r"""Drops training edges at random, those between nodes of high degree more often, by the
    degree-sensitive pruning of `"A Tale of Two Graphs: Freezing and Denoising Graph Structures for
    Multimodal Recommendation" <https://arxiv.org/abs/2211.06924>`_. See
    :func:`~mrdib_pyg.ops.prune_edges`.

    The edges that are left are sorted and without repeats; of a repeated edge the attributes of its
    first entry are kept.

    Args:
        ratio (float, optional): The ratio of edges to drop. (default: :obj:`0.8`)
        seed (int, optional): Seeds each draw, so that all are the same; by default each is
            another, by the global seed. (default: :obj:`None`)
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
        num_nodes = (int(data['user'].num_nodes), int(data['item'].num_nodes))
        kept = prune_edges(edge_index, self.ratio, num_nodes=num_nodes, generator=generator)
        store = data[EDGE]
        for key, value in list(store.items()):
            if key != 'edge_index' and isinstance(value, Tensor) and store.is_edge_attr(key):
                store[key] = value[perm[kept]]
        store.edge_index = edge_index[:, kept]
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(ratio={self.ratio}, seed={self.seed})'


def _sorted(data: HeteroData) -> tuple[Tensor, Tensor]:
    # The training edges, sorted and without repeats, and where each first stands in the data.
    edge_index = train_edges(data)
    num_items = int(data['item'].num_nodes)
    given = data[EDGE].edge_index.long()
    code = given[0] * num_items + given[1]
    order = code.argsort(stable=True)
    place = torch.searchsorted(code[order], edge_index[0] * num_items + edge_index[1])
    return edge_index, order[place]
