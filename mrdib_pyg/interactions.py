"""The words of the data: edge types, sizes, modalities, and who took what."""

import warnings

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce

#: The type of the training edges.
TRAIN_EDGE = ('user', 'rates', 'item')

#: Per split the relation between users and items, and the attribute that holds its edges.
SPLITS = {
    'train': ('rates', 'edge_index'),
    'val': ('val', 'edge_label_index'),
    'test': ('test', 'edge_label_index'),
}


def num_nodes(data: HeteroData, node_type: str) -> int:
    r"""Returns the number of nodes of a type, :obj:`'user'` or :obj:`'item'`, which must be set."""
    with warnings.catch_warnings():  # that the number cannot be inferred, which is an error here
        warnings.simplefilter('ignore')
        size = data[node_type].num_nodes if node_type in data.node_types else None
    if size is None:
        raise ValueError(
            f"data['{node_type}'].num_nodes is not set: set it to the number of {node_type}s"
        )
    return int(size)


def modalities_of(data: HeteroData, node_type: str = 'item') -> list[str]:
    r"""Returns the names of the modalities in the order of ``data['item'].x_<modality>``."""
    return [key[2:] for key in data[node_type].keys() if key.startswith('x_')]


def modality_mask(data: HeteroData, modality: str, node_type: str = 'item') -> Tensor | None:
    r"""Returns which items have a modality, or :obj:`None` without a mask: all items have it."""
    store = data[node_type]
    return store[f'has_{modality}'].bool() if f'has_{modality}' in store else None


def check_pairs(
    name: str,
    pairs: Tensor,
    sizes: tuple[int | None, int | None],
    kinds: tuple[str, str] = ('user', 'item'),
) -> None:
    r"""Raises :class:`ValueError` unless :obj:`pairs` are ids ``[2, n]`` of existing nodes. A size
    of :obj:`None` allows any id from 0; :obj:`kinds` name the sides in the message.
    """
    is_integer = not (pairs.is_floating_point() or pairs.is_complex() or pairs.dtype == torch.bool)
    if pairs.dim() != 2 or pairs.size(0) != 2 or not is_integer:
        raise ValueError(
            f'{name} must hold integer ids of the shape [2, n] (got {pairs.dtype} of the shape '
            f'{list(pairs.shape)})'
        )
    for kind, ids, size in zip(kinds, pairs, sizes):
        if ids.numel() == 0:
            continue
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or (size is not None and high >= size):
            end = 'infinity' if size is None else size
            raise ValueError(
                f'{name} must hold {kind} ids in [0, {end}) (got {low if low < 0 else high}); '
                f'check the ids and the number of {kind}s'
            )


def is_coalesced(row: Tensor, col: Tensor) -> bool:
    r"""Whether edges are sorted by row, then column, each of them once."""
    # Without codes of edges, which are as large as the edges.
    if bool((row[1:] < row[:-1]).any()):
        return False
    rising = col[1:] > col[:-1]
    rising |= row[1:] > row[:-1]
    return bool(rising.all())


def training_edges(data: HeteroData) -> Tensor:
    r"""Returns the training edges ``[2, E]``, sorted by user, then item, each once, and at least
    one. Edges stored in this form are not copied: do not write to them.
    """
    store = data[TRAIN_EDGE] if TRAIN_EDGE in data.edge_types else {}
    if 'edge_index' not in store and 'adj_t' in store:
        raise ValueError(
            f"data{list(TRAIN_EDGE)} must have an 'edge_index' (got 'adj_t'); leave out "
            f'ToSparseTensor'
        )
    if 'edge_index' not in store or store['edge_index'].numel() == 0:
        raise ValueError(f"'data' has no training edge {TRAIN_EDGE}; set its 'edge_index'")
    # A repeated edge would weigh twice; products of ids may exceed 32 bits.
    edge_index: Tensor = store['edge_index'].long().contiguous()
    return edge_index if is_coalesced(*edge_index) else coalesce(edge_index)


def label_edges(data: HeteroData, split: str, node_type: str = 'item') -> Tensor:
    r"""Returns ``data['user', split, node_type].edge_label_index`` ``[2, n]`` as it is stored.
    Raises :class:`ValueError` if the split is unknown or empty, or an id does not exist.
    """
    splits = [
        edge_type[1]
        for edge_type in data.edge_types
        if edge_type[::2] == ('user', node_type) and 'edge_label_index' in data[edge_type]
    ]
    if split not in splits:
        raise ValueError(
            f"'split' must be one of {splits} (got {split!r}), or set data['user', {split!r}, "
            f'{node_type!r}].edge_label_index'
        )
    edge_label_index: Tensor = data['user', split, node_type].edge_label_index
    name = f"data['user', {split!r}, {node_type!r}].edge_label_index"
    check_pairs(
        name, edge_label_index, (num_nodes(data, 'user'), num_nodes(data, node_type)),
        ('user', node_type),
    )  # fmt: skip
    if edge_label_index.size(1) == 0:
        raise ValueError(f'{name} must hold an edge (got none); choose another split')
    return edge_label_index.long()


