"""Which runs differ in nothing but their seed, and what to call them."""

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mrdib_pyg.report.run_folder import RunFolder


class Group(NamedTuple):
    r"""The runs of the same settings on the same data, which differ in their seed.

    Args:
        number (int): The place of the group in the report, which chooses its color and shape.
        label (str): Its name, unlike that of any other group.
        dataset (str): The name of the data set, unlike that of any other data.
        runs (List[RunFolder]): The runs.
    """

    number: int
    label: str
    dataset: str
    runs: list[RunFolder]

    @property
    def first(self) -> RunFolder:
        r"""The run that stands for the group where one model is looked at."""
        return self.runs[0]

    def values(self, split: str, metric: str) -> list[float]:
        r"""The values of a metric of the runs that have it."""
        found = [run.metrics(split) for run in self.runs]
        return [values[metric] for values in found if metric in values]


def group_runs(runs: Sequence[RunFolder]) -> list[Group]:
    r"""Groups runs that differ in nothing but the seed, in the order of their first run.

    A label tells the variant and whatever distinguishes a group from the others: the data set, the
    model, settings.
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
    flat = [_flatten(group[0].config) for group in members]
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
    r"""Returns the mean and the standard deviation of a sample (:math:`n - 1`), which is
    :obj:`None` for one value.
    """
    values = list(values)
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def weights_of(run: RunFolder) -> dict[str, Any]:
    r"""Returns the weights of the loss terms that the run was given."""
    weights = run.config['fit'].get('weights')
    return dict(weights) if isinstance(weights, dict) else {}


def _key(run: RunFolder) -> str:
    config = {
        name: value
        for name, value in run.config.items()
        # The same data in another place, or another machine, is the same experiment.
        if name in ('data_hash', 'model', 'settings', 'fit')
    }
    return json.dumps(config, sort_keys=True)


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


def _flatten(config: dict[str, Any]) -> dict[str, str]:
    out: dict[str, str] = {}

    def add(prefix: str, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                add(f'{prefix}{key}.', value)
            else:
                out[f'{prefix}{key}'] = str(value)

    add('', config['settings'])
    add('', config['fit'])
    return out
