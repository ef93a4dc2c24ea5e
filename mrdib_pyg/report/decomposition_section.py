"""The partial information decomposition that ``mrdib measure`` has measured."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrdib_pyg.interactions import TRAIN_EDGE
from mrdib_pyg.report import charts
from mrdib_pyg.report.charts import series
from mrdib_pyg.report.model_facts import Facts, Source, Width
from mrdib_pyg.report.page import (
    MINUS,
    Block,
    Cards,
    Cell,
    Figure,
    Grid,
    Note,
    Section,
    Table,
    Text,
)
from mrdib_pyg.report.runs import Group, RunFolder, is_number

FORMAT = 'mrdib_pyg pid 1'  # of `mrdib_pyg.pid.Measurement.to_dict`

NEGATIVES = {
    'uniform': 'uniform non-edges',
    'popularity': 'non-edges as popular as the edges',
}

#: One bar: the group, the run, the part, and its estimate.
Bar = tuple[Group, RunFolder, str, Mapping[str, float]]


def decomposition_section(groups: Sequence[Group]) -> Section:
    r"""Makes the bars of unique, redundant and synergistic information and of the sources, with
    their intervals, the runs side by side, and tables of all numbers.

    Args:
        groups (Sequence[Group]): The runs, grouped by their settings.
    """
    measured: list[tuple[Group, RunFolder, Mapping[str, Any]]] = []
    notes, missing = [], []
    for group in groups:
        for run in group.runs:
            if run.pid is None:
                missing.append(str(run.path))
            elif _fits(run.pid):
                measured.append((group, run, run.pid))
            else:
                notes.append(
                    f"'{run.path / 'pid.json'}' is not of the form '{FORMAT}' that this version "
                    f'reads; make it anew by `mrdib measure {run.path}`'
                )
    if missing:
        what = 'No run has' if not measured else f'{len(missing)} of the runs have no'
        notes.append(
            f'{what} pid.json, so their information was not measured; make it by `mrdib measure '
            f'RUN`, for example `mrdib measure {missing[0]}`, and this report anew.'
        )
    blocks: list[Block] = []
    tables: list[Block] = []
    ways = list(dict.fromkeys(way for *_, pid in measured for way in pid['overall']))
    legend = [(g.number, g.label) for g in groups if any(g is group for group, *_ in measured)]
    figures = []
    pairs = dict.fromkeys(names for *_, pid in measured for names in _pairs(pid))
    for number, names in enumerate(pairs):
        for way in ways:
            bars = list(_atom_bars(measured, way, names, 'broja'))
            title = f'{" and ".join(names)}, {NEGATIVES.get(way, way)}'
            figures.append(_figure(bars, f'pid-{number}-{way}', title))
            mmi = list(_atom_bars(measured, way, names, 'mmi'))
            tables.append(_atoms_table(bars, f'BROJA, {title}, in nats', folded=True))
            tables.append(_atoms_table(mmi, f'MMI, {title}, in nats', folded=True))
    for way in ways:
        bars = list(_source_bars(measured, way))
        title = f'Each source alone, {NEGATIVES.get(way, way)}'
        figures.append(_figure(bars, f'pid-sources-{way}', title))
        tables.append(_atoms_table(bars, f'{title}, in nats', folded=True))
    if figures:
        blocks.append(Grid(figures, legend, 'bar'))
        blocks += tables
        blocks += _by_group(measured)
    blocks += [Note(note) for note in notes]
    return Section('pid', 'What each modality says', _introduction(measured), blocks)


def _introduction(measured: Sequence[tuple[Group, RunFolder, Mapping[str, Any]]]) -> str:
    text = (
        'How much of what a model knows of held-out edges is said by either modality alone '
        '(redundant), by one of them only (unique), and only by both together (synergistic). It is '
        'usable information in nats: what scores of this model tell a held-out edge from a '
        'non-edge of the same user by, of ln 2 = 0.693 in all. '
    )
    if not measured:
        return text.strip()
    confidence = measured[0][2].get('confidence', 0.95)
    return text + (
        f'Lines are {100 * confidence:g} % bootstrap intervals over users, for one trained model '
        'each: they do not hold the spread between seeds. The bars are by the BROJA measure; MMI, '
        'in the tables, always makes one of the unique parts 0. Under both, two modalities that '
        'say different things of equal strength have no unique information: it shows up as '
        'redundant and synergistic. Differences may come out negative and are shown as they are. '
        'Non-edges as popular as the edges leave out what popularity alone says.'
    )


def _fits(pid: Mapping[str, Any]) -> bool:
    if pid.get('format') != FORMAT:
        return False
    try:
        for part in pid['overall'].values():
            estimates = [*part['informations'].values()]
            for pair in part['pairs']:
                for measure in ('broja', 'mmi'):
                    atoms = pair[measure]
                    estimates += [atoms['redundant'], atoms['synergistic'], atoms['total']]
                    estimates += [atoms['unique'][name] for name in pair['modalities']]
            for name in ('content_given_id', 'id_given_content'):
                estimates += [] if part[name] is None else [part[name]]
            if not all(is_number(x[key]) for x in estimates for key in ('value', 'low', 'high')):
                return False
        for groups in pid.get('groups', {}).values():
            for part in (part for ways in groups.values() for part in ways.values()):
                found = [x[key] for x in part['informations'].values()
                         for key in ('value', 'low', 'high')]  # fmt: skip
                if not all(map(is_number, [part['num_edges'], *found])):
                    return False
        if not is_number(pid.get('confidence', 0.95)):
            return False
    except (KeyError, TypeError, AttributeError):
        return False
    return bool(pid['overall'])


def _pairs(pid: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [tuple(pair['modalities']) for part in pid['overall'].values() for pair in part['pairs']]


def _atom_bars(
    measured: Sequence[tuple[Group, RunFolder, Mapping[str, Any]]],
    way: str,
    names: tuple[str, ...],
    measure: str,
) -> Iterator[Bar]:
    for group, run, pid in measured:
        for pair in pid['overall'].get(way, {'pairs': []})['pairs']:
            if tuple(pair['modalities']) == names:
                atoms = pair[measure]
                yield group, run, 'redundant', atoms['redundant']
                for name in names:
                    yield group, run, f'unique to {name}', atoms['unique'][name]
                yield group, run, 'synergistic', atoms['synergistic']
                yield group, run, 'together', atoms['total']


def _source_bars(
    measured: Sequence[tuple[Group, RunFolder, Mapping[str, Any]]], way: str
) -> Iterator[Bar]:
    words = {'content': 'all modalities', 'id': 'IDs', 'all': 'everything'}
    for group, run, pid in measured:
        if way not in pid['overall']:
            continue
        part = pid['overall'][way]
        for name, estimate in part['informations'].items():
            yield group, run, words.get(name, name), estimate
        for key, name in (
            ('content_given_id', 'modalities beyond IDs'),
            ('id_given_content', 'IDs beyond modalities'),
        ):
            if part[key] is not None:
                yield group, run, name, part[key]


def _figure(bars: Sequence[Bar], name: str, title: str) -> Figure:
    parts = list(dict.fromkeys(part for _, _, part, _ in bars))
    groups = list({group.number: group for group, *_ in bars}.values())
    names = _modality_names(bars)
    runs = list(names.values())
    rows = [
        {
            'part': part, 'group': group.label, 'run': names[run.path],
            'value': _round(x['value']), 'low': _round(x['low']), 'high': _round(x['high']),
            'label': f'{x["value"]:.4f}' + (f' {names[run.path]}' if len(runs) > 1 else ''),
        }
        for group, run, part, x in bars
    ]  # fmt: skip
    words = ', '.join(f'{part} {x["value"]:.4f}' for _, _, part, x in bars[: len(parts)])
    return Figure(
        name,
        title,
        charts.bars(rows, [(g.number, g.label) for g in groups], runs, parts, 'nats'),
        f'{title}, in nats with intervals; of {runs[0]}: {words}.',
    )


def _atoms_table(bars: Sequence[Bar], caption: str, folded: bool) -> Table:
    parts = list(dict.fromkeys(part for _, _, part, _ in bars))
    names = _modality_names(bars)
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    for _, run, part, x in bars:
        found.setdefault(names[run.path], {})[part] = x
    rows = [
        [Cell(label), *(_cell(values[part]) if part in values else Cell('–') for part in parts)]
        for label, values in found.items()
    ]
    return Table(caption, ['model', *parts], rows, sortable=True, folded=folded)


def _by_group(
    measured: Sequence[tuple[Group, RunFolder, Mapping[str, Any]]],
) -> list[Block]:
    out: list[Block] = []
    groupings = dict.fromkeys(name for *_, pid in measured for name in pid.get('groups', {}))
    for grouping in groupings:
        rows = []
        for group, run, pid in measured:
            for label, ways in pid.get('groups', {}).get(grouping, {}).items():
                for way, part in ways.items():
                    known = part['informations']
                    names = ('content', 'id', 'all')
                    sources = [_cell(known[x]) if x in known else Cell('–') for x in names]
                    edges = part['num_edges']
                    rows.append(
                        [
                            Cell(group.label), Cell(run.name), Cell(label), Cell(way),
                            Cell(f'{edges:,}', edges), *sources,
                        ]
                    )  # fmt: skip
        columns = ['model', 'run', grouping, 'non-edges', 'edges']
        columns += ['all modalities', 'IDs', 'everything']
        caption = f'By {grouping} of the items, in nats'
        if rows:
            out.append(Table(caption, columns, rows, sortable=True, folded=True))
    return out


def _modality_names(bars: Sequence[Bar]) -> dict[Path, str]:
    r"""Returns what to call each run: its group, where no other run of that has been measured."""
    groups = {run.path: (group, run.name) for group, run, *_ in bars}
    members = [group.number for group, _ in groups.values()]
    return {
        path: group.label if members.count(group.number) == 1 else f'{group.label}, {name}'
        for path, (group, name) in groups.items()
    }


def _cell(x: Mapping[str, float]) -> Cell:
    return Cell(f'{x["value"]:.4f}', x['value'], note=f'{x["low"]:.4f} to {x["high"]:.4f}')


def _round(x: float) -> float:
    return float(f'{x:.5g}')


NEAR = 0.1  # nats of KL per dimension and item

NUM_BINS = 30


def map_section(
    groups: Sequence[Group], facts: Mapping[int, Facts], notes: Sequence[str], method: str
) -> Section:
    r"""Makes a map of the item codes for each group, and a table of what they share.

    Args:
        groups (Sequence[Group]): The groups.
        facts (Dict[int, Facts]): By the number of a group, what the model of its first run says.
        notes (Sequence[str]): What could not be looked into, and why.
        method (str): How the map is made, :obj:`"tsne"` or :obj:`"pca"`.
    """
    figures, rows = [], []
    names: list[str] = []
    for group in groups:
        fact = facts.get(group.number)
        if fact is None or not fact.map:
            continue
        modalities = list(dict.fromkeys(row['modality'] for row in fact.map))
        names += [name for name in modalities if name not in names]
        figures.append(
            Figure(
                f'codes-{group.number}',
                group.label,
                charts.points(fact.map, modalities),
                f'Map of the codes of {fact.num_mapped} items in {", ".join(modalities)}, of the '
                f'run {group.first.name}.',
            )
        )
        rows += [
            [
                Cell(group.label), Cell(' and '.join(shared.names)),
                Cell(f'{shared.nats:.2f}', shared.nats), Cell(f'{shared.cka:.3f}', shared.cka),
                Cell(f'{shared.num_items:,}', shared.num_items),
            ]
            for shared in fact.shared
        ]  # fmt: skip
    blocks: list[Block] = []
    if figures:
        blocks.append(Grid(figures, list(enumerate(names)), 'modality'))
    if rows:
        columns = ['model', 'modalities', 'Gaussian I(Z₁; Z₂), nats', 'linear CKA', 'items']
        blocks.append(Table('What the item codes of two modalities share', columns, rows))
    if not figures and not notes:
        notes = ['These models have no codes of several modalities to draw.']
    blocks += [Note(note) for note in notes]
    kept = 't-SNE keeps neighborhoods, not distances' if method == 'tsne' else (
        'Two principal components keep what varies most, and lose the rest'
    )  # fmt: skip
    return Section(
        'codes',
        'Item codes',
        'One point per item and modality: the code (the mean of its posterior) that enters the '
        f'fusion, drawn in a plane by {"t-SNE" if method == "tsne" else "PCA"}, for the first run '
        'of each model and the same items in all. Hovering over a point marks the same item in '
        f'the other modalities. {kept}; modalities that lie apart do not for that hold different '
        'information. The table has numbers on all items: the mutual information of two codes, '
        'were they jointly Gaussian, and how alike the similarities within them are (1: the same '
        'up to rotation and scale, 0: unrelated).',
        blocks,
    )


def width_section(
    groups: Sequence[Group], facts: Mapping[int, Facts], notes: Sequence[str]
) -> Section:
    r"""Makes the figures of KL per dimension and per item for each group with a bottleneck.

    Args:
        groups (Sequence[Group]): The groups.
        facts (Dict[int, Facts]): By the number of a group, what the model of its first run says.
        notes (Sequence[str]): What could not be looked into, and why.
    """
    blocks: list[Block] = []
    rows = []
    for group in groups:
        fact = facts.get(group.number)
        if fact is None:
            continue
        figures = []
        for number, width in enumerate(fact.widths):
            figures += _figures(group, number, width)
            near = int((width.items / len(width.kl) < NEAR).sum())
            rows.append(
                [
                    Cell(group.label), Cell(width.name),
                    Cell(f'{width.kl.sum():.1f}', float(width.kl.sum())),
                    Cell(f'{width.kl.min():.2f} to {width.kl.max():.2f}', float(width.kl.min())),
                    Cell(f'{np.median(width.std):.3f}', float(np.median(width.std))),
                    Cell(f'{np.median(width.spread):.3f}', float(np.median(width.spread))),
                    Cell(f'{near:,} of {len(width.items):,}', near),
                ]
            )  # fmt: skip
        if figures:
            blocks.append(Grid(figures))
    if rows:
        columns = [
            'model', 'modality', 'KL per item, nats', 'KL by dimension', 'median σ',
            'median spread of μ', 'items near the prior',
        ]  # fmt: skip
        blocks.insert(0, Table('Item posteriors', columns, rows))
    elif facts:
        blocks.append(Note('None of these models has a bottleneck, so there is no posterior.'))
    blocks += [Note(note) for note in notes]
    return Section(
        'posteriors',
        'Posterior widths',
        'With MRdIB each code is a Gaussian around μ with width σ, and its KL divergence to the '
        'standard normal prior is what the bottleneck charges for, in nats. A dimension with a KL '
        f'near 0 carries nothing. An item counts as near the prior below {NEAR:g} nats per '
        'dimension. The KL also grows where σ merely is far below 1, as in codes of small scale: '
        'a large KL alone does not say that a code is informative, so the table sets σ beside '
        'how far μ spreads over items.',
        blocks,
    )


def _figures(group: Group, number: int, width: Width) -> list[Figure]:
    order = np.argsort(-width.kl, kind='stable')
    rows = [
        {
            'rank': rank, 'value': _short(width.kl[d]), 'dimension': int(d),
            'std': _short(width.std[d]), 'spread': _short(width.spread[d]),
        }
        for rank, d in enumerate(order, start=1)
    ]  # fmt: skip
    counts, edges = np.histogram(width.items, bins=NUM_BINS)
    bins = [
        {'start': _short(low), 'end': _short(high), 'value': int(count)}
        for count, low, high in zip(counts, edges, edges[1:])
        if count > 0
    ]
    color = series(group.number)
    what = f'{group.label}, {width.name}'
    name = f'posterior-{group.number}-{number}'
    return [
        Figure(
            f'{name}-dimensions',
            f'{what}: KL by dimension',
            charts.columns(
                rows, 'rank', 'dimensions, from the largest KL', 'mean KL, nats', color,
                {
                    'dimension': 'dimension|d', 'value': 'mean KL|.3f', 'std': 'σ|.4f',
                    'spread': 'spread of μ|.4f',
                },
            ),
            f'Mean KL of each of the {len(rows)} dimensions, {width.kl.max():.2f} to '
            f'{width.kl.min():.2f} nats.',
        ),
        Figure(
            f'{name}-items',
            f'{what}: KL by item',
            charts.columns(
                bins, 'start', 'KL of an item, nats', 'items', color,
                {'start': 'from|.2f', 'end': 'to|.2f', 'value': 'items|d'},
            ),
            f'Histogram of the KL of {len(width.items)} items, {width.items.min():.1f} to '
            f'{width.items.max():.1f} nats.',
        ),
    ]  # fmt: skip


def _short(x: float) -> float:
    return float(f'{x:.5g}')


MAX_NAMED = 8  # items of a user that are named one by one


def recommendations_section(
    groups: Sequence[Group], facts: Mapping[int, Facts], notes: Sequence[str]
) -> Section:
    r"""Makes a table of the best items for each chosen user, the models side by side.

    Args:
        groups (Sequence[Group]): The groups.
        facts (Dict[int, Facts]): By the number of a group, what the model of its first run says.
        notes (Sequence[str]): What could not be looked into, and why.
    """
    blocks: list[Block] = []
    datasets = list(dict.fromkeys(group.dataset for group in groups if group.number in facts))
    for dataset in datasets:
        shown = [g for g in groups if g.dataset == dataset and g.number in facts]
        source = facts[shown[0].number].source
        if len(datasets) > 1:
            blocks.append(Text(dataset, is_heading=True))
        users = list(facts[shown[0].number].recommendations)
        cards: list[list[Table | Note | Text]] = [
            [
                Text(f'User {source.user(user)}', is_heading=True),
                _table(shown, facts, source, user),
                Text(_history(source, user)),
            ]
            for user in users
        ]
        blocks.append(Cards(cards))
        for user in users:
            blocks += _why(shown, facts, source, user)
    reasons = [facts[g.number].unexplained for g in groups if g.number in facts]
    blocks += [Note(reason) for reason in dict.fromkeys(reasons) if reason is not None]
    blocks += [Note(note) for note in notes]
    return Section(
        'recommendations',
        'Recommendations',
        'The best items of each model for a few users, without those of their training. A ✓ marks '
        'an item that is among the held-out test items of the user; the small number is how many '
        'users have the item in training. A handful of users shows what lists look like, not how '
        'good they are: that is what the results are for. Explanations are parts that add up to '
        'the whole. They are statements about the model, not about what moves a user, and a '
        'single pair has no interval.',
        blocks,
    )


def _table(groups: Sequence[Group], facts: Mapping[int, Facts], source: Source, user: int) -> Table:
    popularity = torch.bincount(
        source.data[TRAIN_EDGE].edge_index[1],
        minlength=int(source.data['item'].num_nodes),
    )
    ranked = [facts[group.number].recommendations.get(user, []) for group in groups]
    rows = []
    for rank in range(max(map(len, ranked), default=0)):
        row = [Cell(str(rank + 1), rank + 1)]
        for items in ranked:
            if rank >= len(items):
                row.append(Cell('–'))
                continue
            item = items[rank]
            check = '✓ ' if item.is_test else ''
            number = int(popularity[item.item])
            row.append(Cell(check + source.item(item.item), note=f'{number:,}'))
        rows.append(row)
    columns = ['rank', *(group.label for group in groups)]
    return Table(f'The {len(rows)} best items for user {source.user(user)}', columns, rows)


def _why(
    groups: Sequence[Group], facts: Mapping[int, Facts], source: Source, user: int
) -> list[Block]:
    found = [
        (group, why) for group in groups for why in facts[group.number].explanations.get(user, [])
    ]
    if not found:
        return []
    names = list(dict.fromkeys(name for _, why in found for name in why.parts))
    rows = []
    for group, why in found:
        cells = [_signed(why.parts[name]) if name in why.parts else Cell('–') for name in names]
        row = [Cell(group.label), Cell(source.item(why.item)), *cells, _signed(why.total)]
        rows.append([*row, Cell(why.sentence)])
    columns = ['model', 'item', *names, 'total', 'in words']
    caption = f'What explains the first items for user {source.user(user)}, in nats'
    return [Table(caption, columns, rows, folded=True)]


def _signed(x: float) -> Cell:
    return Cell(f'{x:+.3f}'.replace('-', MINUS), x)


def _history(source: Source, user: int) -> str:
    train = source.data[TRAIN_EDGE].edge_index
    items = train[1, train[0] == user].unique().tolist()
    words = f'{len(items):,} training {"item" if len(items) == 1 else "items"}'
    if items:
        words += f': {_names(source, items)}'
    if ('user', 'test', 'item') not in source.data.edge_types:
        return f'{words}.'
    test = source.data['user', 'test', 'item'].edge_label_index
    held = test[1, test[0] == user].unique().tolist()
    if not held:
        return f'{words}. No test item.'
    return f'{words}. Held out for the test: {_names(source, held)}.'


def _names(source: Source, items: Sequence[int]) -> str:
    shown = ', '.join(source.item(i) for i in items[:MAX_NAMED])
    return shown if len(items) <= MAX_NAMED else f'{shown} and {len(items) - MAX_NAMED:,} more'