def has_training_edge(data: HeteroData, edge_label_index: Tensor, split: str) -> Tensor:
    r"""Returns for each held-out edge whether its user has a training edge; at least one must."""
    user = edge_label_index[0]
    trained = torch.zeros(num_nodes(data, 'user'), dtype=torch.bool, device=user.device)
    trained[training_edges(data)[0].to(user.device)] = True
    out = trained[user]
    if not bool(out.any()):
        raise ValueError(
            f'no user with held-out edges in split {split!r} has a training edge; check how '
            f"'data' was split"
        )
    return out


def held_out_edges(data: HeteroData, split: str = 'val', node_type: str = 'item') -> Tensor:
    r"""Returns the held-out edges that an evaluation on ``split`` counts: the edges of
    ``data['user', split, node_type].edge_label_index``, each once, without those of users who have
    no training edge.

    Args:
        data (HeteroData): Users, items, training and held-out edges.
        split (str, optional): The held-out edges, ``'val'`` or ``'test'``. (default: ``'val'``)
        node_type (str, optional): The items that are ranked. (default: ``'item'``)

    Returns:
        LongTensor: Pairs of a user and an item ``[2, n]``, sorted by user, then item.

    Raises:
        ValueError: If ``split`` is unknown, or no edge is left to evaluate.
    """
    edge_label_index = label_edges(data, split, node_type)
    edge_label_index = edge_label_index[:, has_training_edge(data, edge_label_index, split)]
    # A repeated label would count twice in the number of held-out items.
    return _sorted_pairs(edge_label_index, num_nodes(data, node_type))


def known_pairs(data: HeteroData) -> Tensor:
    r"""Returns the interactions of all splits, for recommendations in use to leave out by the
    :obj:`exclude` of :func:`~mrdib_pyg.serving.recommend`.

    Args:
        data (HeteroData): Users, items, training edges ``('user', 'rates', 'item').edge_index`` and
            held-out edges ``('user', split, 'item').edge_label_index``, of any splits or none.

    Shapes:
        - **output:** pairs of a user and an item :math:`(2, n)`, sorted by user, then item, each
          once

    Raises:
        ValueError: If there are no training edges.
    """
    edge_index = training_edges(data)
    held_out = [
        data[edge_type].edge_label_index
        for edge_type in data.edge_types
        if edge_type[::2] == ('user', 'item') and 'edge_label_index' in data[edge_type]
    ]
    pairs = torch.cat([edge_index, *(x.to(edge_index.device) for x in held_out)], dim=1)
    return _sorted_pairs(pairs, int(pairs[1].max()) + 1)


def _sorted_pairs(pairs: Tensor, num_items: int) -> Tensor:
    if is_coalesced(*pairs):
        return pairs
    code = (pairs[0] * num_items + pairs[1]).unique()  # far quicker than of columns
    return torch.stack([code.div(num_items, rounding_mode='floor'), code % num_items])


def entries_of(rowptr: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns for each entry of some rows of a CSR matrix its place in :obj:`rows`, which may
    repeat, and its position in the matrix.
    """
    start = rowptr[rows].long()
    count = rowptr[rows + 1].long() - start
    row = torch.repeat_interleave(count)
    offset = torch.arange(row.numel(), device=row.device) - (count.cumsum(0) - count)[row]
    return row, start[row] + offset


class UserItems:
    r"""Looks up the items of users in pairs ``[2, n]`` of a user and an item, in any order."""

    def __init__(self, pairs: Tensor, num_users: int, num_items: int) -> None:
        pairs = torch.as_tensor(pairs)
        check_pairs("'exclude'", pairs, (num_users, num_items))
        user, self.item = _sorted_pairs(pairs.long(), num_items)
        count = torch.bincount(user, minlength=num_users)
        self.rowptr = torch.cat([count.new_zeros(1), count.cumsum(0)])

    def __call__(self, user: Tensor) -> Tensor:
        r"""Returns pairs of a position in :obj:`user` and an item of that user, ``[2, m]``."""
        row, entry = entries_of(self.rowptr, user)
        return torch.stack([row, self.item[entry]])

    def to(self, device: torch.device) -> 'UserItems':
        r"""Moves the pairs to a device."""
        self.item, self.rowptr = self.item.to(device), self.rowptr.to(device)
        return self
