from collections.abc import Sequence

import torch
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.transforms.item_features import modalities_of


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
