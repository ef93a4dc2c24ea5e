from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.ops import second_order_edges
from mrdib_pyg.transforms.item_features import available, modalities_of, train_edges


@functional_transform('second_order_graph')
class SecondOrderGraph(BaseTransform):
    r"""Adds the second-order graph of "SOIL: Contrastive Second-Order Interest Learning for
    Multimodal Recommendation" (ACM Multimedia 2024), from users to items that those they know
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
        names = modalities_of(data, None)
        store = data['user', 'second_order', 'item']
        store.edge_index, store.edge_weight = second_order_edges(
            train_edges(data),
            [data['item'][f'x_{name}'] for name in names],
            self.k,
            self.rule,
            num_users=int(data['user'].num_nodes),
            masks=[available(data, name) for name in names],
            chunk_size=self.chunk_size,
        )
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(k={self.k}, rule={self.rule!r})'
