from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from mrdib_pyg.nn.bottleneck import Posterior
from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.pid.score_source import ScoreSource

#: The names of the sources that are no modality.
CONTENT, ID, SCORE = 'content', 'id', 'score'


@torch.no_grad()
def model_sources(model: Recommender) -> dict[str, ScoreSource]:
    r"""Returns what a trained recommender can score a user and an item with.

    Args:
        model (Recommender): The model; its mode and parameters stay as they are.

    Returns:
        Dict[str, ScoreSource]: Per modality its own score, that of :meth:`Recommender.unimodal`,
        which reads this code alone; per pair of modalities, by the names joined by a plus sign, and
        as :obj:`"content"` for all modalities, the joint score, see
        :meth:`Recommender.fuse_content`, in which what is not named is held at its mean;
        :obj:`"id"`, the ranking score with all codes held at their mean, left out where that tells
        no two items apart; and :obj:`"score"`, the ranking score.

    Raises:
        TypeError: If the model is no :class:`Recommender`.
        ValueError: If the model has no modality, one has the name of another source, or a score is
            not finite.
    """
    if not isinstance(model, Recommender):
        raise TypeError(
            f"'model' ({type(model).__name__}) must be a Recommender of mrdib_pyg.nn.models, which "
            f'tells its codes from its fusion'
        )
    if len(model.modalities) == 0:
        raise ValueError(
            f'{type(model).__name__} reads no modality, so there is nothing to decompose; measure '
            f'a model with modalities'
        )
    taken = sorted({CONTENT, ID, SCORE, 'all'} & set(model.modalities))
    if taken:
        raise ValueError(
            f'the modality {taken[0]!r} has the name of a source of its own in a measurement; '
            f'rename it'
        )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        out = _sources(model)
    finally:
        if any(mode for _, mode in modes):
            model.train()  # first as a whole, so that a cache of embeddings is dropped
            for module, mode in modes:
                module.training = mode
    out = {  # a table that is an embedding as it is would carry a gradient
        name: ScoreSource(source.user.detach(), source.item.detach(), *source[2:])
        for name, source in out.items()
    }
    for name, source in out.items():
        if not all(x.isfinite().all() for x in source[:2]):
            raise ValueError(
                f"the scores by '{name}' are not finite, so nothing can be measured: check the "
                f'training loss, or lower the learning rate'
            )
    return out


def _sources(model: Recommender) -> dict[str, ScoreSource]:
    embeddings, posteriors, codes, *_ = model._embed(None)
    present = model.present()
    given: dict[str, Any] = dict(posteriors if model.fuse_posteriors and posteriors else codes)
    held = {
        name: tuple(
            None if code is None else _hold(code, None if present is None else present[name][side])
            for side, code in enumerate(pair)
        )
        for name, pair in given.items()
    }
    out: dict[str, ScoreSource] = {}
    for name, (user, item) in model.unimodal(codes, embeddings).items():
        masks = (None, None) if present is None else present[name]
        out[name] = ScoreSource(user, item, *masks)
    groups: dict[str, tuple[str, ...]] = {
        '+'.join(names): names for names in combinations(model.modalities, 2)
    }
    groups[CONTENT] = tuple(model.modalities)
    for name, names in groups.items():
        mixed = {m: given[m] if m in names else held[m] for m in given}
        out[name] = ScoreSource(*model.fuse_content(mixed, held))
    plain: Any = {m: tuple(getattr(x, 'z', x) for x in pair) for m, pair in held.items()}
    alone = model.fuse(held if model.fuse_posteriors else plain)
    source = ScoreSource(*model._encode_fused(alone.user, alone.item))
    if _varies_within_patterns(model, source.item):
        out[ID] = source
    else:  # nothing was there to be held at its mean
        for name, names in groups.items():
            if len(names) == len(model.modalities):
                out[name] = ScoreSource(*model._fuse_all(given))
    out[SCORE] = ScoreSource(embeddings.user, embeddings.item)
    return out


def _hold(code: Any, has: Tensor | None) -> Any:
    # The same for every row: the mean over those that have the modality.
    if isinstance(code, Posterior):
        held = (None if x is None else _hold(x, has) for x in code)
        return Posterior(*held)  # type: ignore[arg-type]
    rows = code if has is None or not bool(has.any()) else code[has]
    return rows.mean(dim=0).expand_as(code)


def _varies_within_patterns(model: Recommender, item: Tensor) -> bool:
    # Items that lack the same modalities differ, with codes at their mean, by their IDs alone.
    present = model.present()
    if present is None:
        return ScoreSource(item, item).varies
    pattern = torch.stack([pair[1] for pair in present.values()], dim=1)
    _, inverse, count = torch.unique(pattern, dim=0, return_inverse=True, return_counts=True)
    mean = item.new_zeros(len(count), item.size(1)).index_add(0, inverse, item)
    mean = mean / count.unsqueeze(1)
    spread = (item - mean[inverse]).abs().amax()
    return bool(spread > 1e-5 * item.abs().amax())
