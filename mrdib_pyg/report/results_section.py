"""The results on the test edges, with their spread over seeds."""

from collections.abc import Sequence

from mrdib_pyg.report import charts
from mrdib_pyg.report.groups import Group, mean_and_spread
from mrdib_pyg.report.run_folder import is_number
from mrdib_pyg.report.section import (
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
)

MAIN, FURTHER = ('recall', 'ndcg'), ('precision', 'map')


def results_section(groups: Sequence[Group]) -> Section:
    r"""Makes a table of results for each data set, a figure of the spread over seeds, and the
    differences to the plain model.

    Args:
        groups (Sequence[Group]): The runs, grouped by their settings.
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
        'How well each model ranks all items for every user, on interactions that training never '
        'saw, at the epoch that was best on the validation edges. The test edges were read after '
        'training. Runs with the same settings are one row: the mean over their seeds, ± the '
        'standard deviation between seeds. The best mean of a column is bold and marked ▲; it says '
        'nothing of whether a difference is larger than the spread. A click on a header sorts.',
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
        blocks.append(_table(groups, 'test', MAIN, f'Test results on {dataset}'))
        cutoff = metric.partition('@')[2]
        shown = dict.fromkeys([metric, f'ndcg@{cutoff}', f'recall@{cutoff}'])
        figures = [_figure(groups, dataset, name) for name in list(shown)[:2] if _any(groups, name)]
        blocks.append(Grid(figures, [(group.number, group.label) for group in groups]))
        blocks += _differences(groups, [name for name in list(shown)[:2] if _any(groups, name)])
        blocks.append(
            _table(groups, 'test', FURTHER, 'Precision and mean average precision', folded=True)
        )
    if any(run.metrics('val') for group in groups for run in group.runs):
        blocks.append(_table(groups, 'val', MAIN, 'Validation results', folded=True))
    blocks.append(_cost(groups))
    return blocks


def _table(
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


def _figure(groups: Sequence[Group], dataset: str, metric: str) -> Figure:
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
