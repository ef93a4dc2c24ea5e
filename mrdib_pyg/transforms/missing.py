from collections.abc import Sequence

import torch
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.transforms.item_graphs import modalities_of


@functional_transform('fill_missing')
class FillMissing(BaseTransform):
    r"""Gives the items that lack a modality the mean of those that have it, and takes the mask
    ``data['item'].has_<modality>`` away: to a model they are items like all others.

    This is what published data sets do, and what comparisons with their results need. The models
    of this package do without: they leave out what is missing.

    Args:
        modality (str or list[str], optional): The modalities. (default: :obj:`None`, all)

    Raises:
        ValueError: If no item has the modality, or there is no such modality.
    """

    def __init__(self, modality: None | str | Sequence[str] = None) -> None:
        self.modality = modality

    def forward(self, data: HeteroData) -> HeteroData:
        store = data['item']
        for name in modalities_of(data, self.modality):
            if f'has_{name}' not in store:
                continue
            x, has = store[f'x_{name}'], store[f'has_{name}'].bool()
            if not bool(has.any()):
                raise ValueError(
                    f"no item has the modality '{name}', so there is no mean to fill in; drop "
                    f"data['item'].x_{name}"
                )
            mean = x[has].mean(dim=0, dtype=torch.float64).to(x.dtype)
            store[f'x_{name}'] = torch.where(has.unsqueeze(-1), x, mean)
            del store[f'has_{name}']
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(modality={self.modality!r})'


@functional_transform('mask_modality')
class MaskModality(BaseTransform):
    r"""Takes a modality away from some items, drawn by chance: their features become zero and
    ``data['item'].has_<modality>`` says so.

    The items are the first of a random order of those that have it, which the seed alone decides:
    what a lower :obj:`ratio` takes away, a higher one does too. Graphs made of features are not
    touched; make them afterwards.

    Args:
        modality (str): The modality.
        ratio (float): The share of the items that have it to take it away from, from 0 to 1.
        seed (int, optional): Seeds the order. (default: :obj:`0`)

    Raises:
        ValueError: If :obj:`ratio` is out of range or there is no such modality.
    """

    def __init__(self, modality: str, ratio: float, seed: int = 0) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"'ratio' must lie in [0, 1] (got {ratio})")
        self.modality = modality
        self.ratio = ratio
        self.seed = seed

    def forward(self, data: HeteroData) -> HeteroData:
        [name] = modalities_of(data, self.modality)
        store = data['item']
        x = store[f'x_{name}']
        has = torch.ones(x.size(0), dtype=torch.bool, device=x.device)
        if f'has_{name}' in store:
            has = store[f'has_{name}'].bool().clone()
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(x.size(0), generator=generator).to(x.device)
        order = order[has[order]]
        has[order[: round(self.ratio * order.numel())]] = False
        store[f'x_{name}'] = torch.where(has.unsqueeze(-1), x, torch.zeros_like(x))
        store[f'has_{name}'] = has
        return data

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}(modality={self.modality!r}, ratio={self.ratio}, '
            f'seed={self.seed})'
        )
