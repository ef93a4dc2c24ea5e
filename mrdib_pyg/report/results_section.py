"""Results on the test edges, training curves and settings."""

import json
import math
from collections.abc import Sequence
from typing import Any

from mrdib_pyg.report import charts
from mrdib_pyg.report.page import (
    MINUS,
    MISSING,
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
    signed,
)
from mrdib_pyg.report.runs import (
    Group,
    RunFolder,
    by_dataset,
    flatten,
    is_number,
    legend_of,
    mean_and_spread,
    runs_of,
    weights_of,
)

MAIN, FURTHER = ('recall', 'ndcg'), ('precision', 'map')

#: Columns of the table of costs: header, key of `results.json`, format.
COSTS = (
    ('parameters', 'num_parameters', '{:,.0f}'), ('best epoch', 'best_epoch', '{:.0f}'),
    ('epochs', 'num_epochs', '{:.0f}'), ('s / epoch', 'epoch_seconds', '{:.2f}'),
    ('seconds in all', 'seconds', '{:,.0f}'),
)  # fmt: skip


def results_section(groups: Sequence[Group]) -> Section:
    r"""For each data set the metrics, their spread over seeds, and the gain over the plain one."""
    blocks: list[Block] = []
    datasets = by_dataset(groups)
    for dataset, members in datasets.items():
        if len(datasets) > 1:
            blocks.append(Text(dataset, is_heading=True))
        blocks += _of_dataset(members, dataset)
    blocks += [Note(x) for run in runs_of(groups) for x in run.notes if 'history' not in x]
    return Section(
        'results',
        'Results',
        'At its best epoch on the validation edges, each model ranks all items for every user. The '
        'metrics are taken on the held-out test edges. Each row is one setting: the mean over its '
        'seeds ± the standard deviation. ▲ marks the best mean of a column, even where the '
        'difference is smaller than the spread. Click a header to sort.',
        blocks,
    )


def headlines(groups: Sequence[Group]) -> list[Headline]:
    r"""For each data set its groups by the monitored metric."""
    out = []
    datasets = by_dataset(groups)
    for dataset, members in datasets.items():
        metric = headline_metric(members)
        if metric is None:
            out.append(Headline(f'{dataset}: no run has test results', [], []))
            continue
        tiles, sentences = [], []
        for group in members:
            values = group.values('test', metric)
            if not values:
                continue
            mean, spread = mean_and_spread(values)
            seeds = '1 seed' if spread is None else f'± {spread:.4f}, {len(values)} seeds'
            tiles.append(Tile(group.number, group.label, f'{mean:.4f}', seeds))
            sentences += _against_plain(members, group, metric)
        title = f'Test {metric}' + (f' on {dataset}' if len(datasets) > 1 else '')
        out.append(Headline(title, tiles, sentences))
    return out


def _against_plain(groups: Sequence[Group], group: Group, metric: str) -> list[str]:
    plain = _plain(groups, group)
    pairs = [] if plain is None else _pairs(plain, group, metric)
    if plain is None or not pairs:
        return []
    mean, spread = mean_and_spread(after - before for before, after in pairs)
    text = f'{group.label} against {plain.label}'
    if spread is None:
        return [f'{text}: {signed(mean)} on the one seed they share. This says nothing about the '
                f'spread between seeds.']  # fmt: skip
    text += f', seed by seed: {signed(mean)} ± {spread:.4f} ({len(pairs)} seeds)'
    return [f'{text}, less than its spread between seeds.' if abs(mean) < spread else f'{text}.']


def headline_metric(groups: Sequence[Group]) -> str | None:
    r"""The metric to compare groups by: the monitored one or, where the test results lack it, the
    recall at the largest cut-off. :obj:`None` without test results.
    """
    found = [key for run in runs_of(groups) for key in run.metrics('test')]
    monitor = groups[0].first.monitor
    if monitor in found:
        return monitor
    return max(found, key=lambda key: (key.startswith('recall'), _cutoff(key)), default=None)


