r"""The picture of an inspection."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLORS = {
    'alone': '#2563a8',
    'unique': '#1a7f5a',
    'novel': '#63cf9f',
    'shared': '#8c6a00',
    'synergy': '#b0246e',
    'total': '#4a5568',
}
FORMATS = ('.png', '.svg', '.pdf')


def draw(rows: Sequence[tuple[str, str, Any]], path: Path) -> None:
    r"""Draws a bar for each amount, given with its kind and name, its interval and its floor."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"'path' must end in {', '.join(FORMATS)} (got '{path.name}')")
    try:
        import matplotlib
    except ImportError:
        raise ValueError("a figure needs matplotlib: pip install 'mrdib_pyg[report]'") from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from mrdib_pyg.files import atomic_file

    with matplotlib.rc_context({'svg.hashsalt': 'mrdib', 'font.size': 9}):
        figure = Figure(figsize=(6.4, 0.8 + 0.3 * len(rows)), layout='constrained')
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for place, (kind, _, x) in enumerate(rows):
            axes.barh(
                place, x.value, color=COLORS[kind], alpha=1.0 if x.found else 0.35, height=0.6
            )
            axes.plot([x.low, x.high], [place, place], color='black', linewidth=1)
            axes.plot([x.floor] * 2, [place - 0.42, place + 0.42], color='red', linewidth=1.2)
        axes.set_yticks(range(len(rows)), [f'{kind} {name}'.strip() for kind, name, _ in rows])
        axes.invert_yaxis()
        axes.axvline(0, color='black', linewidth=0.6)
        axes.set_xlabel('nats per entry (black: 95 % over items; red: rows shuffled)')
        for side in ('top', 'right'):
            axes.spines[side].set_visible(False)
        kind = path.suffix.lower()[1:]
        metadata = {'png': None, 'svg': {'Date': None}, 'pdf': {'CreationDate': None}}[kind]
        with atomic_file(path) as part:
            figure.savefig(part, format=kind, metadata=metadata, dpi=150)
