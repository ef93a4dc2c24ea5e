r"""The strict form of every file in ``benchmarks/results``: no key more, none less, no NaN
(:mod:`benchmarks.forms`).

    python -m benchmarks.schema benchmarks/results/*.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.forms import (
    MACHINE,
    VERSIONS,
    Each,
    Maybe,
    Or,
    check,
    not_negative,
    number,
    positive,
    scalar,
    text,
)
from benchmarks.quality.forms import COLD, MISSING, NAMED, PLANTED

VERSION = 'mrdib_pyg benchmark 1'


def quantiles(value: Any) -> None:
    check(value, _TIME, '')
    if not value['min'] <= value['q1'] <= value['median'] <= value['q3']:
        raise ValueError(f'minimum, quartiles and median are out of order: {value}')


_TIME: dict[str, Any] = {
    'clock': {'cpu', 'cuda'},
    'median': not_negative,
    'q1': not_negative,
    'q3': not_negative,
    'min': not_negative,
    'wall': not_negative,
    'runs': positive,
}
ACCELERATOR: dict[str, Any] = {
    'name': text,
    'compute_capability': text,
    'memory_bytes': positive,
    'multiprocessors': positive,
    'l2_cache_bytes': Or((None, positive)),
    'cuda': Or((None, text)),
    'driver': Or((None, text)),
}
CASE = Each(scalar, keys=str, at_least=1)
MEMORY: dict[str, Any] = {'peak_bytes': positive, 'before_bytes': not_negative, 'how': text}
ROOFLINE: dict[str, Any] = {
    'requested_bytes': positive,
    'compulsory_bytes': positive,
    'copy_bytes_per_second': positive,
    'requested_share': positive,
    'compulsory_share': positive,
}
ROW: dict[str, Any] = {
    'case': CASE,
    'method': text,
    'role': {'ours', 'baseline', 'rival'},
    'time': Maybe(quantiles),
    'memory': Maybe(MEMORY),
    'roofline': Maybe(ROOFLINE),
    'values': Maybe(Each(number, keys=str, at_least=1)),
}
SPEED: dict[str, Any] = {
    'schema': {VERSION},
    'benchmark': text,
    'device': {'cpu', 'cuda'},
    'short': bool,
    'complete': bool,
    'command': text,
    'date': text,
    'seconds': not_negative,
    'settings': Each(scalar, keys=str),
    'rows': Each(ROW),
    'missing': Each({'case': CASE, 'method': text, 'why': text}),
    'versions': VERSIONS,
    'machine': {**MACHINE, 'architecture': text, 'accelerator': Or((None, ACCELERATOR))},
}

_GAIN: dict[str, Any] = {key: Or((None, number)) for key in ('gain', 'low', 'high')}
_GAINS = Each(
    Each({**_GAIN, 'best_of_others': text, 'differences': Each(number, at_least=1)}, keys=str),
    keys=str,
)
_SETTING: dict[str, Any] = {
    'settings': Each(scalar, keys=str),
    'fit': Each(scalar, keys=str, at_least=1),
    'mrdib': Or((None, Each(scalar, keys=str))),
    'weights': Each(not_negative, keys=str),
}
_CELL: dict[str, Any] = {
    'kind': {'plain', 'l2', 'noise', 'mrdib'},
    'chosen': _SETTING,
    'trials': Each({**_SETTING, 'val': Each(Or((None, not_negative)))}, at_least=1),
    'seeds': Each(not_negative, at_least=1),
    'val': Each(Each(not_negative, at_least=1), keys=str, at_least=1),
    'test': Each(Each(not_negative, at_least=1), keys=str, at_least=1),
    'best_epoch': Each(positive, at_least=1),
    'num_epochs': Each(positive, at_least=1),
    'epoch_seconds': Each(positive, at_least=1),
    'num_parameters': positive,
    'terms': Each(Each(number, keys=str, at_least=1), at_least=1),
}
_MODEL: dict[str, Any] = {
    'variants': Each(_CELL, keys=str, at_least=1),
    'gains': _GAINS,
    'gains_over_plain': _GAINS,
}
_MEAN_GAINS = Each(Each(Each({**_GAIN, 'num_models': positive}, keys=str), keys=str), keys=str)
#: ``summary.json`` of ``mrdib experiment``.
EXPERIMENT: dict[str, Any] = {
    'name': text,
    'description': dict,
    'bootstrap': {'num_samples': positive, 'seed': not_negative, 'level': positive},
    'datasets': Each(
        {'data_hash': text, 'models': Each(_MODEL, keys=str, at_least=1)}, keys=str, at_least=1
    ),
    'mean_gains': _MEAN_GAINS,
    'mean_gains_over_plain': _MEAN_GAINS,
    'groups': Each(
        {
            'models': Each(text, at_least=1),
            'mean_gains': _MEAN_GAINS,
            'mean_gains_over_plain': _MEAN_GAINS,
        },
        keys=str,
    ),
    'unfinished': Each(text),
    'versions': Each(VERSIONS, at_least=1),
    'machines': Each(MACHINE, at_least=1),
}
_COUNTS: dict[str, Any] = {
    'inputs': positive,
    'loaded': not_negative,
    'hangs': not_negative,
}
#: ``tests/fuzz/run.py``.
FUZZ: dict[str, Any] = {
    'benchmark': {'fuzz'},
    'command': text,
    'date': text,
    'complete': bool,
    'seed': not_negative,
    'examples': positive,
    'memory_mib': positive,
    'patience_seconds': positive,
    'total': {
        **_COUNTS,
        'readers': positive,
        'refused': not_negative,
        'undocumented': not_negative,
    },
    'readers': Each(
        {
            **_COUNTS,
            'reader': text,
            'file': text,
            'refused': Each(positive, keys=str),
            'undocumented': Each(positive, keys=str),
            'peak_mib': not_negative,
            'seconds': not_negative,
            'longest_seconds': not_negative,
        },
        at_least=1,
    ),
    'versions': VERSIONS,
    'machine': MACHINE,
}


def validate(value: Any) -> str:
    r"""Checks what a result file holds and returns its kind: ``'speed'``,
    ``'experiment'``, ``'planted'``, ``'fuzz'``, ``'missing'``, ``'cold'`` or one of
    :obj:`~benchmarks.quality.forms.NAMED`.

    Raises:
        ValueError: If it has another form, with the place.
    """
    if not isinstance(value, dict):
        raise ValueError('a result is a dictionary')
    if 'schema' in value:
        check(value, SPEED, 'result')
        _check_rows(value)
        return 'speed'
    kind = value.get('benchmark')
    if kind == 'fuzz':
        check(value, FUZZ, 'result')
        _check_counts(value)
        return kind
    if isinstance(kind, str) and kind in NAMED:
        check(value, NAMED[kind], 'result')
        return kind
    if 'mean_gains' in value:
        check(value, EXPERIMENT, 'result')
        return 'experiment'
    if 'runs' in value:
        kind = 'missing' if 'modality' in value.get('settings', {}) else 'cold'
        check(value, {'missing': MISSING, 'cold': COLD}[kind], 'result')
        return kind
    if 'models' in value:
        check(value, PLANTED, 'result')
        return 'planted'
    raise ValueError('a result of no kind that is known')


def _check_rows(value: dict[str, Any]) -> None:
    methods: set[tuple[str, str]] = set()
    baselines: set[str] = set()
    for i, row in enumerate(value['rows']):
        case = json.dumps(row['case'], sort_keys=True)
        if not {'time', 'memory', 'values'} & row.keys():
            raise ValueError(f'result.rows[{i}] measures nothing')
        if row.get('time', {}).get('clock', value['device']) != value['device']:
            raise ValueError(f'result.rows[{i}].time.clock is not that of the device')
        if (case, row['method']) in methods or (row['role'] == 'baseline' and case in baselines):
            raise ValueError(f'result.rows[{i}]: {row["method"]!r} is there twice, for {case}')
        methods.add((case, row['method']))
        if row['role'] == 'baseline':
            baselines.add(case)


def _check_counts(value: dict[str, Any]) -> None:
    total = dict.fromkeys(value['total'], 0)
    for row in value['readers']:
        counts = {'inputs': row['inputs'], 'loaded': row['loaded'], 'hangs': row['hangs']}
        counts |= {key: sum(row[key].values()) for key in ('refused', 'undocumented')}
        if counts['inputs'] != sum(counts.values()) - counts['inputs']:
            raise ValueError(f'result.readers: the inputs of {row["reader"]!r} do not add up')
        total = {key: total[key] + counts.get(key, 1) for key in total}
    if total != value['total']:
        raise ValueError(f'result.total is not that of the readers, {total}')


def _reject_constant(name: str) -> None:
    raise ValueError(f'{name} is no JSON')


def load(path: Path) -> Any:
    r"""Reads strict JSON: NaN and Infinity, which Python would write and read, are refused."""
    return json.loads(path.read_text(), parse_constant=_reject_constant)


def main() -> None:
    for name in sys.argv[1:]:
        print(f'{name}: {validate(load(Path(name)))}')


if __name__ == '__main__':
    main()
