import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.data.storage import EdgeStorage
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.datasets.splits import SPLIT_NAMES, split_interactions
from mrdib_pyg.interactions import SPLITS, TRAIN_EDGE, num_nodes


class InteractionSplit(BaseTransform):
    r"""Merges the edges of training, validation and test, each pair once, and splits them anew by
    :func:`~mrdib_pyg.datasets.split_interactions`.

    Graphs of users and interest-aware graphs of items would leak edges that are held out now. They
    are dropped, as are attributes of edges other than :obj:`time`. Build them afterwards.

    Args:
        strategy (str, optional): :obj:`"random"` for a draw per user, :obj:`"leave_one_out"` for
            the last two interactions of each user, or :obj:`"temporal"` for two moments common to
            all users. The last two read the attribute :obj:`time` of the edges, see
            :class:`~mrdib_pyg.datasets.InteractionFolder` with :obj:`timestamps=True`.
            (default: :obj:`"random"`)
        seed (int, optional): The seed of :obj:`"random"`. (default: :obj:`0`)
        ratios (tuple, optional): The shares of training, validation and test edges of
            :obj:`"temporal"`. (default: :obj:`(0.8, 0.1, 0.1)`)

    Raises:
        ValueError: If a setting is unknown, or the data lack training edges or times.

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
        if TRAIN_EDGE not in data.edge_types:
            raise ValueError(f"'data' has no training edges {TRAIN_EDGE} to split")
        keys = dict(SPLITS.values())
        split = [('user', relation, 'item') for relation in keys]
        stores = {edge[1]: data[edge] for edge in split if edge in data.edge_types}
        for edge in data.edge_types:
            is_made = 'user' in edge[::2] or edge[1].endswith('_interest')
            if is_made and edge not in split:
                del data[edge]
        # A random split does not read times, but keeps them with their edges.
        timed = self.strategy != 'random' or all('time' in x for x in stores.values())
        indices: list[Tensor] = []
        times: list[Tensor] = []
        for relation, store in stores.items():
            indices.append(store[keys[relation]])
            if timed:
                if 'time' not in store:
                    raise ValueError(
                        f"data['user', '{relation}', 'item'] must have 'time' for the strategy "
                        f"'{self.strategy}'; read the folder with timestamps=True"
                    )
                times.append(store.time)
        index = torch.cat(indices, dim=1)
        # The earliest of equal pairs counts.
        code = index[0].long() * num_nodes(data, 'item') + index[1]
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
        for value, (relation, key) in enumerate(keys.items()):
            store = data['user', relation, 'item']
            part = label == value
            store.clear()  # attributes of the former edges
            store[key] = index[:, part]
            if time is not None:
                store.time = time[part]
        return data

    def __repr__(self) -> str:
        setting = {'random': f', seed={self.seed}', 'temporal': f', ratios={self.ratios}'}
        return f'{self.__class__.__name__}({self.strategy!r}{setting.get(self.strategy, "")})'


@functional_transform('cold_item_split')
class ColdItemSplit(BaseTransform):
    r"""Holds items out of training as if they were new, with all their edges and features.

    A randomly drawn share of the items that have an edge becomes a node type of its own,
    ``'cold_item'``, with its features ``data['cold_item'].x_<modality>`` (and masks). Half of them
    are for validation, half for the test: their edges of all splits become
    ``data['user', 'val', 'cold_item'].edge_label_index`` and ``data['user', 'test',
    'cold_item'].edge_label_index``. The other items stay, with new ids and their edges of all
    splits, so that a model is trained and stopped as usual:

    .. code-block:: python

        data = ColdItemSplit(0.2, seed=0)(data)
        model = VBPR(data)
        fit(model, data)
        cold = model.encode_items({'image': data['cold_item'].x_image})
        emb = Embeddings(model.embed().user, cold)
        evaluate(emb, data, 'test', node_type='cold_item')

    The ranking then has the cold items as its only candidates: it tells which new items suit a
    user, not how they fare against items with a history.

    ``n_id`` of both node types holds the former ids. Edges keep their attributes, such as ``time``;
    edges of cold items keep those that all splits have. Graphs among items or among users could
    leak held-out items and are left out. Build them afterwards.

    Args:
        ratio (float, optional): The share of items to hold out. (default: :obj:`0.2`)
        seed (int, optional): Seeds the draw. (default: :obj:`0`)

    Raises:
        ValueError: If :obj:`ratio` is out of range, or leaves no training edge, no validation item
            or no test item.
    """

    def __init__(self, ratio: float = 0.2, seed: int = 0) -> None:
        if not 0 < ratio < 1:
            raise ValueError(f"'ratio' must lie in (0, 1) (got {ratio})")
        self.ratio = ratio
        self.seed = seed

    def forward(self, data: HeteroData) -> HeteroData:
        stores = {
            relation: data['user', relation, 'item']
            for relation, _ in SPLITS.values()
            if ('user', relation, 'item') in data.edge_types
        }
        keys = dict(SPLITS.values())
        edges = {relation: store[keys[relation]] for relation, store in stores.items()}
        if 'rates' not in edges:
            raise ValueError(f"'data' has no training edges {TRAIN_EDGE}")
        num_items = num_nodes(data, 'item')
        used = torch.unique(torch.cat([index[1] for index in edges.values()]).cpu())
        generator = torch.Generator().manual_seed(self.seed)
        order = used[torch.randperm(used.numel(), generator=generator)]
        num_cold = round(self.ratio * used.numel())
        if num_cold < 2:
            raise ValueError(
                f"'ratio' must hold out at least 2 of the {used.numel()} items with edges (got "
                f'{self.ratio}, which holds out {num_cold}); raise it'
            )
        device = edges['rates'].device
        cold = order[:num_cold].sort().values.to(device)
        in_test = torch.zeros(num_items, dtype=torch.bool, device=device)
        in_test[order[: num_cold // 2].to(device)] = True
        is_cold = torch.zeros(num_items, dtype=torch.bool, device=device)
        is_cold[cold] = True
        warm = (~is_cold).nonzero().view(-1)
        local = torch.empty(num_items, dtype=torch.long, device=device)
        local[warm] = torch.arange(warm.numel(), device=device)
        local[cold] = torch.arange(cold.numel(), device=device)

        out = HeteroData()
        out._global_store.update(data._global_store)
        out['user'].update(data['user'])
        for name, ids in (('item', warm), ('cold_item', cold)):
            for key, value in data['item'].items():
                is_row = isinstance(value, Tensor) and data['item'].is_node_attr(key)
                if isinstance(value, (list, tuple)) and len(value) == num_items:
                    out[name][key] = [value[i] for i in ids.tolist()]
                else:
                    out[name][key] = value[ids] if is_row else value
            out[name].num_nodes = ids.numel()
            out[name].n_id = data['item'].n_id[ids] if 'n_id' in data['item'] else ids
        found = [_attributes(store, keys[relation]) for relation, store in stores.items()]
        for (relation, edge_index), attributes in zip(edges.items(), found):
            keep = ~is_cold[edge_index[1]]
            user, item = edge_index[:, keep]
            store = out['user', relation, 'item']
            store[keys[relation]] = torch.stack([user, local[item]])
            for name, value in attributes.items():
                store[name] = value[keep]
        if out['user', 'rates', 'item'].edge_index.numel() == 0:
            raise ValueError(f"'ratio' must leave a training edge (got {self.ratio}); lower it")
        user, item = torch.cat(list(edges.values()), dim=1)
        shared = [name for name in found[0] if all(name in of_split for of_split in found)]
        attributes = {name: torch.cat([of_split[name] for of_split in found]) for name in shared}
        for relation, mask in (('val', is_cold & ~in_test), ('test', in_test)):
            keep = mask[item]
            index = torch.stack([user[keep], local[item[keep]]])
            store = out['user', relation, 'cold_item']
            store.edge_label_index = index
            for name, value in attributes.items():
                store[name] = value[keep]
        return out

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(ratio={self.ratio}, seed={self.seed})'


def _attributes(store: EdgeStorage, key: str) -> dict[str, Tensor]:
    # The tensors with a row per edge, other than the edges.
    num_edges = store[key].size(1)
    return {
        name: value
        for name, value in store.items()
        if name != key and isinstance(value, Tensor) and value.shape[:1] == (num_edges,)
    }
