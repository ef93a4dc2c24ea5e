from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mrdib_pyg.nn.models.batch import Pair
from mrdib_pyg.nn.models.recommender import Recommender


@contextmanager
def drop_modalities(model: Recommender, ratio: float) -> Iterator[None]:
    r"""Drops modalities of items at random inside a :obj:`with` block, as in `"DropoutNet:
    Addressing Cold Start in Recommender Systems"
    <https://papers.nips.cc/paper/2017/hash/dbd22ba3bd0df8f385bdac3e9f8be207-Abstract.html>`_, so
    that a model learns not to rely on a modality that may be missing later.

    .. code-block:: python

        with drop_modalities(model, 0.3):
            terms = model.loss(batch)

    Each item loses each of its modalities with probability :obj:`ratio`. An item that would lose
    all keeps one, drawn uniformly. A user lacks a modality if all of the user's items do. A dropped
    modality counts as missing: fusion, message passing and MRdIB's terms leave it out. Item graphs
    do not change. Nothing is dropped in evaluation mode.

    The global random number generator draws the masks on entry. Nested blocks replace the masks of
    outer ones. :func:`~mrdib_pyg.training.fit` enters a block in every step with
    ``modality_dropout``.

    Args:
        model (Recommender): A model that reads item features.
        ratio (float): The probability. At :obj:`0` nothing is drawn or changed.

    Raises:
        ValueError: If :obj:`ratio` is not in ``[0, 1)``, or the model reads no modality.
    """
    check_ratio(model, ratio, 'ratio')
    if ratio == 0:
        yield
        return
    features = model.item_features
    has = torch.stack([features.mask(name) for name in features.names], dim=1)
    kept = _keep(has, ratio)
    user, item = model.train_edge_index
    masks: dict[str, Pair] = {}
    for name, mask in zip(features.names, kept.unbind(1)):
        # The number of the user's items that have it.
        count = torch.zeros(model.num_users, device=user.device)
        count.index_add_(0, user, mask.index_select(0, item).to(count.dtype))
        masks[name] = (count > 0, mask)
    before = features.set_masks(masks)
    try:
        yield
    finally:
        features.set_masks(before)


def check_ratio(model: Recommender, ratio: float, name: str) -> None:
    r"""Checks the argument :obj:`name`, a ratio at which to drop modalities of a model."""
    if not 0 <= ratio < 1:
        raise ValueError(f"'{name}' must lie in [0, 1) (got {ratio})")
    if ratio > 0 and not model.multimodal:
        raise ValueError(
            f"'{name}' must be 0 for {type(model).__name__}, which reads no modality (got {ratio})"
        )


def _keep(has: Tensor, ratio: float) -> Tensor:
    # One number for each item and modality. Where none exceeds the ratio, the largest stays, which
    # is each with the same probability.
    draw = torch.rand(has.shape, device=has.device).masked_fill(~has, -1.0)
    last = torch.zeros_like(has).scatter_(1, draw.argmax(dim=1, keepdim=True), True)
    return has & ((draw >= ratio) | last)
