"""The figures of an experiment."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrdib_pyg.experiment.description import Experiment
from mrdib_pyg.experiment.records import Records
from mrdib_pyg.experiment.summary import csv_text, markdown, summarize
from mrdib_pyg.files import atomic_file, write_atomic

Summary = Mapping[str, Any]


def save_figures(summary: Summary, folder: str | Path) -> list[Path]:
    r"""Draws ``gains.svg``, the gain per model with its interval, and ``sensitivity.svg``, what the
    trials say about each weight of MRdIB. Each is written atomically.

    Args:
        summary (Dict[str, Any]): What :func:`summarize` returns.
        folder (str or Path): Where to put them; it must exist.

    Returns:
        List[Path]: The files; a figure for which there is nothing to draw is left out.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError(
            "figures need matplotlib: pip install 'mrdib_pyg[report]', or leave them out"
        ) from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    out = []
    # The same summary gives the same file: no random ids, no date.
    with matplotlib.rc_context({'svg.hashsalt': 'mrdib', 'font.size': 9}):
        for name, draw in (('gains', _gains), ('sensitivity', _sensitivity)):
            figure = Figure(layout='constrained')
            FigureCanvasAgg(figure)
            if draw(figure, summary):
                path = Path(folder) / f'{name}.svg'
                with atomic_file(path) as part:
                    figure.savefig(part, format='svg', metadata={'Date': None})
                out.append(path)
    return out


def _gains(
    figure: Any, summary: Summary, metrics: tuple[str, ...] = ('recall@5', 'ndcg@5')
) -> bool:
    columns = []
    for dataset, of_dataset in summary['datasets'].items():
        rows = [
            (model if len(of_model['gains']) == 1 else f'{model} {variant}', of_metric)
            for model, of_model in of_dataset['models'].items()
            for variant, of_metric in of_model['gains'].items()
        ]
        means = summary['mean_gains'].get(dataset, {}).items()
        rows += [('mean' if len(means) == 1 else f'mean {v}', g) for v, g in means]
        if rows:
            columns.append((dataset, rows))
    if not columns:
        return False
    first = columns[0][1][0][1]
    shown = [metric for metric in metrics if metric in first] or list(first)[:1]
    height = max(len(rows) for _, rows in columns)
    figure.set_size_inches(3.2 + 3.2 * len(columns), 1.4 + 0.4 * height)
    for ax, (dataset, rows) in zip(figure.subplots(1, len(columns), squeeze=False).flat, columns):
        for i, metric in enumerate(shown):
            points = [(y, row[metric]) for y, (_, row) in enumerate(rows)]
            points = [(y, g) for y, g in points if None not in (g['gain'], g['low'], g['high'])]
            x = [100 * g['gain'] for _, g in points]
            ends = [[100 * abs(g['gain'] - g[end]) for _, g in points] for end in ('low', 'high')]
            offset = 0.12 * (2 * i - len(shown) + 1)
            ax.errorbar(x, [y + offset for y, _ in points], xerr=ends, fmt='o', capsize=2,
                        markersize=4, label=metric)  # fmt: skip
        ax.axvline(0, color='black', linewidth=0.8)
        ax.set_yticks(range(len(rows)), [label for label, _ in rows])
        ax.invert_yaxis()
        ax.set_title(dataset)
        ax.set_xlabel('gain over the best of the others, %')
        ax.legend()
    return True


def _sensitivity(figure: Any, summary: Summary) -> bool:
    r"""One row per data set, one panel per weight, one line per model: the trials of MRdIB against
    the trial of the plain model that shares all settings of the model.
    """
    terms = ('bottleneck', 'redundant', 'unique')
    rows = []
    for dataset, of_dataset in summary['datasets'].items():
        lines = {}
        for model, of_model in of_dataset['models'].items():
            variants = of_model['variants'].values()
            plain = next((v for v in variants if v['kind'] == 'plain'), None)
            treated = next((v for v in variants if v['kind'] == 'mrdib'), None)
            if plain is not None and treated is not None:
                lines[model] = sensitivity(plain['trials'], treated['trials'])
        if any(by_value for of_model in lines.values() for by_value in of_model.values()):
            rows.append((dataset, lines))
    if not rows:
        return False
    figure.set_size_inches(9.6, 2.6 * len(rows) + 0.4)
    panels = figure.subplots(len(rows), len(terms), squeeze=False, sharey='row')
    for row, (dataset, lines) in zip(panels, rows):
        for ax, term in zip(row, terms):
            values: set[float] = set()
            for model, of_model in lines.items():
                points = {float(w): 100 * statistics.mean(g) for w, g in of_model[term].items()}
                values |= set(points)
                x = sorted(points)
                ax.plot(x, [points[w] for w in x], 'o-', markersize=3, label=model)
            ax.axhline(0, color='black', linewidth=0.8)
            # Zero leaves a term out: it has a place, left of the smallest weight.
            positive = [w for w in values if w > 0] or [1.0]
            left = min(positive) / 1.5 if 0.0 not in values else -0.3 * min(positive)
            ax.set_xscale('symlog', linthresh=min(positive))
            ax.set_xlim(left, 1.5 * max(positive))
            labels = [f'{w:g}' for w in sorted(values)]
            ax.set_xticks(sorted(values), labels, rotation=45, ha='right')
            ax.minorticks_off()
            ax.set_xlabel(f'weight of {term}')
        row[0].set_title(dataset, loc='left')
        row[0].set_ylabel('validation gain\nover plain, %')
    panels[0, 0].legend(fontsize=7)
    return True


def sensitivity(
    plain: list[dict[str, Any]], treated: list[dict[str, Any]]
) -> dict[str, dict[float, list[float]]]:
    r"""Returns the relative validation gains of the trials of MRdIB over the plain trials of the
    same settings of the model, by the first selection seed: per weight, by its value.
    """
    out: dict[str, dict[float, list[float]]] = {}
    for term in ('bottleneck', 'redundant', 'unique'):
        out[term] = {}
        for a, b in zip(treated, plain):
            same = a['settings'] == b['settings'] and a['fit'] == b['fit']
            if same and a['val'] and b['val'] and a['val'][0] and b['val'][0]:
                gain = a['val'][0] / b['val'][0] - 1
                out[term].setdefault(a['weights'][term], []).append(gain)
    return out


def save_report(
    experiment: Experiment, folder: str | Path, figures: bool = False, num_samples: int = 2000
) -> dict[str, Any]:
    r"""Writes what the finished runs of an experiment say: ``summary.json``, and made of it alone
    ``table.md``, ``table.csv`` and, if asked for, the figures ``gains.svg`` and
    ``sensitivity.svg``.

    Args:
        experiment (Experiment): The experiment.
        folder (str or Path): The folder of its records.
        figures (bool, optional): If set to :obj:`True`, draws the figures, which takes matplotlib.
            (default: :obj:`False`)
        num_samples (int, optional): The number of resamples of the bootstrap.
            (default: :obj:`2000`)

    Returns:
        Dict[str, Any]: The summary.

    Raises:
        ValueError: If nothing has finished, or matplotlib is asked for and not installed.
    """
    folder = Path(folder)
    summary = summarize(experiment, Records(folder), num_samples)
    text = json.dumps(summary, indent=1, allow_nan=False) + '\n'
    for name, content in (
        ('summary.json', text),
        ('table.md', markdown(summary)),
        ('table.csv', csv_text(summary)),
    ):
        write_atomic(folder / name, content.encode())
    if figures:
        save_figures(summary, folder)
    return summary
