import torch
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.transforms.item_features import modalities_of


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
