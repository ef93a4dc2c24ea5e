"""What every model reads of its data: how many users and items there are, and who took what."""

import warnings

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce

EDGE = ('user', 'rates', 'item')


def num_nodes(data: HeteroData, name: str) -> int:
    r"""Returns the number of users or of items.

    Raises:
        ValueError: If it is not set.
    """
    with warnings.catch_warnings():  # that the number cannot be inferred, which is an error here
        warnings.simplefilter('ignore')
        size = data[name].num_nodes if name in data.node_types else None
    if size is None:
        raise ValueError(f"data['{name}'].num_nodes is not set: set it to the number of {name}s")
    return int(size)


def training_edges(data: HeteroData) -> Tensor:
    r"""Returns the training edges ``[2, E]``, sorted, each once.

    Raises:
        ValueError: If there is none.
    """
    store = data[EDGE] if EDGE in data.edge_types else {}
    if 'edge_index' not in store and 'adj_t' in store:
        raise ValueError(
            f"data{list(EDGE)} has an 'adj_t' but no 'edge_index', which is what models read; "
            f'leave out ToSparseTensor'
        )
    if 'edge_index' not in store or store['edge_index'].numel() == 0:
        raise ValueError(f"'data' has no training edge {EDGE}; nothing can be learned from it")
    # A repeated edge would weigh twice; products of ids may exceed 32 bits.
    return coalesce(store['edge_index'].long())


TRAIN = ('user', 'rates', 'item')


def catalogue_size(data: HeteroData, node_type: str = 'item') -> tuple[int, int]:
    """Returns the numbers of users and items of ``data``."""
    sizes: list[int] = []
    for name in ('user', node_type):
        size = data[name].num_nodes if name in data.node_types else None
        if size is None:
            raise ValueError(
                f"data['{name}'].num_nodes is not set: set it to the number of {name}s"
            )
        sizes.append(int(size))
    return sizes[0], sizes[1]


def train_edges(data: HeteroData) -> Tensor:
    """Returns the training edges ``[2, num_edges]``."""
    if TRAIN not in data.edge_types or 'edge_index' not in data[TRAIN]:
        raise ValueError(
            f'data{list(TRAIN)}.edge_index is missing: it holds the training edges, '
            f'and users without any are not evaluated'
        )
    return data[TRAIN].edge_index.long()  # products of ids may exceed 32 bits


def labels(data: HeteroData, split: str, node_type: str = 'item') -> Tensor:
    """Returns the held-out edges of ``split`` in the order they are stored, after checking them."""
    splits = [
        edge_type[1]
        for edge_type in data.edge_types
        if edge_type[::2] == ('user', node_type) and 'edge_label_index' in data[edge_type]
    ]
    if split not in splits:
        raise ValueError(
            f"unknown 'split' {split!r}: data has held-out edges for {splits}; choose one of them "
            f"or set data['user', {split!r}, {node_type!r}].edge_label_index"
        )
    edge_label_index = data['user', split, node_type].edge_label_index
    name = f"data['user', {split!r}, {node_type!r}].edge_label_index"
    if edge_label_index.dim() != 2 or edge_label_index.size(0) != 2:
        raise ValueError(f'{name} must have shape [2, n], got {list(edge_label_index.shape)}')
    if edge_label_index.size(1) == 0:
        raise ValueError(f'{name} is empty, there is nothing to evaluate: choose another split')
    sizes = catalogue_size(data, node_type)
    for row, kind, size in zip(edge_label_index, ('user', node_type), sizes):
        low, high = int(row.min()), int(row.max())
        if low < 0 or high >= size:
            raise ValueError(
                f'{name} holds {kind} id {low if low < 0 else high}, but ids must lie in '
                f"0..{size - 1}: check data['{kind}'].num_nodes or the edges"
            )
    return edge_label_index.long()


def has_train_edge(data: HeteroData, user: Tensor) -> Tensor:
    """Returns whether each of ``user`` has at least one training edge."""
    trained = torch.zeros(catalogue_size(data)[0], dtype=torch.bool, device=user.device)
    trained[train_edges(data)[0].to(user.device)] = True
    return trained[user]


