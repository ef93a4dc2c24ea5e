"""What every evaluation shares: whose edges count, and the embeddings that are ranked."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.metrics import (
    LinkPredMAP,
    LinkPredMetric,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)
from torch_geometric.metrics.link_pred import LinkPredMetricData

from mrdib_pyg.interactions import catalogue_size, held_out_edges, labels, train_edges
from mrdib_pyg.ops import masked_topk


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


METRICS = {
    'recall': LinkPredRecall,
    'ndcg': LinkPredNDCG,
    'precision': LinkPredPrecision,
    'map': LinkPredMAP,
}


@overload
def evaluate(
    model: Any,
    data: HeteroData,
    split: str = ...,
    k: int | Iterable[int] = ...,
    *,
    mask: str = ...,
    node_type: str = ...,
    batch_size: int = ...,
    per_user: Literal[False] = ...,
) -> dict[str, float]: ...


@overload
def evaluate(
    model: Any,
    data: HeteroData,
    split: str = ...,
    k: int | Iterable[int] = ...,
    *,
    mask: str = ...,
    node_type: str = ...,
    batch_size: int = ...,
    per_user: Literal[True],
) -> dict[str, Tensor]: ...


def evaluate(
    model: Any,
    data: HeteroData,
    split: str = 'val',
    k: int | Iterable[int] = (5, 10, 20, 50),
    *,
    mask: str = 'train',
    node_type: str = 'item',
    batch_size: int = 4096,
    per_user: bool = False,
) -> dict[str, float] | dict[str, Tensor]:
    r"""Recall, NDCG, precision and MAP at ``k`` of a full ranking over *all* items.

    For a user with :math:`n` held-out items and hits :math:`h_1, \ldots, h_k \in \{0, 1\}`

    .. math::
        \mathrm{recall} &= \frac{1}{n} \sum_j h_j \qquad
        \mathrm{precision} = \frac{1}{k} \sum_j h_j \qquad
        \mathrm{ndcg} = \frac{\sum_j h_j / \log_2 (j + 1)}
        {\sum_{j \leq \min(n, k)} 1 / \log_2 (j + 1)} \\
        \mathrm{map} &= \frac{1}{\min(n, k)} \sum_j h_j \frac{1}{j} \sum_{l \leq j} h_l

    as in :mod:`torch_geometric.metrics`. The score of a user and an item is the inner product of
    their embeddings; items of equal score are ranked by id, the lower first.

    Averages run over the users with at least one held-out item in ``split`` *and* at least one
    training edge; all others are dropped (:func:`~mrdib_pyg.evaluation.held_out_edges` tells who
    is left). Candidates are all items, also those never seen in training, except for the ones that
    ``mask`` takes out of the user's list. A repeated held-out edge counts once.

    Args:
        model (Any): A model with a method ``embed()`` that returns an object with the attributes
            ``user`` of shape ``[num_users, channels]`` and ``item`` of shape
            ``[num_items, channels]``. It is called once, in evaluation mode, without gradients;
            the ranking runs on the device of these embeddings.
        data (HeteroData): Users, items, training edges ``('user', 'rates', 'item').edge_index`` and
            held-out edges ``('user', split, 'item').edge_label_index``.
        split (str): The held-out edges, ``'val'`` or ``'test'``. (default: ``'val'``)
        k (int or Iterable[int]): The cut-offs. (default: ``(5, 10, 20, 50)``)
        mask (str): The user's items that are not ranked: ``'train'`` (the common protocol, in which
            validation items stay candidates at test time) or ``'train+val'``.
            (default: ``'train'``)
        node_type (str): The items that are ranked, all of them and no other: ``'cold_item'`` for
            those that :class:`~mrdib_pyg.transforms.ColdItemSplit` holds out, of which no user has
            training edges, so that nothing is masked. (default: ``'item'``)
        batch_size (int): Users ranked and measured at a time; bounds memory and has no influence
            on the result. (default: ``4096``)
        per_user (bool): Whether to return the values of each user, not averages.
            (default: ``False``)

    Returns:
        ``{'recall@5': float, 'ndcg@5': float, 'precision@5': float, 'map@5': float, ...}``, not
        rounded. With ``per_user=True`` tensors of shape ``[num_evaluated_users]`` under the same
        names, and the ids of these users, ascending, under ``'user'``.

    Raises:
        TypeError: If ``model`` has no ``embed()``, or ``k`` is no integer.
        ValueError: If ``split``, ``mask``, ``k`` or ``batch_size`` is not possible for ``data``,
            there is nothing to evaluate, or embeddings or scores are not numbers.
    """
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be at least 1, got {batch_size}")
    label = held_out_edges(data, split, node_type)
    exclude = _mask_edges(data, split, mask, node_type)
    num_users, num_items = catalogue_size(data, node_type)
    ks = check_k(k, num_items)
    x_user, x_item = embed(model, data, node_type)
    device = x_user.device
    metrics: dict[str, LinkPredMetric] = {
        f'{name}@{value}': cls(value).to(device) for value in ks for name, cls in METRICS.items()
    }

    # From here on users are numbered by their row among the evaluated ones.
    user, label_row = label[0].to(device).unique_consecutive(return_inverse=True)
    label_item = label[1].to(device)
    row_of_user = user.new_full((num_users,), -1)
    row_of_user[user] = torch.arange(user.numel(), device=device)
    exclude = exclude.to(device)
    mask_row, perm = row_of_user[exclude[0]].sort(stable=True)
    mask_item = exclude[1][perm]

    bounds = torch.arange(0, user.numel() + batch_size, batch_size, device=device)
    label_ptr = torch.searchsorted(label_row, bounds).tolist()
    mask_ptr = torch.searchsorted(mask_row, bounds).tolist()  # Leaves out the rows of value -1.
    outs: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for i, start in enumerate(bounds[:-1].tolist()):
        labels_i = slice(label_ptr[i], label_ptr[i + 1])
        mask_i = slice(mask_ptr[i], mask_ptr[i + 1])
        _, index = masked_topk(
            x_user[user[start : start + batch_size]],
            x_item,
            max(ks),
            torch.stack([mask_row[mask_i] - start, mask_item[mask_i]]),
        )
        # The metrics look items up by `row * size + item`, where a pad of -1 would be the largest
        # item of the row before. The id `num_items` belongs to no item and never is a hit.
        index = index.masked_fill(index < 0, num_items)
        batch = LinkPredMetricData(
            index, torch.stack([label_row[labels_i] - start, label_item[labels_i]])
        )
        # `update()` would only keep a sum in single precision: the metrics' hook gives one value
        # per user, from hits that are looked up once for all metrics.
        for name, metric in metrics.items():
            outs[name].append(metric._compute(batch))

    values = {name: torch.cat(out) for name, out in outs.items()}
    return {'user': user, **values} if per_user else average(values)


def average(values: Mapping[str, Tensor]) -> dict[str, float]:
    r"""Averages metrics of users as :func:`evaluate` does.

    Args:
        values (Dict[str, torch.Tensor]): What it returns with ``per_user=True``.

    Returns:
        Dict[str, float]: What it returns without.
    """
    return {
        name: float(value.mean(dtype=torch.float64))
        for name, value in values.items()
        if name != 'user'
    }


def _mask_edges(data: HeteroData, split: str, mask: str, node_type: str) -> Tensor:
    """Returns the (user, item) pairs that ``mask`` takes out of the ranking."""
    if mask == 'train':
        edges = train_edges(data)
        return edges if node_type == 'item' else edges[:, :0]
    if mask != 'train+val':
        raise ValueError(f"'mask' must be 'train' or 'train+val', got {mask!r}")
    if node_type != 'item':
        raise ValueError(
            f"mask='train+val' takes out items of the training, of which {node_type!r} has none: "
            f"use mask='train'"
        )
    if split == 'val':
        raise ValueError(
            "mask='train+val' would take out the very items that split='val' asks for: "
            "use mask='train'"
        )
    return torch.cat([train_edges(data), labels(data, 'val')], dim=1)
