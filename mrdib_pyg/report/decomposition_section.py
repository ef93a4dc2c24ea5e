"""The partial information decomposition that ``mrdib measure`` has measured."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrdib_pyg.pid.measurement import FORMAT
from mrdib_pyg.report import charts
from mrdib_pyg.report.page import Block, Cell, Figure, Grid, Note, Section, Table, rounded
from mrdib_pyg.report.runs import Group, RunFolder, is_number

NEGATIVES = {
    'uniform': 'uniform non-edges',
    'popularity': 'non-edges as popular as the edges',
}

#: One bar: the group, the run, the part, and its estimate.
Bar = tuple[Group, RunFolder, str, Mapping[str, float]]


def decomposition_section(groups: Sequence[Group]) -> Section:
    r"""Makes the bars of unique, redundant and synergistic information and of the sources, with
    their intervals, the runs side by side, and tables of all numbers.
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
        'The information of a model about held-out edges: what either modality gives alone '
        '(redundant), what only one of them gives (unique), and what only both together give '
        '(synergistic). It is usable information: how well the scores of this model tell a '
        'held-out edge from a non-edge of the same user, in nats, of ln 2 = 0.693 in all. '
    )
    if not measured:
        return text.strip()
    confidence = measured[0][2].get('confidence', 0.95)
    return text + (
        f'Lines are {100 * confidence:g} % bootstrap intervals over the users of one trained '
        'model; they do not include the spread between seeds. Bars are by the BROJA measure. MMI, '
        'in the tables, always makes one unique part 0. Under both, two modalities that say '
        'different things of equal strength have no unique information: it counts as redundant and '
        'synergistic. Differences may be negative. Non-edges as popular as the edges leave out '
        'what popularity alone says.'
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
        omitted = [x for found in pid.get('omitted', {}).values() for x in found.values()]
        if not all(map(is_number, [pid.get('confidence', 0.95), *omitted])):
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
            'value': rounded(x['value']), 'low': rounded(x['low']), 'high': rounded(x['high']),
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
            for label, count in pid.get('omitted', {}).get(grouping, {}).items():
                cells = [Cell('too few edges'), Cell(f'{count:,}', count), *[Cell('–')] * 3]
                rows.append([Cell(group.label), Cell(run.name), Cell(label), *cells])
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
