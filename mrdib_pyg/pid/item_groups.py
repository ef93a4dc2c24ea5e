from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.evaluation.protocol import train_edges

POPULARITY = 'popularity'
MAX_GROUPS = 100


def item_groups(
    data: HeteroData, names: Sequence[str], num_items: int
) -> dict[str, dict[str, Tensor]]:
    r"""Returns per grouping the boolean masks ``[I]`` of the items of each group.

    Args:
        data (HeteroData): Items and training edges.
        names (Sequence[str]): The groupings: :obj:`"popularity"`, the tenths of the items by their
            number of training edges, from 1 for the fewest to 10 (items with equal numbers share
            a group, so some may be empty), or a column of :obj:`data['item']`.
        num_items (int): The number of items.

    Raises:
        ValueError: If a grouping is no column, or has other than one integer or boolean per item,
            or too many groups.
    """
    out: dict[str, dict[str, Tensor]] = {}
    for name in names:
        label = _tenth(data, num_items) if name == POPULARITY else _column(data, name, num_items)
        values = torch.unique(label)
        if len(values) > MAX_GROUPS:
            raise ValueError(
                f"'groups': the column '{name}' has {len(values)} values, more than {MAX_GROUPS}; "
                f'name a categorical column'
            )
        out[name] = {str(value): label == value for value in values.tolist()}
    return out


def _tenth(data: HeteroData, num_items: int) -> Tensor:
    count = torch.bincount(train_edges(data)[1].cpu(), minlength=num_items)
    rank = torch.searchsorted(count.sort().values, count)
    return 1 + 10 * rank // num_items


def _column(data: HeteroData, name: str, num_items: int) -> Tensor:
    store = data['item']
    if name not in store:
        columns = [key for key, x in store.items() if isinstance(x, Tensor) and x.dim() == 1]
        raise ValueError(
            f"'groups': there is no column data['item'].{name}; known are {[POPULARITY, *columns]}"
        )
    label = store[name]
    if not isinstance(label, Tensor) or label.shape != (num_items,) or label.is_floating_point():
        found = list(label.shape) if isinstance(label, Tensor) else type(label).__name__
        raise ValueError(
            f"'groups': data['item'].{name} must hold one integer or boolean for each of the "
            f'{num_items} items (got {found})'
        )
    return label.cpu()
