"""Run folders, and the groups of those that differ only in their seed."""

import json
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

NAMES = {'l2': 'L2 on the codes', 'noise': 'noise on the codes'}


class RunFolder(NamedTuple):
    r"""The files of a run, as :func:`~mrdib_pyg.training.train_model` and ``mrdib measure`` write
    them.
    """

    path: Path  # the folder
    config: dict[str, Any]  # the settings, from `config.json`
    history: list[dict[str, Any]]  # one entry per epoch, from `history.jsonl`
    results: dict[str, Any] | None  # `results.json`, None if there is no such file
    pid: dict[str, Any] | None  # `pid.json`, None if there is no such file
    notes: list[str]  # a sentence for each file that is missing or damaged
    name: str  # the name of the folder, or as much of its path as makes it unique

    @property
    def seed(self) -> int | None:
        r"""The seed of the run."""
        seed = self.config.get('seed')
        return seed if type(seed) is int else None

    @property
    def monitor(self) -> str:
        r"""The validation metric that chose the epoch."""
        return str(self.config['fit'].get('monitor', 'recall@20'))

    @property
    def variant(self) -> str:
        r"""``plain``, ``MRdIB`` or the control that replaces it."""
        mrdib = self.config['settings'].get('mrdib')
        if mrdib is None:
            return 'plain'
        control = mrdib.get('control')
        return 'MRdIB' if control is None else NAMES.get(control, str(control))

    @property
    def best_epoch(self) -> int | None:
        r"""The epoch whose parameters were kept. Before training has finished: the first epoch with
        the best validation metric so far.
        """
        if self.results is not None and isinstance(self.results.get('best_epoch'), int):
            return self.results['best_epoch']
        scored = [
            (row['val'][self.monitor], -row['epoch'])
            for row in self.history
            if isinstance(row.get('val'), dict) and self.monitor in row['val']
        ]
        return -max(scored)[1] if scored else None

    def metrics(self, split: str) -> dict[str, float]:
        r"""The metrics of a split, empty where it was not evaluated."""
        values = None if self.results is None else self.results.get(split)
        if not isinstance(values, dict):
            return {}
        return {key: value for key, value in values.items() if is_number(value)}


def load_run_folder(path: str | Path) -> RunFolder:
    r"""Reads the files of a run except its checkpoints. Missing and damaged files are noted.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has no readable ``config.json``.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no run folder '{path}'; make one with `mrdib train --out`"
        )
    config = _read(path / 'config.json')
    fits = isinstance(config, dict) and isinstance(config.get('model'), str)
    fits = fits and all(isinstance(config.get(key), dict) for key in ('settings', 'fit'))
    if not fits or not isinstance(config['settings'].get('mrdib', {}), (dict, NoneType)):
        raise ValueError(
            f"'{path}' has no readable config.json, so it is no run folder; pass a folder made by "
            f'`mrdib train`'
        )
    notes: list[str] = []
    history = _read_history(path, notes)
    results = _read_optional(path, 'results.json', notes)
    if results is None and not (path / 'results.json').exists():
        notes.append(
            f"'{path}' has no results.json: its training has not finished. To finish it, run "
            f'`mrdib train` again with the same arguments and --resume.'
        )
    elif results is not None and not results.get('test'):
        notes.append(
            f"'{path}' has no test results: it was trained with --no-test, or its data have no "
            f'test edges. `mrdib evaluate {path}` prints the metrics of its model.'
        )
    pid, name = _read_optional(path, 'pid.json', notes), path.name or str(path)
    return RunFolder(path, config, history, results, pid, notes, name)


def distinguish(runs: Sequence[RunFolder]) -> list[RunFolder]:
    r"""Names runs in folders of the same name by as much of their paths as tells them apart."""
    parts = [run.path.resolve().parts for run in runs]
    lengths = [1] * len(runs)
    while True:
        ends = [p[-n:] for p, n in zip(parts, lengths)]
        shared = [ends.count(end) > 1 and n < len(p) for end, p, n in zip(ends, parts, lengths)]
        if not any(shared):
            break
        lengths = [n + more for n, more in zip(lengths, shared)]
    return [
        run if n == 1 else run._replace(name='/'.join(end))
        for run, n, end in zip(runs, lengths, ends)
    ]


def is_number(value: Any) -> bool:
    r"""Whether a value read from JSON is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max  # JSON of Python has NaN, and integers without end


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None


def _read_optional(path: Path, name: str, notes: list[str]) -> dict[str, Any] | None:
    if not (path / name).exists():
        return None
    values = _read(path / name)
    if isinstance(values, dict):
        return values
    notes.append(f"'{path / name}' is not a JSON object, so it is left out.")
    return None


