"""The colors of the page and of its charts, on light and on dark ground."""

from collections.abc import Mapping
from typing import Any

#: Every color by its name, on light and on dark ground. ``s`` are groups of runs, ``m`` modalities.
COLORS: dict[str, tuple[str, str]] = {
    'ground': ('#ffffff', '#14171c'),
    'surface': ('#f6f7f9', '#1c2027'),
    'text': ('#1a1d21', '#e8eaed'),
    'muted': ('#59616b', '#a3acb8'),
    'line': ('#d9dde3', '#343b46'),
    'grid': ('#e8ebef', '#2a303a'),
    'link': ('#1d5a9e', '#8ab8f2'),
    'note': ('#fff7e0', '#2d2716'),
    'note-line': ('#a87900', '#c9a227'),
    's0': ('#2563a8', '#7fb2f0'),
    's1': ('#b5470b', '#f2a26b'),
    's2': ('#1a7f5a', '#63cf9f'),
    's3': ('#7b3fa0', '#cba3ea'),
    's4': ('#8c6a00', '#dfc15a'),
    's5': ('#b0246e', '#f291bf'),
    's6': ('#4a5568', '#a9b4c4'),
    's7': ('#0f7c8a', '#5fc9d6'),
    'm0': ('#0f766e', '#4fd1c0'),
    'm1': ('#c2410c', '#ff9a6b'),
    'm2': ('#6d28d9', '#b79cff'),
    'm3': ('#8a5a00', '#e6c35c'),
}
#: Colors are never alone in telling series apart: so do dashes of lines and shapes of points.
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 4], [4, 2, 1, 2], [1, 3], [12, 2, 2, 2])
SHAPES = ('circle', 'square', 'triangle-up', 'diamond', 'cross', 'triangle-down', 'stroke', 'arrow')
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


def series(index: int, kind: str = 's') -> str:
    r"""Returns the color of a group of runs (``s``) or of a modality (``m``), as a CSS variable."""
    number = sum(name[0] == kind and name[1:].isdecimal() for name in COLORS)
    return f'var(--{kind}{index % number})'


def css_variables(dark: bool) -> str:
    r"""Returns the declarations of all colors."""
    return ' '.join(f'--{name}: {pair[dark]};' for name, pair in COLORS.items())


def vega_config(legend: bool) -> dict[str, Any]:
    r"""Returns the configuration of all charts, in CSS variables.

    Args:
        legend (bool): Whether a chart draws its own legend; on the page charts share one.
    """
    text = {'labelColor': 'var(--muted)', 'titleColor': 'var(--text)', 'titleFontWeight': 500}
    return {
        'background': 'transparent',
        'font': FONT,
        'axis': {
            **text,
            'domainColor': 'var(--line)', 'tickColor': 'var(--line)', 'gridColor': 'var(--grid)',
            'labelFontSize': 11, 'titleFontSize': 11.5, 'titlePadding': 8, 'labelLimit': 260,
        },
        'legend': {
            'disable': not legend, **text, 'orient': 'bottom', 'labelFontSize': 11, 'title': None,
            'labelLimit': 400, 'symbolLimit': 40, 'direction': 'horizontal',
        },
        'title': {'color': 'var(--text)', 'fontSize': 13, 'fontWeight': 600, 'anchor': 'start'},
        'view': {'stroke': None},
        'text': {'color': 'var(--muted)', 'fontSize': 11},
    }  # fmt: skip


def resolve(spec: Any, dark: bool = False) -> Any:
    r"""Returns a chart with colors in the place of CSS variables, for a picture of its own."""
    if isinstance(spec, Mapping):
        return {key: resolve(value, dark) for key, value in spec.items()}
    if isinstance(spec, (list, tuple)):
        return [resolve(value, dark) for value in spec]
    if isinstance(spec, str) and spec.startswith('var(--'):
        return COLORS[spec[len('var(--') : -1]][dark]
    return spec
