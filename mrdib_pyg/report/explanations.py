"""What explains a recommendation, by :mod:`mrdib_pyg.pid`."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mrdib_pyg.report.model_facts import Source


class Explanation(NamedTuple):
    r"""What explains one recommendation.

    Args:
        text (str): A sentence.
        parts (List[Tuple[str, float]]): What each part adds, in nats.
    """

    text: str
    parts: list[tuple[str, float]]


def explain(model: Any, source: 'Source', user: int, item: int) -> Explanation | None:
    r"""Explains why a model recommends an item to a user. Not available yet."""
    return None
