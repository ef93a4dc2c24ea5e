"""The results on the test edges, with their spread over seeds."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from mrdib_pyg.report import charts
from mrdib_pyg.report.page import (
    MINUS,
    Block,
    Cell,
    Figure,
    Grid,
    Headline,
    Note,
    Section,
    Table,
    Text,
    Tile,
    rounded,
)
from mrdib_pyg.report.runs import Group, RunFolder, flatten, is_number, mean_and_spread, weights_of

MAIN, FURTHER = ('recall', 'ndcg'), ('precision', 'map')


def results_section(groups: Sequence[Group]) -> Section:
    r"""Makes a table of results for each data set, a figure of the spread over seeds, and the
    differences to the plain model.
    """
    blocks: list[Block] = []
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    for dataset in datasets:
        of_dataset = [group for group in groups if group.dataset == dataset]
        if len(datasets) > 1:
            blocks.append(Text(dataset, is_heading=True))
        blocks += _of_dataset(of_dataset, dataset)
    for run in (run for group in groups for run in group.runs):
        blocks += [Note(note) for note in run.notes if 'history' not in note]
    return Section(
        'results',
        'Results',
        'Each model ranks all items for every user, at its best epoch on the validation edges; the '
        'metrics are those of held-out test edges. A row is the mean over the seeds of one '
        'setting, ± their standard deviation. ▲ marks the best mean of a column, whether or not '
        'the difference exceeds the spread. Click a header to sort.',
        blocks,
    )


def headlines(groups: Sequence[Group]) -> list[Headline]:
    r"""Returns for each data set its groups by the monitored metric."""
    out = []
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    for dataset in datasets:
        of_dataset = [group for group in groups if group.dataset == dataset]
        metric = headline_metric(of_dataset)
        if metric is None:
            out.append(Headline(f'{dataset}: no run has test results', [], []))
            continue
        tiles, sentences = [], []
        for group in of_dataset:
            values = group.values('test', metric)
            if not values:
                continue
            mean, spread = mean_and_spread(values)
            seeds = '1 seed' if spread is None else f'± {spread:.4f}, {len(values)} seeds'
            tiles.append(Tile(group.number, group.label, f'{mean:.4f}', seeds))
            sentences += _against_plain(of_dataset, group, metric)
        title = f'Test {metric}' + (f' on {dataset}' if len(datasets) > 1 else '')
        out.append(Headline(title, tiles, sentences))
    return out


def _against_plain(groups: Sequence[Group], group: Group, metric: str) -> list[str]:
    plain = _plain(groups, group)
    if plain is None:
        return []
    pairs = _pairs(plain, group, metric)
    if not pairs:
        return []
    mean, spread = mean_and_spread(pairs)
    if spread is None:
        return [
            f'{group.label} against {plain.label}: {_signed(mean)} with the one seed they share, '
            f'which says nothing of the spread between seeds.'
        ]
    text = f'{group.label} against {plain.label}, seed by seed: {_signed(mean)} ± {spread:.4f}'
    text += f' ({len(pairs)} seeds)'
    if abs(mean) < spread:
        text += ', less than its spread between seeds'
    return [f'{text}.']


def headline_metric(groups: Sequence[Group]) -> str | None:
    r"""Returns the metric to compare groups by: the monitored one or, where the test results lack
    it, the recall at the largest cut-off; :obj:`None` without test results.
    """
    found = [key for group in groups for run in group.runs for key in run.metrics('test')]
    if not found:
        return None
    monitor = groups[0].first.monitor
    if monitor in found:
        return monitor
    return max(found, key=lambda key: (key.startswith('recall'), _cutoff(key)))


def _of_dataset(groups: Sequence[Group], dataset: str) -> list[Block]:
    metric = headline_metric(groups)
    blocks: list[Block] = []
    if metric is None:
        blocks.append(Note(f'No run on {dataset} has test results.'))
    else:
        blocks.append(_metrics_table(groups, 'test', MAIN, f'Test results on {dataset}'))
        cutoff = metric.partition('@')[2]
        shown = dict.fromkeys([metric, f'ndcg@{cutoff}', f'recall@{cutoff}'])
        figures = [
            _metrics_figure(groups, dataset, name) for name in list(shown)[:2] if _any(groups, name)
        ]
        blocks.append(Grid(figures, [(group.number, group.label) for group in groups]))
        blocks += _differences(groups, [name for name in list(shown)[:2] if _any(groups, name)])
        blocks.append(
            _metrics_table(
                groups, 'test', FURTHER, 'Precision and mean average precision', folded=True
            )
        )
    if any(run.metrics('val') for group in groups for run in group.runs):
        blocks.append(_metrics_table(groups, 'val', MAIN, 'Validation results', folded=True))
    blocks.append(_cost(groups))
    return blocks


def _metrics_table(
    groups: Sequence[Group], split: str, names: Sequence[str], caption: str, folded: bool = False
) -> Table:
    found = {key for group in groups for run in group.runs for key in run.metrics(split)}
    keys = [f'{name}@{k}' for name in names for k in sorted({_cutoff(key) for key in found})]
    keys = [key for key in keys if key in found]
    means = {
        key: [mean_and_spread(v)[0] for group in groups if (v := group.values(split, key))]
        for key in keys
    }
    rows = []
    for group in groups:
        evaluated = sum(bool(run.metrics(split)) for run in group.runs)
        row = [Cell(group.label), Cell(str(evaluated), evaluated)]
        for key in keys:
            values = group.values(split, key)
            if not values:
                row.append(Cell('–'))
                continue
            mean, spread = mean_and_spread(values)
            best = len(means[key]) > 1 and mean == max(means[key])
            row.append(Cell(f'{mean:.4f}', mean, best, '' if spread is None else f'± {spread:.4f}'))
        rows.append(row)
    return Table(caption, ['model', 'seeds', *keys], rows, sortable=True, folded=folded)


def _metrics_figure(groups: Sequence[Group], dataset: str, metric: str) -> Figure:
    rows: list[dict] = []
    words = []
    for group in groups:
        values = group.values('test', metric)
        if not values:
            continue
        mean, spread = mean_and_spread(values)
        row = {'kind': 'mean', 'group': group.label, 'value': mean, 'spread': 'one seed'}
        if spread is not None:
            row |= {'low': mean - spread, 'high': mean + spread, 'spread': f'± {spread:.4f}'}
        rows.append(row)
        rows += [
            {
                'kind': 'run', 'group': group.label, 'value': run.metrics('test')[metric],
                'run': run.name, 'seed': run.seed,
            }
            for run in group.runs
            if metric in run.metrics('test')
        ]  # fmt: skip
        words.append(f'{group.label} {_number(values)}')
    labels = [(group.number, group.label) for group in groups if group.values('test', metric)]
    name = 'results-' + _slug(f'{dataset}-{metric}')
    return Figure(
        name,
        f'Test {metric}, run by run',
        charts.dots(rows, labels, metric),
        f'Test {metric} of every run, with mean and standard deviation: {"; ".join(words)}.',
    )


def _differences(groups: Sequence[Group], metrics: Sequence[str]) -> list[Block]:
    rows = []
    for group in groups:
        plain = _plain(groups, group)
        if plain is None:
            continue
        row = [Cell(group.label)]
        for metric in metrics:
            pairs = _pairs(plain, group, metric)
            if not pairs:
                row += [Cell('–'), Cell('–')]
                continue
            mean, spread = mean_and_spread(pairs)
            before = _by_seed(plain, metric)
            base = mean_and_spread(before[s] for s in _by_seed(group, metric) if s in before)[0]
            relative = f'{100 * mean / base:+.1f} %'.replace('-', MINUS) if base > 0 else ''
            text = _signed(mean) + ('' if spread is None else f' ± {spread:.4f}')
            each = ', '.join(map(_signed, pairs))
            row += [Cell(text, mean, note=relative), Cell(each, mean)]
        rows.append(row)
    if not rows:
        return []
    columns = ['model']
    for metric in metrics:
        columns += [metric, f'{metric}, seed by seed']
    return [Table('Differences to the plain model with the same seed', columns, rows)]


def _plain(groups: Sequence[Group], group: Group) -> Group | None:
    r"""Returns what a group is compared with, :obj:`None` where that is not clear."""
    if group.first.variant == 'plain':
        return None
    found = [
        other
        for other in groups
        if other.first.variant == 'plain'
        and other.first.config['model'] == group.first.config['model']
    ]
    return found[0] if len(found) == 1 else None


def _pairs(plain: Group, group: Group, metric: str) -> list[float]:
    before, after = _by_seed(plain, metric), _by_seed(group, metric)
    return [after[seed] - before[seed] for seed in before if seed in after]


def _cost(groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        row = [Cell(group.label)]
        for key, form in (
            ('num_parameters', '{:,.0f}'), ('best_epoch', '{:.0f}'), ('num_epochs', '{:.0f}'),
            ('epoch_seconds', '{:.2f}'), ('seconds', '{:,.0f}'),
        ):  # fmt: skip
            found = [run.results[key] for run in group.runs if run.results and key in run.results]
            values = [value for value in found if is_number(value)]
            if not values:
                row.append(Cell('–'))
                continue
            low, high = form.format(min(values)), form.format(max(values))
            row.append(Cell(low if low == high else f'{low} to {high}', min(values)))
        rows.append(row)
    columns = ['model', 'parameters', 'best epoch', 'epochs', 's / epoch', 'seconds in all']
    return Table('Cost of training, smallest to largest over seeds', columns, rows, folded=True)


def _by_seed(group: Group, metric: str) -> dict[int | None, float]:
    return {
        run.seed: run.metrics('test')[metric] for run in group.runs if metric in run.metrics('test')
    }


def _any(groups: Sequence[Group], metric: str) -> bool:
    return any(group.values('test', metric) for group in groups)


def _number(values: Sequence[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f'{mean:.4f}' if spread is None else f'{mean:.4f} ± {spread:.4f}'


def _signed(x: float) -> str:
    return f'{x:+.4f}'.replace('-', MINUS)


def _cutoff(key: str) -> int:
    k = key.partition('@')[2]
    return int(k) if k.isdecimal() and len(k) < 10 else 0


def _slug(text: str) -> str:
    return ''.join(c if c.isalnum() else '-' for c in text.lower()).strip('-')


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
        figures.append(
            _curves_figure(groups, f'val-{metric}', title, metric, limit, _validation(metric))
        )
    for name in terms:
        title, unit = _described(name)
        figures.append(_curves_figure(groups, f'term-{name}', title, unit, limit, _term(name)))
    shown = [figure for figure in figures if figure is not None]
    blocks: list[Block] = []
    if shown:
        blocks.append(Grid(shown, [(group.number, group.label) for group in groups], 'line'))
        blocks.append(_curves_table(groups, terms))
    else:
        blocks.append(Note('No run has a history of its training.'))
    for run in runs:
        blocks += [Note(note) for note in run.notes if 'history' in note]
    text = (
        'The validation metric that chose the epoch to keep, and every term of the loss before its '
        'weight, as means over the triplets of an epoch. One curve per run; a point marks the '
        'epoch that was kept. Compare losses only between models with the same terms and weights.'
    )
    if len(_estimators(groups)) > 1:
        text += (
            ' Compare the redundancy only between runs with the same estimator ('
            + ', '.join(_estimators(groups))
            + '): these are bounds of different kinds.'
        )
    if any(len(run.history) > limit for run in runs):
        text += f' Long curves are drawn through {limit} of their epochs.'
    return Section('training', 'Training', text, blocks)


def _curves_figure(
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
                row = {'epoch': epoch, 'value': rounded(x), 'run': run.name, 'group': group.label}
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


def _curves_table(groups: Sequence[Group], terms: Sequence[str]) -> Table:
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


def _described(name: str) -> tuple[str, str]:
    modality = name.removeprefix('information_')
    if modality != name:
        return f'Information: what the code of {modality} alone certifies', 'nats'
    return TERMS.get(name, (f'{name}: a term of the model', 'unweighted'))


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


def settings_section(groups: Sequence[Group]) -> Section:
    r"""Makes two tables: what is the same in all runs, and what differs between them."""
    flat = [[flatten(run.config) for run in group.runs] for group in groups]
    keys = list(dict.fromkeys(key for runs in flat for values in runs for key in values))
    rows: dict[bool, list[list[Cell]]] = {True: [], False: []}
    rows[False].append(
        [Cell('run'), *(Cell(', '.join(run.name for run in group.runs)) for group in groups)]
    )
    for key in keys:
        # Per group what its runs have, each value once.
        texts = [list(dict.fromkeys(_text(run.get(key)) for run in runs)) for runs in flat]
        is_same = len({text for of_group in texts for text in of_group}) == 1
        cells = texts[:1] if is_same else texts
        rows[is_same].append([Cell(key), *(Cell(', '.join(cell)) for cell in cells)])
    columns = ['setting', *(group.label for group in groups)]
    blocks: list[Block] = [
        Table('What differs', columns, rows[False]),
        Table('What is the same in all runs', ['setting', 'value'], rows[True]),
    ]
    return Section(
        'settings',
        'Settings and versions',
        'Everything needed to repeat these runs. Settings that are not listed had their defaults, '
        'see `mrdib models`. The same settings give the same numbers with the same data hash, '
        'versions and number of threads on the same machine.',
        blocks,
    )


def _text(value: Any) -> str:
    if value is None or value == {}:
        return '–'
    if isinstance(value, float):
        return f'{value:g}'
    return value if isinstance(value, str) else json.dumps(value)
