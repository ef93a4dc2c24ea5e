from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.ops import cooccurrence_graph

EDGE = ('user', 'rates', 'item')


class UserCooccurrence(BaseTransform):
    r"""Adds the user graph of `"DualGNN: Dual Graph Neural Network for Multimedia Recommendation"
    <https://doi.org/10.1109/TMM.2021.3138298>`_: edges ``('user', 'cooccurrence', 'user')`` from
    each user to those with the most items in common, and their ``edge_weight``.

    .. math::
        c_{uv} = |\mathcal{N}_u \cap \mathcal{N}_v|, \quad
        w_{uv} = \frac{\exp(c_{uv})}{\sum_{v'} \exp(c_{uv'})}

    Only training edges ``('user', 'rates', 'item')`` are read. Among equal counts the user of lower
    id is kept; a user who shares no item has no edge. See
    :func:`~mrdib_pyg.ops.cooccurrence_graph`.

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
        if weighting not in ('softmax', 'mean'):
            raise ValueError(f"'weighting' must be 'softmax' or 'mean' (got '{weighting}')")
        self.k = k
        self.weighting = weighting

    def forward(self, data: HeteroData) -> HeteroData:
        if EDGE not in data.edge_types:
            raise ValueError(f"'data' has no training edges {EDGE} to count common items in")
        edge_index, edge_weight = cooccurrence_graph(
            data[EDGE].edge_index, int(data['user'].num_nodes), self.k, weighting=self.weighting
        )
        store = data['user', 'cooccurrence', 'user']
        store.edge_index, store.edge_weight = edge_index, edge_weight
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.k}, weighting={self.weighting!r})'
