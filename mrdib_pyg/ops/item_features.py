"""Edges from users to items together with features of the items, refused where they do not fit."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_item_features(
    edge_index: Tensor,
    features: Sequence[Tensor],
    masks: Sequence[Tensor | None] | None,
    num_users: int,
) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
    r"""Returns the edges with ids of type :obj:`int64`, the features with zeros where a modality is
    missing, and a mask or :obj:`None` for each modality.

    Raises:
        ValueError: If there are no features, shapes or types do not fit, an id is out of range, or
            a feature of an item that has the modality is NaN or infinite.
    """
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"'edge_index' must have the shape [2, num_edges] (got {list(edge_index.shape)})"
        )
    if edge_index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"'edge_index' must hold integer ids (got {edge_index.dtype})")
    if len(features) == 0:
        raise ValueError("'features' is empty; pass the features of at least one modality")
    masks = [None] * len(features) if masks is None else list(masks)
    if len(masks) != len(features):
        raise ValueError(
            f"'masks' must have one entry for each of the {len(features)} matrices in 'features' "
            f'(got {len(masks)})'
        )
    num_items = features[0].size(0)
    out = []
    for i, (x, mask) in enumerate(zip(features, masks)):
        if x.dim() != 2 or x.size(0) != num_items:
            raise ValueError(
                f"'features[{i}]' must be a matrix with a row for each of the {num_items} items "
                f'(got the shape {list(x.shape)})'
            )
        if mask is not None:
            if mask.dtype != torch.bool or mask.shape != (num_items,):
                raise ValueError(
                    f"'masks[{i}]' must hold one bool for each of the {num_items} items (got "
                    f'{mask.dtype} of the shape {list(mask.shape)})'
                )
            x = torch.where(mask.unsqueeze(-1), x, 0.0)
        finite = torch.isfinite(x).all(dim=1)
        if not bool(finite.all()):
            raise ValueError(
                f"row {int((~finite).nonzero()[0])} of 'features[{i}]' holds NaN or infinity; mask "
                f'it or repair it'
            )
        out.append(x)
    if edge_index.numel() > 0:
        low = edge_index.min(dim=1).values.tolist()
        high = edge_index.max(dim=1).values.tolist()
        for name, a, b, num in zip(('user', 'item'), low, high, (num_users, num_items)):
            if a < 0 or b >= num:
                raise ValueError(
                    f"'edge_index' has {name} ids from {a} to {b}, but only 0 to {num - 1} exist"
                )
    return edge_index.long(), out, masks
