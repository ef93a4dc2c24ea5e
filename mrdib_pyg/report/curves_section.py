"""The training curves of every term of the loss, and of the validation metric."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from mrdib_pyg.report import charts
from mrdib_pyg.report.groups import Group, mean_and_spread, weights_of
from mrdib_pyg.report.run_folder import RunFolder, is_number
from mrdib_pyg.report.section import MINUS, Block, Cell, Figure, Grid, Note, Section, Table

#: The terms that have a meaning across models: title and unit.
TERMS = {
    'loss': ('Loss: the weighted sum of all terms', 'nats'),
    'task': ('Task: the ranking loss', 'nats per triplet'),
    'bottleneck': ('Bottleneck: KL of the codes to the prior', 'nats per row'),
    'redundant': ('Redundant: estimate of I(Z₁; Z₂)', 'nats'),
    'unique': ('Unique: ranking loss of each code alone, summed', 'nats per triplet'),
    'synergistic': ('Synergistic: ranking loss of the fused codes', 'nats per triplet'),
}
MAX_POINTS, MAX_ALL_POINTS = 200, 12_000


def curves_section(groups: Sequence[Group]) -> Section:
    r"""Makes a figure per term of the loss and validation metric, and a table of the terms at the
    best epoch.

    Args:
        groups (Sequence[Group]): The runs, grouped by their settings.
    """
    runs = [run for group in groups for run in group.runs]
    monitors = list(dict.fromkeys(run.monitor for run in runs))
    rows = [row for run in runs for row in run.history]
    found = list(dict.fromkeys(name for row in rows for name in row['train']))
    terms = [name for name in TERMS if name in found]
    terms += [name for name in found if name not in TERMS]
    num_curves = max(1, len(runs) * (len(terms) + len(monitors)))
    limit = max(20, min(MAX_POINTS, MAX_ALL_POINTS // num_curves))

    figures: list[Figure | None] = []
    for metric in monitors:
        title = f'Validation {metric}'
        figures.append(_figure(groups, f'val-{metric}', title, metric, limit, _validation(metric)))
    for name in terms:
        title, unit = TERMS.get(name, (f'{name}: a term of the model', 'unweighted'))
        figures.append(_figure(groups, f'term-{name}', title, unit, limit, _term(name)))
    shown = [figure for figure in figures if figure is not None]
    blocks: list[Block] = []
    if shown:
        blocks.append(Grid(shown, [(group.number, group.label) for group in groups], 'line'))
        blocks.append(_table(groups, terms))
    else:
        blocks.append(Note('No run has a history of its training.'))
    for run in runs:
        blocks += [Note(note) for note in run.notes if 'history' in note]
    text = (
        'How training went, epoch by epoch: the validation metric that chose the epoch to keep, '
        'and every term of the loss, before its weight. One curve per run; the marked point is the '
        'epoch that was kept. Terms are means over the triplets of an '
        'epoch. Models with other terms or weights have another loss: compare it within one model.'
    )
    if len(_estimators(groups)) > 1:
        text += (
            ' The redundancy was estimated in different ways ('
            + ', '.join(_estimators(groups))
            + '), which are bounds of different kinds: compare its curves within one way only.'
        )
    if any(len(run.history) > limit for run in runs):
        text += f' Long curves are drawn through {limit} of their epochs.'
    return Section('training', 'Training', text, blocks)


def _figure(
    groups: Sequence[Group],
    name: str,
    title: str,
    unit: str,
    limit: int,
    value: Callable[[dict[str, Any]], Any],
) -> Figure | None:
    rows: list[dict[str, Any]] = []
    labels, words = [], []
    for group in groups:
        ends = []
        for run in group.runs:
            points = [(row['epoch'], value(row)) for row in run.history]
            points = [(epoch, x) for epoch, x in points if is_number(x)]
            if not points:
                continue
            best = run.best_epoch
            for epoch, x in thin(points, limit, best):
                row = {'epoch': epoch, 'value': _round(x), 'run': run.name, 'group': group.label}
                rows.append(row | ({'best': True} if epoch == best else {}))
            ends.append((points[0][1], points[-1][1]))
        if ends:
            labels.append((group.number, group.label))
            first, last = (mean_and_spread(values)[0] for values in zip(*ends))
            words.append(f'{group.label} from {first:.4g} to {last:.4g}')
    if not rows:
        return None
    description = f'{title} over epochs; first to last epoch: {"; ".join(words)}.'
    return Figure(f'training-{name.replace("@", "-")}', title, charts.lines(rows, labels, unit),
                  description)  # fmt: skip


def thin(
    points: Sequence[tuple[int, float]], limit: int, best: int | None
) -> list[tuple[int, float]]:
    r"""Returns at most :obj:`limit` points of a curve, evenly spaced, among them the first, the
    last and, beyond the limit, that of the best epoch.
    """
    if len(points) <= limit:
        return list(points)
    kept = {round(i * (len(points) - 1) / (limit - 1)) for i in range(limit)}
    kept |= {i for i, (epoch, _) in enumerate(points) if epoch == best}
    return [points[i] for i in sorted(kept)]


def _table(groups: Sequence[Group], terms: Sequence[str]) -> Table:
    rows = []
    for name in terms:
        row = [Cell(TERMS[name][0] if name in TERMS else name)]
        for group in groups:
            values = [x for run in group.runs if is_number(x := _at_best(run, name))]
            if not values:
                row.append(Cell('–'))
                continue
            mean, spread = mean_and_spread(values)
            # Four digits of the mean, and as many decimals of the deviation.
            decimals = 3 if mean == 0 else max(0, 3 - math.floor(math.log10(abs(mean))))
            text = f'{mean:.{decimals}f}'.replace('-', MINUS)
            text += '' if spread is None else f' ± {spread:.{decimals}f}'
            weight = weights_of(group.first).get(name)
            row.append(Cell(text, mean, note='' if weight is None else f'weight {weight:g}'))
        rows.append(row)
    columns = ['term', *(group.label for group in groups)]
    return Table('The terms at the epoch that was kept, before their weights', columns, rows)


def _at_best(run: RunFolder, name: str) -> Any:
    best = run.best_epoch
    if best is None or not 1 <= best <= len(run.history):
        return None
    return run.history[best - 1]['train'].get(name)


def _estimators(groups: Sequence[Group]) -> list[str]:
    found = [group.first.config['settings'].get('mrdib') for group in groups]
    return sorted(
        {str(m.get('redundancy', 'mine')) for m in found if m is not None and 'control' not in m}
    )


def _term(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row['train'].get(name)


def _validation(metric: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row['val'].get(metric) if isinstance(row.get('val'), dict) else None


def _round(x: float) -> float:
    return float(f'{x:.5g}')