def held_out_edges(data: HeteroData, split: str = 'val', node_type: str = 'item') -> Tensor:
    r"""The held-out edges that an evaluation on ``split`` counts.

    These are the edges of ``data['user', split, node_type].edge_label_index`` without repetitions
    and without the edges of users who have no training edge. The evaluated users are
    ``held_out_edges(data, split)[0].unique()``.

    Args:
        data (HeteroData): Users, items, training and held-out edges.
        split (str): The held-out edges, ``'val'`` or ``'test'``. (default: ``'val'``)
        node_type (str): The items that are ranked. (default: ``'item'``)

    Returns:
        LongTensor ``[2, n]`` of (user, item), sorted by user, then item.

    Raises:
        ValueError: If ``split`` is unknown, or no edge is left to evaluate.
    """
    edge_label_index = labels(data, split, node_type)
    edge_label_index = edge_label_index[:, has_train_edge(data, edge_label_index[0])]
    if edge_label_index.size(1) == 0:
        raise ValueError(
            f'no user with held-out edges in split {split!r} has a training edge, there is '
            f'nothing to evaluate: check how data was split'
        )
    num_items = catalogue_size(data, node_type)[1]
    # A repeated label would count twice in the number of held-out items.
    code = (edge_label_index[0] * num_items + edge_label_index[1]).unique()
    return torch.stack([code.div(num_items, rounding_mode='floor'), code % num_items])


def known_pairs(data: HeteroData) -> Tensor:
    r"""Returns all interactions that data hold, whatever split they are in: what a recommendation
    in use should leave out, as the :obj:`exclude` of :func:`recommend`.

    Args:
        data (HeteroData): Users, items, training edges ``('user', 'rates', 'item').edge_index`` and
            held-out edges ``('user', split, 'item').edge_label_index``, of any splits or none.

    Shapes:
        - **output:** pairs of a user and an item :math:`(2, n)`, sorted by user and item, each once

    Raises:
        ValueError: If there are no training edges.
    """
    train = ('user', 'rates', 'item')
    if train not in data.edge_types or 'edge_index' not in data[train]:
        raise ValueError(f'data{list(train)}.edge_index is missing: it holds the training edges')
    held_out = [
        data[edge_type].edge_label_index
        for edge_type in data.edge_types
        if edge_type[::2] == ('user', 'item') and 'edge_label_index' in data[edge_type]
    ]
    edge_index: Tensor = data[train].edge_index.long()  # products of ids may exceed 32 bits
    pairs = torch.cat([edge_index, *(x.to(edge_index.device) for x in held_out)], dim=1)
    num_items = int(pairs[1].max()) + 1 if pairs.numel() > 0 else 1
    code = (pairs[0] * num_items + pairs[1]).unique()  # far quicker than of columns
    return torch.stack([code.div(num_items, rounding_mode='floor'), code % num_items])


class UserItems:
    r"""Looks up the pairs of users, as :meth:`Recommender.seen_pairs` does the training edges.

    Args:
        pairs (torch.Tensor): Pairs of a user and an item, ``[2, n]``, in any order.
        num_users (int): The number of users.
        num_items (int): The number of items.

    Raises:
        ValueError: If :obj:`pairs` has another shape, or an id does not exist.
    """

    def __init__(self, pairs: Tensor, num_users: int, num_items: int) -> None:
        pairs = torch.as_tensor(pairs)
        is_integer = not (pairs.is_floating_point() or pairs.dtype == torch.bool)
        if pairs.dim() != 2 or pairs.size(0) != 2 or not is_integer:
            raise ValueError(
                f"'exclude' must hold pairs of a user and an item, [2, n] integers (got "
                f'{pairs.dtype} of the shape {list(pairs.shape)})'
            )
        for kind, ids, size in zip(('user', 'item'), pairs, (num_users, num_items)):
            if ids.numel() > 0 and not 0 <= int(ids.min()) <= int(ids.max()) < size:
                raise ValueError(
                    f"the {kind}s of 'exclude' must lie in [0, {size}) (got {int(ids.min())} to "
                    f'{int(ids.max())})'
                )
        code = (pairs[0].long() * num_items + pairs[1]).unique()
        self.item = code % num_items
        count = torch.bincount(code.div(num_items, rounding_mode='floor'), minlength=num_users)
        self.rowptr = torch.cat([count.new_zeros(1), count.cumsum(0)])

    def __call__(self, user: Tensor) -> Tensor:
        r"""Returns pairs of a row of :obj:`user`, in which one may come more than once, and an
        item, ``[2, m]``.
        """
        start = self.rowptr[user]
        count = self.rowptr[user + 1] - start
        row = torch.repeat_interleave(count)
        offset = torch.arange(row.numel(), device=row.device) - (count.cumsum(0) - count)[row]
        return torch.stack([row, self.item[start[row] + offset]])

    def to(self, device: torch.device) -> 'UserItems':
        r"""Moves the pairs to a device."""
        self.item, self.rowptr = self.item.to(device), self.rowptr.to(device)
        return self
