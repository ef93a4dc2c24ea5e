"""What the transforms read of a data set: features, masks of what is missing, edges."""

from collections.abc import Sequence

from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce

EDGE = ('user', 'rates', 'item')


def modalities_of(data: HeteroData, modality: None | str | Sequence[str]) -> list[str]:
    r"""Returns the modalities asked for, or all that the items have.

    Raises:
        ValueError: If one has no features, or there is none.
    """
    known = [key[2:] for key in data['item'].keys() if key.startswith('x_')]
    names = [modality] if isinstance(modality, str) else list(modality or known)
    for name in names:
        if name not in known:
            raise ValueError(
                f"'modality' names '{name}', but there is no data['item'].x_{name}; the items have "
                f'{known}'
            )
    if len(names) == 0:
        raise ValueError("the items have no features; set data['item'].x_<modality>")
    return names


def available(data: HeteroData, name: str) -> Tensor | None:
    r"""Returns the mask of the items that have a modality, or :obj:`None` if all do. A row of
    zeros has no direction, and so no neighbors: it counts as missing.
    """
    x = data['item'][f'x_{name}']
    mask = (x != 0).any(dim=1)
    if f'has_{name}' in data['item']:
        mask &= data['item'][f'has_{name}'].bool()
    return None if bool(mask.all()) else mask


def train_edges(data: HeteroData) -> Tensor:
    r"""Returns the training edges, sorted and without repeats."""
    if EDGE not in data.edge_types:
        raise ValueError(f"'data' has no training edges {EDGE}")
    # Which multiplies ids, and their products may exceed 32 bits.
    return coalesce(data[EDGE].edge_index.long())
