"""What explains recommendations, by :mod:`mrdib_pyg.pid`."""

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from mrdib_pyg.report.model_facts import Ranked, Source


class Why(NamedTuple):
    r"""What explains one recommendation.

    Args:
        item (int): The index of the item.
        parts (Dict[str, float]): What each part adds, in nats.
        total (float): Their sum.
        sentence (str): The same in words.
    """

    item: int
    parts: dict[str, float]
    total: float
    sentence: str


def explain(
    model: Any, source: 'Source', recommendations: Mapping[int, Sequence['Ranked']], number: int
) -> tuple[dict[int, list[Why]], str | None]:
    r"""Explains the first items of each user.

    Args:
        model (Recommender): The model.
        source (Source): Its data.
        recommendations (Dict[int, List[Ranked]]): The best items by user.
        number (int): The number of items to explain per user.

    Returns:
        Tuple[Dict[int, List[Why]], str or None]: The explanations by user, and a sentence where
        there are none.
    """
    pairs = [(user, x.item) for user, ranked in recommendations.items() for x in ranked[:number]]
    if not pairs:
        return {}, None
    try:
        explainer = importlib.import_module('mrdib_pyg.pid.explainer').Explainer
    except ImportError:
        return {}, 'This version of mrdib_pyg cannot say what explains a recommendation.'
    try:
        users, items = torch.tensor(pairs).unbind(dim=1)
        explained = explainer(model, source.data)(users, items)
    except (TypeError, ValueError) as e:  # no modality, or no validation edges
        return {}, f'What explains these items could not be said: {e}.'
    out: dict[int, list[Why]] = {}
    for (user, item), x in zip(pairs, explained):
        named = x._replace(user=source.user(user), item=source.item(item))
        out.setdefault(user, []).append(Why(item, dict(x.parts), x.total, named.sentence))
    return out, None
