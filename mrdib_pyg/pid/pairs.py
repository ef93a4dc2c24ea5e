from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.interactions import held_out_edges, num_nodes, training_edges
from mrdib_pyg.ops import sample_negatives
from mrdib_pyg.ops.negative_sampling import encode_edges

NEGATIVES = ('uniform', 'popularity')

_MAX_ROUNDS = 64


class LabeledPairs(NamedTuple):
    r"""Held-out edges, then as many non-edges of the same users in the same order."""

    user: Tensor  # [n]
    item: Tensor  # [n]
    y: Tensor  # [n], 1 for an edge and 0 for a non-edge


def sample_pairs(
    data: HeteroData,
    split: str,
    negatives: str = 'uniform',
    seed: int = 0,
    items: Tensor | None = None,
) -> LabeledPairs:
    r"""Draws for each held-out edge of ``split`` an item to which the user has no edge in any
    split, see :func:`measure_pid` for ``negatives``. A mask ``items`` ``[I]`` restricts both edges
    and draws. Edges whose users have no item left are dropped.
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"'negatives' must be one of {list(NEGATIVES)} (got {negatives!r})")
    num_items = num_nodes(data, 'item')
    user, item = held_out_edges(data, split).cpu()
    known = [training_edges(data).cpu()]
    for edge_type in data.edge_types:
        if edge_type[::2] == ('user', 'item') and 'edge_label_index' in data[edge_type]:
            known.append(data[edge_type].edge_label_index.cpu())
    codes = torch.unique(encode_edges(torch.cat(known, dim=1), num_items))
    candidates = None
    if items is not None:
        items = items.cpu()
        user, item = user[items[item]], item[items[item]]
        candidates = items.nonzero().view(-1)
    generator = torch.Generator().manual_seed(seed)
    if user.numel() == 0:
        drawn = user
    elif negatives == 'uniform':
        drawn = sample_negatives(user, codes, num_items, candidates=candidates, generator=generator)
    else:
        drawn = _draw_as_often(user, item, codes, num_items, generator)
    keep, num_edges = drawn >= 0, user.numel()
    user, item, drawn = user[keep], item[keep], drawn[keep]
    if user.numel() == 0 and items is None:
        raise ValueError(
            f"'negatives' must leave a non-edge for some user (got '{negatives}', with none for "
            f"{num_edges} edges of the split '{split}'); use other negatives or a larger split"
        )
    one = torch.ones_like(user)
    return LabeledPairs(
        torch.cat([user, user]), torch.cat([item, drawn]), torch.cat([one, 1 - one])
    )


def _draw_as_often(
    user: Tensor, item: Tensor, codes: Tensor, num_items: int, generator: torch.Generator
) -> Tensor:
    # Draws items as often as they occur, and again where they hit an edge; -1 after all rounds.
    out = torch.full_like(user, -1)
    left = torch.arange(user.numel())
    for _ in range(_MAX_ROUNDS):
        drawn = item[torch.randint(item.numel(), (left.numel(),), generator=generator)]
        code = user[left] * num_items + drawn
        place = torch.searchsorted(codes, code).clamp(max=codes.numel() - 1)
        free = codes[place] != code
        out[left[free]] = drawn[free]
        left = left[~free]
        if left.numel() == 0:
            break
    return out


POPULARITY = 'popularity'

MAX_GROUPS = 100


def item_groups(
    data: HeteroData, names: Sequence[str], num_items: int
) -> dict[str, dict[str, Tensor]]:
    r"""Returns a boolean mask ``[I]`` for each group of each grouping, see :func:`measure_pid`.
    Items with equal numbers of training edges share a tenth, so some tenths may be empty.
    """
    out: dict[str, dict[str, Tensor]] = {}
    for name in names:
        if name == POPULARITY:
            label, values = _tenth(data, num_items), torch.arange(1, 11)
        else:
            label = _column(data, name, num_items)
            values = torch.unique(label)
        if len(values) > MAX_GROUPS:
            raise ValueError(
                f"'groups' must name columns of at most {MAX_GROUPS} values (got '{name}' with "
                f'{len(values)})'
            )
        out[name] = {str(value): label == value for value in values.tolist()}
    return out


def _tenth(data: HeteroData, num_items: int) -> Tensor:
    count = torch.bincount(training_edges(data)[1].cpu(), minlength=num_items)
    rank = torch.searchsorted(count.sort().values, count)
    return 1 + 10 * rank // num_items


def _column(data: HeteroData, name: str, num_items: int) -> Tensor:
    store = data['item']
    if name not in store:
        columns = [key for key, x in store.items() if isinstance(x, Tensor) and x.dim() == 1]
        raise ValueError(
            f"'groups' must be some of {[POPULARITY, *columns]}, of data['item'] (got '{name}')"
        )
    label = store[name]
    if not isinstance(label, Tensor) or label.shape != (num_items,) or label.is_floating_point():
        found = list(label.shape) if isinstance(label, Tensor) else type(label).__name__
        raise ValueError(
            f"'groups': data['item'].{name} must hold an integer or boolean for each of the "
            f'{num_items} items (got {found})'
        )
    return label.cpu()