def _of_dataset(groups: Sequence[Group], dataset: str) -> list[Block]:
    metric = headline_metric(groups)
    blocks: list[Block] = []
    if metric is None:
        blocks.append(Note(f'No run on {dataset} has test results.'))
    else:
        blocks.append(_metrics_table(groups, 'test', MAIN, f'Test results on {dataset}'))
        cutoff = metric.partition('@')[2]
        names = list(dict.fromkeys([metric, f'ndcg@{cutoff}', f'recall@{cutoff}']))[:2]
        names = [name for name in names if any(group.values('test', name) for group in groups)]
        figures = [_metrics_figure(groups, dataset, name) for name in names]
        blocks.append(Grid(figures, legend_of(groups)))
        blocks += _differences(groups, names)
        caption = 'Precision and mean average precision'
        blocks.append(_metrics_table(groups, 'test', FURTHER, caption, folded=True))
    if any(run.metrics('val') for run in runs_of(groups)):
        blocks.append(_metrics_table(groups, 'val', MAIN, 'Validation results', folded=True))
    blocks.append(_cost(groups))
    return blocks


def _metrics_table(
    groups: Sequence[Group], split: str, names: Sequence[str], caption: str, folded: bool = False
) -> Table:
    found = {key for run in runs_of(groups) for key in run.metrics(split)}
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
                row.append(MISSING)
                continue
            mean, spread = mean_and_spread(values)
            best = len(means[key]) > 1 and mean == max(means[key])
            row.append(Cell(f'{mean:.4f}', mean, best, '' if spread is None else f'± {spread:.4f}'))
        rows.append(row)
    return Table(caption, ['model', 'seeds', *keys], rows, sortable=True, folded=folded)


