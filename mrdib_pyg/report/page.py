"""The page: sections in, one HTML file out."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrdib_pyg.report import charts
from mrdib_pyg.report.section import Cards, Figure, Grid, Headline, Note, Section, Table, Text
from mrdib_pyg.report.theme import DASHES, SHAPES, css_variables, series, vega_config

ASSETS = Path(__file__).parent / 'assets'
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
    r"""Renders the page. Whatever comes from files, such as names and ids, is escaped.

    Args:
        title (str): The title.
        headlines (Sequence[Headline]): What is said first, of each data set.
        facts (Sequence[str]): What the report is about, in a few words each.
        sections (Sequence[Section]): The sections.
        version (str): The version of this package.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.tests.update(
        table=lambda x: isinstance(x, Table), grid=lambda x: isinstance(x, Grid),
        cards=lambda x: isinstance(x, Cards), note=lambda x: isinstance(x, Note),
        text=lambda x: isinstance(x, Text),
    )  # fmt: skip
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
        swatch=_swatch,
        light=css_variables(dark=False),
        dark=css_variables(dark=True),
        style=(ASSETS / 'report.css').read_text(encoding='utf-8'),
        script=(ASSETS / 'report.js').read_text(encoding='utf-8'),
        library=_script(charts.javascript()) if figures else '',
        payload=_json(payload) if figures else '',
    )


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
    r"""Escapes a text; what it has between backticks is code."""
    from markupsafe import escape

    return re.sub(r'`([^`]+)`', r'<code>\1</code>', str(escape(text)))


def _json(value: Any) -> str:
    # In a script element only `<` could end it, or begin a comment that hides its end.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':'))
    return text.replace('<', '\\u003c').replace('\u2028', '\\u2028').replace('\u2029', '\\u2029')


def _script(text: str) -> str:
    return text.replace('</script', '<\\/script').replace('<!--', '<\\!--')
