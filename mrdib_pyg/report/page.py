"""The page: sections in, one HTML file out."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrdib_pyg.report import charts
from mrdib_pyg.report.charts import DASHES, SHAPES, css_variables, series, vega_config

MINUS = '\N{MINUS SIGN}'


class Cell(NamedTuple):
    r"""One cell of a table."""

    text: str
    value: float | None = None  # what the column is sorted by, if not by the text
    is_best: bool = False  # marked as the best of its column
    note: str = ''  # in small print


#: What stands where a table has no value.
MISSING = Cell('–')


def signed(x: float, digits: int = 4) -> str:
    r"""A difference with its sign."""
    return f'{x:+.{digits}f}'.replace('-', MINUS)


class Table(NamedTuple):
    r"""A table with a caption."""

    caption: str
    columns: Sequence[str]  # the headers; the first column heads the rows
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False  # a click on a header sorts the rows
    folded: bool = False  # a click unfolds it


class Figure(NamedTuple):
    r"""A chart."""

    name: str  # of its file and anchor, unique on the page
    title: str
    spec: dict[str, Any]  # the chart in Vega-Lite
    description: str  # for screen readers


class Note(NamedTuple):
    r"""A sentence about what is missing, or a caution."""

    text: str


class Text(NamedTuple):
    r"""A paragraph, or a heading of its own."""

    text: str
    is_heading: bool = False


class Grid(NamedTuple):
    r"""Figures side by side, with the legend they share."""

    figures: Sequence[Figure]
    # indices of colors, dashes and shapes, and what they stand for
    legend: Sequence[tuple[int, str]] = ()
    kind: str = 'point'  # what the legend shows: 'line', 'point', 'bar' or 'modality'


class Cards(NamedTuple):
    r"""Blocks that stand side by side where there is room."""

    cards: Sequence[Sequence[Table | Note | Text]]


Block = Table | Grid | Cards | Note | Text


class Tile(NamedTuple):
    r"""A number of the headline."""

    number: int  # of its color and shape
    label: str
    value: str
    note: str  # in small print


class Headline(NamedTuple):
    r"""The summary of one data set, above all sections."""

    title: str
    tiles: Sequence[Tile]
    sentences: Sequence[str]


class Section(NamedTuple):
    r"""A section of the page."""

    id: str
    title: str
    introduction: str
    blocks: Sequence[Block]


ASSETS = Path(__file__).parent / 'assets'

#: Marks a page as a report, which another report may replace.
GENERATOR = '<meta name="generator" content="mrdib_pyg '

#: Outlines of the shapes of points in legends, in a square of 16.
OUTLINES = {
    'circle': 'M8 3a5 5 0 1 0 .01 0z',
    'square': 'M3.5 3.5h9v9h-9z',
    'triangle-up': 'M8 2.5l6 10.5H2z',
    'diamond': 'M8 2l5.5 6L8 14 2.5 8z',
    'cross': 'M6 2.5h4V6h3.5v4H10v3.5H6V10H2.5V6H6z',
    'triangle-down': 'M8 13.5L2 3h12z',
    'stroke': 'M2 7h12v2H2z',
    'arrow': 'M8 2l5 6h-3v6H6V8H3z',
}


def render(
    title: str,
    headlines: Sequence[Headline],
    facts: Sequence[str],
    sections: Sequence[Section],
    version: str,
) -> str:
    r"""Renders the page, with names and ids from files escaped. ``facts`` are a few words each on
    what the report covers.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters['kind'] = lambda block: type(block).__name__
    environment.filters['prose'] = _prose
    figures = figures_of(sections)
    payload = {
        'config': vega_config(legend=False),
        'charts': {figure.name: figure.spec for figure in figures},
    }
    return environment.get_template('report.html').render(
        title=title,
        headlines=headlines,
        facts=facts,
        sections=sections,
        version=version,
        generator=GENERATOR,
        swatch=_swatch,
        light=css_variables(dark=False),
        dark=css_variables(dark=True),
        style=(ASSETS / 'report.css').read_text(encoding='utf-8'),
        script=(ASSETS / 'report.js').read_text(encoding='utf-8'),
        library=_script(charts.javascript()) if figures else '',
        payload=_json(payload) if figures else '',
    )


def rounded(x: float) -> float:
    r"""Rounds to the five digits that a chart can show."""
    return float(f'{x:.5g}')


def figures_of(sections: Sequence[Section]) -> list[Figure]:
    r"""Returns the figures of all sections."""
    return [
        figure
        for section in sections
        for block in section.blocks
        if isinstance(block, Grid)
        for figure in block.figures
    ]


def _swatch(index: int, kind: str) -> dict[str, Any]:
    r"""Returns what the template draws beside a label of a legend."""
    letter = 'm' if kind == 'modality' else 's'
    return {
        'color': series(index, letter),
        'dash': ' '.join(map(str, DASHES[index % len(DASHES)])) if kind == 'line' else None,
        'path': None if kind == 'bar' else OUTLINES[SHAPES[index % len(SHAPES)]],
    }


def _prose(text: str) -> Any:
    r"""Escapes a text and sets what stands between backticks as code."""
    from markupsafe import escape

    return re.sub(r'`([^`]+)`', r'<code>\1</code>', str(escape(text)))


def _json(value: Any) -> str:
    # In a script element only `<` could end it, or begin a comment that hides its end.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':'))
    return text.replace('<', '\\u003c').replace('\u2028', '\\u2028').replace('\u2029', '\\u2029')


def _script(text: str) -> str:
    return text.replace('</script', '<\\/script').replace('<!--', '<\\!--')
