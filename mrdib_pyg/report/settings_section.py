"""What each run was made with."""

import json
from collections.abc import Sequence
from typing import Any

from mrdib_pyg.report.groups import Group
from mrdib_pyg.report.section import Block, Cell, Section, Table


def settings_section(groups: Sequence[Group]) -> Section:
    r"""Makes two tables: what is the same in all runs, and what differs between them.

    Args:
        groups (Sequence[Group]): The runs, grouped by their settings.
    """
    flat = [[_flatten(run.config) for run in group.runs] for group in groups]
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
        'All that is needed to repeat these runs: the settings, the seeds, a hash of the data, the '
        'versions of the software and the machine. Settings that are not listed were at their '
        'defaults in this version, see `mrdib models`. With the same data hash, versions and '
        'number of threads, the same settings give the same numbers on the same machine.',
        blocks,
    )


def _flatten(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            out.update(_flatten(value, f'{prefix}{key}.'))
        else:
            out[f'{prefix}{key}'] = value
    return out


def _text(value: Any) -> str:
    if value is None or value == {}:
        return '–'
    if isinstance(value, float):
        return f'{value:g}'
    return value if isinstance(value, str) else json.dumps(value)
