from collections.abc import Sequence

import torch
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.interactions import modality_mask
from mrdib_pyg.transforms.item_graphs import chosen_modalities


@functional_transform('fill_missing')
class FillMissing(BaseTransform):
    r"""Gives the items that lack a modality the mean of the others, and removes the mask
    ``data['item'].has_<modality>``. Comparisons with published results need this. Otherwise the
    models of this package leave missing modalities out.

    Args:
        modality (str or list[str], optional): The modalities. (default: :obj:`None`, all)

    Raises:
        ValueError: If no item has the modality, or there is no such modality.
    """

    def __init__(self, modality: None | str | Sequence[str] = None) -> None:
        self.modality = modality

    def forward(self, data: HeteroData) -> HeteroData:
        store = data['item']
        for name in chosen_modalities(data, self.modality):
            x, has = store[f'x_{name}'], modality_mask(data, name)
            if has is None:
                continue
            if not bool(has.any()):
                raise ValueError(
                    f"data['item'].has_{name} must hold at least one item (got none); remove "
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
    r"""Removes a modality from randomly drawn items: their features become zero, and
    ``data['item'].has_<modality>`` says so.

    A higher :obj:`ratio` removes all that a lower one removes, for the same :obj:`seed`. Build
    graphs from features afterwards.

    Args:
        modality (str): The modality.
        ratio (float): The share of the items that have it and lose it, from 0 to 1.
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
        [name] = chosen_modalities(data, self.modality)
        store = data['item']
        x = store[f'x_{name}']
        given = modality_mask(data, name)
        has = (x.new_ones(x.size(0)).bool() if given is None else given).clone()
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
