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
    runs = [run for group in groups for run in group.runs]
    flat = [_flatten(run.config) for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    same = [k for k in keys if len({json.dumps(values.get(k)) for values in flat}) == 1]
    blocks: list[Block] = []
    differ = [key for key in keys if key not in same]
    if differ:
        rows = []
        for run, values in zip(runs, flat):
            cells = [Cell(_text(values.get(key)), _number(values.get(key))) for key in differ]
            rows.append([Cell(str(run.path)), *cells])
        blocks.append(Table('What differs between runs', ['run', *differ], rows, sortable=True))
    rows = [[Cell(key), Cell(_text(flat[0][key]))] for key in same]
    if len(runs) == 1:
        rows = [[Cell('run'), Cell(str(runs[0].path))], *rows]
    caption = 'Settings of the run' if len(runs) == 1 else 'What is the same in all runs'
    blocks.append(Table(caption, ['setting', 'value'], rows))
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
        if isinstance(value, dict) and value:
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


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
