"""The full ranking of all items, and the checks of every evaluation."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch_geometric.data import HeteroData
from torch_geometric.metrics import (
    LinkPredMAP,
    LinkPredMetricCollection,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)
from torch_geometric.metrics.link_pred import LinkPredMetricData

from mrdib_pyg.distributed import Columns
from mrdib_pyg.evaluation._mode import evaluation_mode
from mrdib_pyg.interactions import held_out_edges, label_edges, num_nodes, training_edges
from mrdib_pyg.ops import masked_topk


class _PerUser:
    # Keeps the value of each user, where PyG's metrics add them up in single precision.
    def __init__(self, k: int) -> None:
        super().__init__(k)  # type: ignore[call-arg]
        self.values: list[Tensor] = []

    def _update(self, data: LinkPredMetricData) -> None:
        self.values.append(self._compute(data))  # type: ignore[attr-defined]


_METRICS: dict[str, Any] = {
    name: type(cls.__name__, (_PerUser, cls), {})
    for name, cls in (
        ('recall', LinkPredRecall),
        ('ndcg', LinkPredNDCG),
        ('precision', LinkPredPrecision),
        ('map', LinkPredMAP),
    )
}

#: The metrics of a full ranking, in the order they are shown.
METRICS = tuple(_METRICS)


def check_k(k: int | Iterable[int], num_items: int) -> list[int]:
    r"""Returns the cut-offs ``k`` as a list, each an integer in ``1..num_items``."""
    ks = list(k) if isinstance(k, Iterable) else [k]
    if len(ks) == 0:
        raise ValueError("'k' must hold at least one cut-off (got none), e.g. k=(5, 10, 20)")
    for value in ks:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"'k' must hold integers (got {value!r})")
        if not 1 <= value <= num_items:
            raise ValueError(f"'k' must lie between 1 and the {num_items} items (got {value})")
    return ks


@torch.no_grad()
def embeddings_of(model: Any, data: HeteroData, node_type: str = 'item') -> tuple[Tensor, Tensor]:
    r"""Returns the user and item embeddings of ``model`` in evaluation mode, checked, as floats."""
    if not callable(getattr(model, 'embed', None)):
        raise TypeError(
            f"'model' must have a method embed() (got {type(model).__name__}) that returns an "
            f"object with the embeddings 'user' and 'item'"
        )
    with evaluation_mode(model):
        out = model.embed()

    embeddings = []
    for name, size in zip(('user', 'item'), (num_nodes(data, 'user'), num_nodes(data, node_type))):
        x = getattr(out, name, None)
        if not isinstance(x, Tensor):
            raise TypeError(f"'model.embed()' must return an object with a tensor '{name}'")
        if x.dim() != 2 or x.size(0) != size:
            raise ValueError(
                f"'model.embed().{name}' must have the shape [{size}, channels] (got "
                f"{list(x.shape)}); was the model built for 'data'?"
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
            f"'model.embed().{name}' must be finite (got NaN or infinity in "
            f'{int(invalid.sum())} of {x.size(0)} rows, first {name} '
            f'{int(invalid.nonzero()[0])}); check the training loss or lower the learning rate'
        )


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
    mesh: DeviceMesh | None = ...,
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
    mesh: DeviceMesh | None = ...,
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
    mesh: DeviceMesh | None = None,
    per_user: bool = False,
) -> dict[str, float] | dict[str, Tensor]:
    r"""Computes recall, NDCG, precision and MAP at ``k`` of a full ranking of *all* items.

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
    training edge (see :func:`~mrdib_pyg.evaluation.held_out_edges`). All items are candidates,
    also those without training edges, except those that ``mask`` removes. A repeated held-out edge
    counts once.

    Args:
        model (Any): A model with a method ``embed()`` that returns an object with the attributes
            ``user`` ``[num_users, channels]`` and ``item`` ``[num_items, channels]``. It is called
            once, in evaluation mode, without gradients. The ranking runs on their device.
        data (HeteroData): Users, items, training edges ``('user', 'rates', 'item').edge_index`` and
            held-out edges ``('user', split, 'item').edge_label_index``.
        split (str, optional): The held-out edges, ``'val'`` or ``'test'``. (default: ``'val'``)
        k (int or Iterable[int], optional): The cut-offs. (default: ``(5, 10, 20, 50)``)
        mask (str, optional): Which of a user's own items are not ranked: ``'train'``, the common
            protocol, which keeps validation items as candidates at test time, or ``'train+val'``.
            (default: ``'train'``)
        node_type (str, optional): The items to rank. ``'cold_item'`` ranks only those that
            :class:`~mrdib_pyg.transforms.ColdItemSplit` holds out, without a mask.
            (default: ``'item'``)
        batch_size (int, optional): The number of users to rank at a time, which bounds memory.
            (default: ``4096``)
        mesh (DeviceMesh, optional): Processes that rank a part of the users each and return the
            same, see :mod:`mrdib_pyg.distributed`. All of them must call this function.
            (default: :obj:`None`, this process ranks all)
        per_user (bool, optional): If set to :obj:`True`, returns the values of each user instead
            of averages. (default: :obj:`False`)

    Returns:
        ``{'recall@5': float, 'ndcg@5': float, 'precision@5': float, 'map@5': float, ...}``, not
        rounded. With ``per_user=True`` tensors of shape ``[num_evaluated_users]`` under the same
        names, and the ids of these users, ascending, under ``'user'``.

    Raises:
        TypeError: If ``model`` has no ``embed()``, or ``k`` is no integer.
        ValueError: If ``split``, ``mask``, ``k`` or ``batch_size`` does not fit ``data``, there is
            nothing to evaluate, or embeddings or scores are NaN.
    """
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be at least 1 (got {batch_size})")
    label = held_out_edges(data, split, node_type)
    exclude = _mask_edges(data, split, mask, node_type)
    num_items = num_nodes(data, node_type)
    ks = check_k(k, num_items)
    x_user, x_item = embeddings_of(model, data, node_type)
    device = x_user.device
    metrics = LinkPredMetricCollection(
        {f'{name}@{value}': cls(value) for value in ks for name, cls in _METRICS.items()}
    ).to(device)

    # From here on users are numbered by their row among the evaluated ones.
    user, label_row = label[0].to(device).unique_consecutive(return_inverse=True)
    label_item = label[1].to(device)
    row_of_user = user.new_full((x_user.size(0),), -1)
    row_of_user[user] = torch.arange(user.numel(), device=device)
    exclude = exclude.to(device)
    mask_row, perm = row_of_user[exclude[0]].sort(stable=True)
    mask_item = exclude[1][perm]

    columns = None if mesh is None else Columns(mesh)
    own = slice(0, user.numel()) if columns is None else columns.block(user.numel())
    starts = torch.arange(own.start, own.stop, batch_size, device=device)
    bounds = torch.cat([starts, starts.new_tensor([own.stop])])
    label_ptr = torch.searchsorted(label_row, bounds).tolist()
    mask_ptr = torch.searchsorted(mask_row, bounds).tolist()  # Leaves out the rows of value -1.
    for i, start in enumerate(starts.tolist()):
        labels_i = slice(label_ptr[i], label_ptr[i + 1])
        mask_i = slice(mask_ptr[i], mask_ptr[i + 1])
        _, index = masked_topk(
            x_user[user[start : bounds[i + 1]]],
            x_item,
            max(ks),
            torch.stack([mask_row[mask_i] - start, mask_item[mask_i]]),
        )
        # The metrics look items up by `row * size + item`, where a pad of -1 would be the largest
        # item of the row before. The id `num_items` belongs to no item and never is a hit.
        index = index.masked_fill(index < 0, num_items)
        metrics.update(index, torch.stack([label_row[labels_i] - start, label_item[labels_i]]))

    none = user.new_empty(0, dtype=torch.get_default_dtype())  # where processes outnumber users
    table = [torch.cat(metric.values or [none]) for metric in metrics.values()]
    if columns is not None:
        table = list(columns.all_columns(torch.stack(table), user.numel()))
    values = dict(zip(metrics.keys(), table))
    return {'user': user, **values} if per_user else average_metrics(values)


def average_metrics(values: Mapping[str, Tensor]) -> dict[str, float]:
    r"""Averages the metrics of users as :func:`evaluate` does.

    Args:
        values (Dict[str, torch.Tensor]): Its output with ``per_user=True``.

    Returns:
        Dict[str, float]: Its output with ``per_user=False``.
    """
    return {
        name: float(value.mean(dtype=torch.float64))
        for name, value in values.items()
        if name != 'user'
    }


def _mask_edges(data: HeteroData, split: str, mask: str, node_type: str) -> Tensor:
    # The pairs of a user and an item that are not ranked.
    if mask == 'train':
        edges = training_edges(data)
        return edges if node_type == 'item' else edges[:, :0]
    if mask != 'train+val':
        raise ValueError(f"'mask' must be 'train' or 'train+val' (got {mask!r})")
    if node_type != 'item':
        raise ValueError(f"'mask' must be 'train' for node_type={node_type!r} (got 'train+val')")
    if split == 'val':
        raise ValueError(
            "'mask' must be 'train' for split='val' (got 'train+val'), which would remove its items"
        )
    return torch.cat([training_edges(data), label_edges(data, 'val')], dim=1)
