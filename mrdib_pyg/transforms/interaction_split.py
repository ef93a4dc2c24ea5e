import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.datasets.folder import SPLITS
from mrdib_pyg.datasets.splits import SPLIT_NAMES, split_interactions

EDGE = ('user', 'rates', 'item')


class InteractionSplit(BaseTransform):
    r"""Splits the interactions of training, validation and test anew: their edges are put together,
    a pair that comes twice once, and divided by
    :func:`~mrdib_pyg.datasets.split_interactions`.

    Graphs that were made of the training edges, those of users and the interest-aware ones of
    items, would tell of edges that are held out now, and are left out, as are attributes of edges
    other than :obj:`time`: make them afterwards.

    Args:
        strategy (str, optional): :obj:`"random"` for a draw per user, :obj:`"leave_one_out"` for
            the last two interactions of each user, or :obj:`"temporal"` for two moments that are
            the same for all. The last two read the attribute :obj:`time` of each of the three edge
            types, which :class:`~mrdib_pyg.datasets.InteractionFolder` has with
            :obj:`timestamps=True`. (default: :obj:`"random"`)
        seed (int, optional): Of :obj:`"random"`. (default: :obj:`0`)
        ratios (tuple, optional): Of :obj:`"temporal"`: the shares of training, validation and test.
            (default: :obj:`(0.8, 0.1, 0.1)`)

    Raises:
        ValueError: If a setting is unknown, or the data lack what the strategy needs.

    Example:
        >>> data = InteractionFolder('data/baby', pre_transform=InteractionSplit(seed=1))[0]
        >>> data = InteractionFolder('data/shop', timestamps=True,
        ...                          pre_transform=InteractionSplit('temporal'))[0]
    """

    def __init__(
        self,
        strategy: str = 'random',
        seed: int = 0,
        ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
    ) -> None:
        if strategy not in SPLIT_NAMES:
            raise ValueError(f"'strategy' must be one of {list(SPLIT_NAMES)} (got {strategy!r})")
        self.strategy, self.seed, self.ratios = strategy, seed, ratios

    def forward(self, data: HeteroData) -> HeteroData:
        if EDGE not in data.edge_types:
            raise ValueError(f"'data' has no training edges {EDGE} to split")
        split = [('user', relation, 'item') for _, relation in SPLITS]
        stores = {edge[1]: data[edge] for edge in split if edge in data.edge_types}
        for edge in data.edge_types:
            is_made = 'user' in edge[::2] or edge[1].endswith('_interest')
            if is_made and edge not in split:
                del data[edge]
        # A random split does not read the times, but they go along with their edges.
        timed = self.strategy != 'random' or all('time' in x for x in stores.values())
        indices: list[Tensor] = []
        times: list[Tensor] = []
        for relation, store in stores.items():
            indices.append(store['edge_index' if relation == EDGE[1] else 'edge_label_index'])
            if timed:
                if 'time' not in store:
                    raise ValueError(
                        f"the strategy '{self.strategy}' needs the times of all edges, but "
                        f"data['user', '{relation}', 'item'] has no attribute 'time'. "
                        f'Please read a folder by `InteractionFolder(..., timestamps=True)`'
                    )
                times.append(store.time)
        index = torch.cat(indices, dim=1)
        # The earliest of equal pairs counts.
        code = index[0].long() * int(data['item'].num_nodes) + index[1]
        order = torch.arange(code.numel(), device=code.device)
        time = torch.cat(times) if timed else None
        if time is not None:
            order = time.sort(stable=True).indices
        order = order[code[order].sort(stable=True).indices]
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = code[order].diff() > 0
        rows = order[first]
        index, time = index[:, rows], None if time is None else time[rows]
        label = torch.from_numpy(
            split_interactions(
                self.strategy,
                index[0].cpu().numpy(),
                index[1].cpu().numpy(),
                None if time is None else time.cpu().numpy(),
                seed=self.seed,
                ratios=self.ratios,
            )
        ).to(index.device)
        for value, (_, relation) in enumerate(SPLITS):
            store = data['user', relation, 'item']
            part = label == value
            for key in list(store.keys()):  # of other edges
                del store[key]
            store['edge_index' if value == 0 else 'edge_label_index'] = index[:, part]
            if time is not None:
                store.time = time[part]
        return data

    def __repr__(self) -> str:
        setting = {'random': f', seed={self.seed}', 'temporal': f', ratios={self.ratios}'}
        return f'{self.__class__.__name__}({self.strategy!r}{setting.get(self.strategy, "")})'
