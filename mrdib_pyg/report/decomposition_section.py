"""The partial information decompositions that ``mrdib measure`` wrote."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrdib_pyg.pid.measurement import FORMAT
from mrdib_pyg.report import charts
from mrdib_pyg.report.page import MISSING, Block, Cell, Figure, Grid, Note, Section, Table, rounded
from mrdib_pyg.report.runs import Group, RunFolder, is_number, legend_of

NEGATIVES = {
    'uniform': 'uniform non-edges',
    'popularity': 'non-edges as popular as the edges',
}

#: A run with its group and its `pid.json`.
Measured = tuple[Group, RunFolder, Mapping[str, Any]]

#: One bar: the group, the run, the part and its estimate.
Bar = tuple[Group, RunFolder, str, Mapping[str, float]]


def decomposition_section(groups: Sequence[Group]) -> Section:
    r"""Bars of the atoms and of each source, with intervals, for all runs, and their tables."""
    measured: list[Measured] = []
    notes, missing = [], []
    for group in groups:
        for run in group.runs:
            if run.pid is None:
                missing.append(str(run.path))
            elif _fits(run.pid):
                measured.append((group, run, run.pid))
            else:
                notes.append(
                    f"'{run.path / 'pid.json'}' must have the format '{FORMAT}'. To write it "
                    f'again, run `mrdib measure {run.path}`.'
                )
    if missing:
        who = f'{len(missing)} of the runs have no' if measured else 'No run has a'
        notes.append(
            f'{who} pid.json. To write it, run `mrdib measure RUN`, for example `mrdib measure '
            f'{missing[0]}`, then make this report again.'
        )
    blocks: list[Block] = []
    tables: list[Block] = []
    ways = list(dict.fromkeys(way for *_, pid in measured for way in pid['overall']))
    legend = legend_of(g for g in groups if any(g is group for group, *_ in measured))
    figures = []
    pairs = dict.fromkeys(names for *_, pid in measured for names in _pairs(pid))
    for number, names in enumerate(pairs):
        for way in ways:
            title = f'{" and ".join(names)}, {NEGATIVES.get(way, way)}'
            bars = list(_atom_bars(measured, way, names, 'broja'))
            mmi = list(_atom_bars(measured, way, names, 'mmi'))
            figures.append(_figure(bars, f'pid-{number}-{way}', title))
            tables.append(_table(bars, f'BROJA, {title}, in nats'))
            tables.append(_table(mmi, f'MMI, {title}, in nats'))
    for way in ways:
        bars = list(_source_bars(measured, way))
        title = f'Each source alone, {NEGATIVES.get(way, way)}'
        figures.append(_figure(bars, f'pid-sources-{way}', title))
        tables.append(_table(bars, f'{title}, in nats'))
    if figures:
        blocks.append(Grid(figures, legend, 'bar'))
        blocks += tables
        blocks += _by_group(measured)
    blocks += [Note(note) for note in notes]
    return Section('pid', 'What each modality says', _introduction(measured), blocks)


def _introduction(measured: Sequence[Measured]) -> str:
    text = (
        'How much a model knows about held-out edges from either modality (redundant), from only '
        'one of them (unique) and only from both together (synergistic). This is usable '
        'information: how well the scores of the model tell a held-out edge from a non-edge of the '
        'same user, in nats. Certainty is ln 2 = 0.693 nats. '
    )
    if not measured:
        return text.strip()
    confidence = measured[0][2].get('confidence', 0.95)
    return text + (
        f'Lines are {100 * confidence:g} % bootstrap intervals over the users of one trained '
        'model, without the spread between seeds. Bars show the BROJA measure. The tables add MMI, '
        'which always sets one unique part to 0. Under both measures, two equally strong '
        'modalities that tell different things have no unique information: it counts as redundant '
        'and synergistic. Differences may be negative. Non-edges as popular as the edges remove '
        'the information in popularity alone.'
    )


def _fits(pid: Mapping[str, Any]) -> bool:
    r"""Whether all that this section reads is there, and every number is finite."""
    estimates, numbers = [], [pid.get('confidence', 0.95)]
    try:
        for part in pid['overall'].values():
            estimates += part['informations'].values()
            for pair in part['pairs']:
                for atoms in (pair['broja'], pair['mmi']):
                    estimates += [atoms[name] for name in ('redundant', 'synergistic', 'total')]
                    estimates += [atoms['unique'][name] for name in pair['modalities']]
            beyond = (part['content_given_id'], part['id_given_content'])
            estimates += [x for x in beyond if x is not None]
        for grouping in pid.get('groups', {}).values():
            for part in (part for ways in grouping.values() for part in ways.values()):
                numbers.append(part['num_edges'])
                estimates += part['informations'].values()
        numbers += [x for found in pid.get('omitted', {}).values() for x in found.values()]
        numbers += [x[key] for x in estimates for key in ('value', 'low', 'high')]
        return pid['format'] == FORMAT and bool(pid['overall']) and all(map(is_number, numbers))
    except (KeyError, TypeError, AttributeError):
        return False


def _pairs(pid: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [tuple(pair['modalities']) for part in pid['overall'].values() for pair in part['pairs']]


def _atom_bars(
    measured: Sequence[Measured], way: str, names: tuple[str, ...], measure: str
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


def _source_bars(measured: Sequence[Measured], way: str) -> Iterator[Bar]:
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
    groups = {group.number: group for group, *_ in bars}.values()
    names = _run_names(bars)
    runs = list(names.values())
    rows = [
        {
            'part': part, 'group': group.label, 'run': names[run.path],
            'value': rounded(x['value']), 'low': rounded(x['low']), 'high': rounded(x['high']),
            'label': f'{x["value"]:.4f}' + (f' {names[run.path]}' if len(runs) > 1 else ''),
        }
        for group, run, part, x in bars
    ]  # fmt: skip
    words = ', '.join(f'{part} {x["value"]:.4f}' for _, _, part, x in bars[: len(parts)])
    return Figure(
        name,
        title,
        charts.bars(rows, legend_of(groups), runs, parts, 'nats'),
        f'{title}, in nats with intervals; of {runs[0]}: {words}.',
    )


def _table(bars: Sequence[Bar], caption: str) -> Table:
    parts = list(dict.fromkeys(part for _, _, part, _ in bars))
    names = _run_names(bars)
    found: dict[str, dict[str, Cell]] = {}
    for _, run, part, x in bars:
        found.setdefault(names[run.path], {})[part] = _cell(x)
    rows = [
        [Cell(label), *(cells.get(part, MISSING) for part in parts)]
        for label, cells in found.items()
    ]
    return Table(caption, ['model', *parts], rows, sortable=True, folded=True)


def _by_group(measured: Sequence[Measured]) -> list[Block]:
    out: list[Block] = []
    groupings = dict.fromkeys(name for *_, pid in measured for name in pid.get('groups', {}))
    for grouping in groupings:
        rows = []
        for group, run, pid in measured:
            for label, count in pid.get('omitted', {}).get(grouping, {}).items():
                cells = [Cell('too few edges'), Cell(f'{count:,}', count), *[MISSING] * 3]
                rows.append([*map(Cell, (group.label, run.name, label)), *cells])
            for label, ways in pid.get('groups', {}).get(grouping, {}).items():
                for way, part in ways.items():
                    known, edges = part['informations'], part['num_edges']
                    cells = [
                        _cell(known[x]) if x in known else MISSING for x in ('content', 'id', 'all')
                    ]
                    names = map(Cell, (group.label, run.name, label, way))
                    rows.append([*names, Cell(f'{edges:,}', edges), *cells])
        columns = ['model', 'run', grouping, 'non-edges', 'edges']
        columns += ['all modalities', 'IDs', 'everything']
        caption = f'By {grouping} of the items, in nats'
        if rows:
            out.append(Table(caption, columns, rows, sortable=True, folded=True))
    return out


def _run_names(bars: Sequence[Bar]) -> dict[Path, str]:
    r"""Names each run by its group, and by itself where several of the group were measured."""
    groups = {run.path: (group, run.name) for group, run, *_ in bars}
    members = [group.number for group, _ in groups.values()]
    return {
        path: group.label if members.count(group.number) == 1 else f'{group.label}, {name}'
        for path, (group, name) in groups.items()
    }


def _cell(x: Mapping[str, float]) -> Cell:
    return Cell(f'{x["value"]:.4f}', x['value'], note=f'{x["low"]:.4f} to {x["high"]:.4f}')
