"""What a section of the page is made of."""

from collections.abc import Sequence
from typing import Any, NamedTuple

MINUS = '\N{MINUS SIGN}'


class Cell(NamedTuple):
    r"""One cell of a table.

    Args:
        text (str): What is shown.
        value (float, optional): What the column is sorted by, if not by the text.
        is_best (bool): Whether it is marked as the best of its column.
        note (str): What is added in small print.
    """

    text: str
    value: float | None = None
    is_best: bool = False
    note: str = ''


class Table(NamedTuple):
    r"""A table with a caption.

    Args:
        caption (str): What it shows.
        columns (Sequence[str]): The headers; the first column heads the rows.
        rows (Sequence[Sequence[Cell]]): The cells.
        sortable (bool): Whether a click on a header sorts the rows.
        folded (bool): Whether it is folded away until it is asked for.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    folded: bool = False


class Figure(NamedTuple):
    r"""A chart.

    Args:
        name (str): A name for files and anchors, unlike that of any other figure.
        title (str): Its title.
        spec (Dict[str, Any]): The chart in Vega-Lite.
        description (str): What it shows, for those who do not see it.
    """

    name: str
    title: str
    spec: dict[str, Any]
    description: str


class Note(NamedTuple):
    r"""A sentence about what is missing or to be minded."""

    text: str


class Text(NamedTuple):
    r"""A paragraph, or a heading of its own."""

    text: str
    is_heading: bool = False


class Grid(NamedTuple):
    r"""Figures side by side, with the legend they share.

    Args:
        figures (Sequence[Figure]): The figures.
        legend (Sequence[Tuple[int, str]]): Indices of colors, dashes and shapes, and what they
            stand for.
        kind (str): What the legend shows: :obj:`'line'`, :obj:`'point'` or :obj:`'bar'`.
    """

    figures: Sequence[Figure]
    legend: Sequence[tuple[int, str]] = ()
    kind: str = 'point'


class Cards(NamedTuple):
    r"""Blocks that stand side by side where there is room.

    Args:
        cards (Sequence[Sequence[Table or Note or Text]]): What each holds.
    """

    cards: Sequence[Sequence[Table | Note | Text]]


Block = Table | Grid | Cards | Note | Text


class Tile(NamedTuple):
    r"""A number of the headline.

    Args:
        number (int): The number of the color and shape of what it belongs to.
        label (str): What it belongs to.
        value (str): The value.
        note (str): What is added in small print.
    """

    number: int
    label: str
    value: str
    note: str


class Headline(NamedTuple):
    r"""What is said first, of one data set.

    Args:
        title (str): What the numbers are.
        tiles (Sequence[Tile]): The numbers.
        sentences (Sequence[str]): What else there is to say.
    """

    title: str
    tiles: Sequence[Tile]
    sentences: Sequence[str]


class Section(NamedTuple):
    r"""A section of the page.

    Args:
        id (str): Its anchor.
        title (str): Its heading.
        introduction (str): What it shows, in plain words.
        blocks (Sequence[Table or Grid or Cards or Note or Text]): What it holds.
    """

    id: str
    title: str
    introduction: str
    blocks: Sequence[Block]