def _read_history(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    file = path / 'history.jsonl'
    try:
        lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        notes.append(f"'{path}' has no history.jsonl, so it has no training curves.")
        return []
    out: list[dict[str, Any]] = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        fits = isinstance(row, dict) and isinstance(row.get('train'), dict)
        if not fits or row.get('epoch') != len(out) + 1:
            notes.append(
                f"'{file}' is damaged in line {len(out) + 1} of {len(lines)}. The curves show the "
                f'epochs before it. `mrdib train --resume` repairs the file.'
            )
            break
        out.append(row)
    return out


class Group(NamedTuple):
    r"""Runs of the same settings on the same data, which differ only in their seed."""

    number: int  # its place in the report, which sets its color and shape
    label: str  # unique in the report
    dataset: str  # the name of the data set, unique in the report
    runs: list[RunFolder]

    @property
    def first(self) -> RunFolder:
        r"""The run whose model stands for the group."""
        return self.runs[0]

    def values(self, split: str, metric: str) -> list[float]:
        r"""The values of a metric, of the runs that have it."""
        found = [run.metrics(split) for run in self.runs]
        return [values[metric] for values in found if metric in values]


def runs_of(groups: Iterable[Group]) -> list[RunFolder]:
    r"""All runs of some groups."""
    return [run for group in groups for run in group.runs]


def by_dataset(groups: Iterable[Group]) -> dict[str, list[Group]]:
    r"""The groups of each data set."""
    out: dict[str, list[Group]] = {}
    for group in groups:
        out.setdefault(group.dataset, []).append(group)
    return out


def legend_of(groups: Iterable[Group]) -> list[tuple[int, str]]:
    r"""The number and the label of each group."""
    return [(group.number, group.label) for group in groups]


def group_runs(runs: Sequence[RunFolder]) -> list[Group]:
    r"""Groups runs that differ only in their seed, in the order of their first run. A label holds
    the variant and what else tells the group from the others: data set, model, settings.
    """
    found: dict[str, list[RunFolder]] = {}
    for run in runs:
        found.setdefault(_key(run), []).append(run)
    members = list(found.values())
    datasets = _dataset_names(members)
    models = {group[0].config['model'] for group in members}
    labels = [
        [dataset] * (len(set(datasets)) > 1)
        + [group[0].config['model']] * (len(models) > 1)
        + [group[0].variant]
        for dataset, group in zip(datasets, members)
    ]
    configs = [group[0].config for group in members]
    flat = [
        {key: str(x) for part in ('settings', 'fit') for key, x in flatten(config[part]).items()}
        for config in configs
    ]
    for same in _collisions(labels):
        shown = {key for i in same for key in flat[i]}
        shown = {key for key in shown if len({flat[i].get(key) for i in same}) > 1}
        for i in same:
            parts = [f'{key}={flat[i].get(key, "default")}' for key in sorted(shown)]
            labels[i] = [*labels[i], ', '.join(parts)]
    return [
        Group(i, ' · '.join(label), dataset, group)
        for i, (label, dataset, group) in enumerate(zip(labels, datasets, members))
    ]


def mean_and_spread(values: Iterable[float]) -> tuple[float, float | None]:
    r"""The mean, and the sample standard deviation (:math:`n - 1`), :obj:`None` for one value."""
    values = list(values)
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def weights_of(run: RunFolder) -> dict[str, Any]:
    r"""The weights of the loss terms in the settings of a run."""
    weights = run.config['fit'].get('weights')
    return dict(weights) if isinstance(weights, dict) else {}


def _key(run: RunFolder) -> str:
    # Neither the place of the data nor the machine makes another experiment.
    names = ('data_hash', 'model', 'settings', 'fit')
    return json.dumps([run.config.get(name) for name in names], sort_keys=True)


def _dataset_names(members: list[list[RunFolder]]) -> list[str]:
    names = [os.path.basename(str(group[0].config.get('dataset') or 'data')) for group in members]
    hashes = [str(group[0].config.get('data_hash')) for group in members]
    known: dict[str, set[str]] = {}
    for name, digest in zip(names, hashes):
        known.setdefault(name, set()).add(digest)
    return [
        f'{name} ({digest[:8]})' if len(known[name]) > 1 else name
        for name, digest in zip(names, hashes)
    ]


def _collisions(labels: list[list[str]]) -> list[list[int]]:
    found: dict[tuple[str, ...], list[int]] = {}
    for i, label in enumerate(labels):
        found.setdefault(tuple(label), []).append(i)
    return [same for same in found.values() if len(same) > 1]


def flatten(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    r"""Flattens nested settings; their names are joined by dots."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            out.update(flatten(value, f'{prefix}{key}.'))
        else:
            out[f'{prefix}{key}'] = value
    return out