def _metrics_figure(groups: Sequence[Group], dataset: str, metric: str) -> Figure:
    rows: list[dict] = []
    words, shown = [], []
    for group in groups:
        values = group.values('test', metric)
        if not values:
            continue
        shown.append(group)
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
        words.append(f'{group.label} {mean:.4f}' + ('' if spread is None else f' ± {spread:.4f}'))
    slug = ''.join(c if c.isalnum() else '-' for c in f'{dataset}-{metric}'.lower()).strip('-')
    return Figure(
        f'results-{slug}',
        f'Test {metric}, run by run',
        charts.dots(rows, legend_of(shown), metric),
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
                row += [MISSING, MISSING]
                continue
            differences = [after - before for before, after in pairs]
            mean, spread = mean_and_spread(differences)
            base = mean_and_spread(before for before, _ in pairs)[0]
            relative = f'{100 * mean / base:+.1f} %'.replace('-', MINUS) if base > 0 else ''
            text = signed(mean) + ('' if spread is None else f' ± {spread:.4f}')
            each = ', '.join(map(signed, differences))
            row += [Cell(text, mean, note=relative), Cell(each, mean)]
        rows.append(row)
    if not rows:
        return []
    columns = ['model']
    for metric in metrics:
        columns += [metric, f'{metric}, seed by seed']
    return [Table('Differences to the plain model with the same seed', columns, rows)]


def _plain(groups: Sequence[Group], group: Group) -> Group | None:
    r"""The plain group of the same model, :obj:`None` unless there is exactly one."""
    if group.first.variant == 'plain':
        return None
    model = group.first.config['model']
    plain = [other for other in groups if other.first.variant == 'plain']
    found = [other for other in plain if other.first.config['model'] == model]
    return found[0] if len(found) == 1 else None


def _pairs(plain: Group, group: Group, metric: str) -> list[tuple[float, float]]:
    r"""The metric of the plain model and of a group, for each seed that both have."""
    before, after = (
        {run.seed: x[metric] for run in found.runs if metric in (x := run.metrics('test'))}
        for found in (plain, group)
    )
    return [(before[seed], after[seed]) for seed in before if seed in after]


def _cost(groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        row = [Cell(group.label)]
        results = [run.results for run in group.runs if run.results]
        for _, key, form in COSTS:
            values = [x[key] for x in results if is_number(x.get(key))]
            if not values:
                row.append(MISSING)
                continue
            low, high = form.format(min(values)), form.format(max(values))
            row.append(Cell(low if low == high else f'{low} to {high}', min(values)))
        rows.append(row)
    columns = ['model', *(header for header, *_ in COSTS)]
    return Table('Cost of training, smallest to largest over seeds', columns, rows, folded=True)


def _cutoff(key: str) -> int:
    k = key.partition('@')[2]
    return int(k) if k.isdecimal() and len(k) < 10 else 0


#: Titles and units of the terms that mean the same in all models.
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
    r"""A figure for each term of the loss and each validation metric, and the terms at the best
    epoch.
    """
    runs = runs_of(groups)
    monitors = list(dict.fromkeys(run.monitor for run in runs))
    rows = [row for run in runs for row in run.history]
    found = dict.fromkeys(name for row in rows for name in row['train'])
    terms = [name for name in TERMS if name in found] + [x for x in found if x not in TERMS]
    num_curves = max(1, len(runs) * (len(terms) + len(monitors)))
    limit = max(20, min(MAX_POINTS, MAX_ALL_POINTS // num_curves))

    curves = [('val', metric, f'Validation {metric}', metric) for metric in monitors]
    for name in terms:
        title, unit = _described(name)
        curves.append(('train', name, title, unit))
    figures = [_curves_figure(groups, *curve, limit) for curve in curves]
    shown = [figure for figure in figures if figure is not None]
    blocks: list[Block] = [Note('No run has a history of its training.')]
    if shown:
        blocks = [Grid(shown, legend_of(groups), 'line'), _curves_table(groups, terms)]
    blocks += [Note(note) for run in runs for note in run.notes if 'history' in note]
    text = (
        'The validation metric that chose the epoch to keep, and every term of the loss without '
        'its weight, averaged over the triplets of an epoch. There is one curve per run. A point '
        'marks the epoch that was kept. Compare losses only between models with the same terms and '
        'weights.'
    )
    estimators = _estimators(groups)
    if len(estimators) > 1:
        text += (
            f' Compare the redundancy only between runs with the same estimator: '
            f'{", ".join(estimators)} are bounds of different kinds.'
        )
    if any(len(run.history) > limit for run in runs):
        text += f' Long curves show {limit} of their epochs.'
    return Section('training', 'Training', text, blocks)


def _curves_figure(
    groups: Sequence[Group], part: str, name: str, title: str, unit: str, limit: int
) -> Figure | None:
    rows: list[dict[str, Any]] = []
    shown, words = [], []
    for group in groups:
        ends = []
        for run in group.runs:
            points = [
                (row['epoch'], row[part].get(name))
                for row in run.history
                if isinstance(row.get(part), dict)
            ]
            points = [(epoch, x) for epoch, x in points if is_number(x)]
            if not points:
                continue
            best = run.best_epoch
            for epoch, x in thin(points, limit, best):
                row = {'epoch': epoch, 'value': rounded(x), 'run': run.name, 'group': group.label}
                rows.append(row | ({'best': True} if epoch == best else {}))
            ends.append((points[0][1], points[-1][1]))
        if ends:
            shown.append(group)
            first, last = (mean_and_spread(values)[0] for values in zip(*ends))
            words.append(f'{group.label} from {first:.4g} to {last:.4g}')
    if not rows:
        return None
    return Figure(
        f'training-{"val" if part == "val" else "term"}-{name.replace("@", "-")}',
        title,
        charts.lines(rows, legend_of(shown), unit),
        f'{title} over epochs; first to last epoch: {"; ".join(words)}.',
    )


def thin(
    points: Sequence[tuple[int, float]], limit: int, best: int | None
) -> list[tuple[int, float]]:
    r"""At most :obj:`limit` points of a curve, evenly spaced from the first to the last, and that
    of the best epoch.
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
                row.append(MISSING)
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
    return Table('The terms at the kept epoch, without their weights', columns, rows)


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


def settings_section(groups: Sequence[Group]) -> Section:
    r"""One table of the settings that differ between runs, and one of those that do not."""
    flat = [[flatten(run.config) for run in group.runs] for group in groups]
    keys = dict.fromkeys(key for runs in flat for values in runs for key in values)
    names = [', '.join(run.name for run in group.runs) for group in groups]
    differing, shared = [[Cell('run'), *map(Cell, names)]], []
    for key in keys:
        # Per group the values of its runs, each once.
        texts = [list(dict.fromkeys(_text(run.get(key)) for run in runs)) for runs in flat]
        cells = [Cell(', '.join(of_group)) for of_group in texts]
        if len({text for of_group in texts for text in of_group}) == 1:
            shared.append([Cell(key), cells[0]])
        else:
            differing.append([Cell(key), *cells])
    columns = ['setting', *(group.label for group in groups)]
    return Section(
        'settings',
        'Settings and versions',
        'Everything needed to repeat these runs. Settings not listed have their defaults, see '
        '`mrdib models`. The same settings give the same numbers on the same machine, with the '
        'same data hash, versions and number of threads.',
        [
            Table('Settings that differ', columns, differing),
            Table('Settings that all runs share', ['setting', 'value'], shared),
        ],
    )


def _text(value: Any) -> str:
    if value is None or value == {}:
        return '–'
    if isinstance(value, float):
        return f'{value:g}'
    return value if isinstance(value, str) else json.dumps(value)
