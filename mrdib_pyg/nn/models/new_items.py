from collections.abc import Mapping

import torch
from torch import Tensor

from mrdib_pyg.nn.models.modality_features import ModalityFeatures
from mrdib_pyg.ops import masked_topk
from mrdib_pyg.ops.normalize_rows import normalize_rows


class NewItems:
    r"""Items that a model has not seen in training: their features, scaled as those of the data,
    and their neighbors among the items of the data.

    Args:
        items (ModalityFeatures): The items of the data.
        features (Dict[str, torch.Tensor]): Per modality the features of the new items, ``[n, F]``,
            as they would stand in the data. A modality that is not named is one that none has.
        present (Dict[str, torch.Tensor], optional): Per modality a boolean ``[n]`` that tells which
            of them have it. (default: :obj:`None`, all that are named)

    Attributes:
        x (Dict[str, torch.Tensor]): Per modality the scaled features; zeros where one is missing.
        present (Dict[str, torch.Tensor]): Per modality which of the items have it, ``[n]``.
        masks (List[torch.Tensor], optional): The same as a list, or :obj:`None` if nothing is
            missing.

    Raises:
        ValueError: If there is no modality, one is unknown, a shape does not fit, or a row in use
            holds NaN or infinity.
        TypeError: If a mask is not boolean.
    """

    def __init__(
        self,
        items: ModalityFeatures,
        features: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
    ) -> None:
        present = {} if present is None else present
        _check_names(items, features, present)
        first = next(iter(features))
        self.num_items = int(features[first].size(0)) if features[first].dim() > 0 else 0
        self._items = items
        self._raw: dict[str, Tensor] = {}
        self.x: dict[str, Tensor] = {}
        self.present: dict[str, Tensor] = {}
        for name in items.names:
            known = items(name)
            has = torch.zeros(self.num_items, dtype=torch.bool, device=known.device)
            x = known.new_zeros(self.num_items, known.size(1))
            if name in features:
                x = features[name].to(device=known.device, dtype=known.dtype)
                has = self._mask(name, present.get(name), known.device)
                if x.shape != (self.num_items, known.size(1)):
                    raise ValueError(
                        f"'features' of '{name}' must have the shape [{self.num_items}, "
                        f'{known.size(1)}], as the features of the data (got {list(x.shape)})'
                    )
                x = torch.where(has.unsqueeze(-1), x, torch.zeros_like(x))
                bad = (~x.isfinite().all(dim=1)).nonzero()
                if bad.numel() > 0:
                    raise ValueError(
                        f"row {int(bad[0])} of 'features' of '{name}' holds NaN or infinity; "
                        f"repair it, or let 'present' say that the item lacks the modality"
                    )
            self._raw[name], self.present[name] = x, has
            self.x[name] = items.scale(name, x, has)
        every = all(bool(has.all()) for has in self.present.values())
        self.masks: list[Tensor] | None = None if every else list(self.present.values())

    def _mask(self, name: str, mask: Tensor | None, device: torch.device) -> Tensor:
        if mask is None:
            return torch.ones(self.num_items, dtype=torch.bool, device=device)
        if mask.dtype != torch.bool:
            raise TypeError(f"'present' of '{name}' must be boolean (got {mask.dtype})")
        if mask.shape != (self.num_items,):
            raise ValueError(
                f"'present' of '{name}' must have one entry for each of the {self.num_items} items "
                f'(got the shape {list(mask.shape)})'
            )
        return mask.to(device)

    def masked(self, codes: Mapping[str, Tensor]) -> list[Tensor]:
        r"""Returns the codes as a list over modalities, with zeros where an item lacks one."""
        if self.masks is None:
            return list(codes.values())
        return [x * mask.unsqueeze(-1) for x, mask in zip(codes.values(), self.masks)]

    def sum(self, codes: Mapping[str, Tensor]) -> Tensor:
        r"""Returns the sum of the codes over the modalities that each item has."""
        return torch.stack(self.masked(codes)).sum(dim=0)

    def neighbors(self, name: str, k: int) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the items of the data whose features are closest by cosine: up to :obj:`k` for
        each new item that has the modality, as rows of the new items, ids, and cosines.
        """
        x = normalize_rows(self._items.unscaled(name))
        # A row of zeros has no direction, and so no neighbors.
        candidates = getattr(self._items, f'nonzero_{name}').nonzero().view(-1)
        rows = (self.present[name] & (self._raw[name] != 0).any(dim=1)).nonzero().view(-1)
        k = min(k, candidates.numel())
        if k < 1 or rows.numel() == 0:
            empty = rows.new_empty(0)
            return empty, empty, x.new_empty(0)
        query = normalize_rows(self._raw[name][rows])
        cosine, index = masked_topk(query, x[candidates], k)
        row = rows.repeat_interleave(k)
        return row, candidates[index.view(-1)], cosine.view(-1).clamp(-1, 1)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.num_items}, modalities={list(self.x)})'


def _check_names(
    items: ModalityFeatures, features: Mapping[str, Tensor], present: Mapping[str, Tensor]
) -> None:
    if len(features) == 0:
        raise ValueError(
            f"'features' is empty; name at least one of {items.names}, with zeros where 'present' "
            f'says that an item lacks it'
        )
    for name in features:
        if name not in items.names:
            raise ValueError(
                f"'features' names '{name}', but the model was trained on {items.names}"
            )
    for name in present:
        if name not in features:
            raise ValueError(
                f"'present' names '{name}', of which there are no 'features'; leave it out"
            )
