"""What every evaluation shares: whose edges count, and the embeddings that are ranked."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

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


def check_k(k: int | Iterable[int], num_items: int) -> list[int]:
    """Returns the cut-offs ``k`` as a list, each an integer in ``1..num_items``."""
    ks = list(k) if isinstance(k, Iterable) else [k]
    if len(ks) == 0:
        raise ValueError("'k' is empty: name at least one cut-off, e.g. k=(5, 10, 20)")
    for value in ks:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"'k' must hold integers, got {value!r} of type {type(value).__name__}")
        if not 1 <= value <= num_items:
            raise ValueError(
                f"'k' must lie between 1 and the number of items ({num_items}), got {value}: "
                f'leave this cut-off out'
            )
    return ks


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


@torch.no_grad()
def embed(model: Any, data: HeteroData, node_type: str = 'item') -> tuple[Tensor, Tensor]:
    """Returns the user and item embeddings of ``model`` in evaluation mode, checked, as floats."""
    if not callable(getattr(model, 'embed', None)):
        raise TypeError(
            f"'model' ({type(model).__name__}) has no method embed(): give it one that returns an "
            f"object with the attributes 'user' and 'item', the embeddings that are ranked"
        )
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [module.training for module in modules]
    if any(modes):  # An evaluation model is left alone, so that embeddings it caches survive.
        model.eval()
    try:
        out = model.embed()
    finally:
        if any(modes):
            model.train()  # First as a whole, so that a cache of embeddings is dropped.
            for module, mode in zip(modules, modes):
                module.training = mode

    embeddings = []
    for name, size in zip(('user', 'item'), catalogue_size(data, node_type)):
        x = getattr(out, name, None)
        if not isinstance(x, Tensor):
            raise TypeError(f"'model.embed()' must return an object with a tensor '{name}'")
        if x.dim() != 2 or x.size(0) != size:
            raise ValueError(
                f"'model.embed().{name}' must have shape [{size}, channels], got {list(x.shape)}: "
                f'was the model built for this data?'
            )
        if not x.sum().isfinite():  # Cheap; which rows it was is asked only if needed.
            _raise_if_not_finite(name, x)
        # Low-precision scores would reorder close items.
        embeddings.append(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)
    return embeddings[0], embeddings[1]


def _raise_if_not_finite(name: str, x: Tensor) -> None:
    invalid = ~x.isfinite().all(dim=1)
    if invalid.any():  # Otherwise only the sum was too large.
        raise ValueError(
            f"'model.embed().{name}' has NaN or infinite entries in {int(invalid.sum())} of "
            f'{x.size(0)} rows (first: {name} {int(invalid.nonzero()[0])}), so its scores cannot '
            f'be ranked: check the training loss, or lower the learning rate'
        )
