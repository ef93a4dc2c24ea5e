"""The results of an experiment as one dictionary, of which tables and figures are made."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrdib_pyg.training.experiment.bootstrap import Gain, make_gain, ratio_gain, resample_sums
from mrdib_pyg.training.experiment.description import KINDS, Cell, Experiment
from mrdib_pyg.training.experiment.records import Records
from mrdib_pyg.training.experiment.selection import Stage, stage

METRICS = ('recall', 'precision', 'map', 'ndcg')
#: By the name of a gain, the kinds of variants over which it is taken: the best of them.
OTHERS = {
    'gains': tuple(kind for kind in KINDS if kind != 'mrdib'),
    'gains_over_plain': ('plain',),
}


def summarize(
    experiment: Experiment, records: Records, num_samples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    r"""Gathers the finished runs of an experiment.

    For each model of which all variants are finished it adds the gain of every variant of the kind
    ``mrdib`` over the best of the others, which is taken metric by metric by the mean over seeds:
    relative, with a 95 % interval by :func:`bootstrap_gain`, and as differences seed by seed; and
    the same over the variant of the kind ``plain`` alone, which is what published gains are over.
    The mean gain over models averages the gains, and the resamples of which its interval is made:
    over all models, and over each of the description's ``groups`` of which all models have one.

    Args:
        experiment (Experiment): The experiment.
        records (Records): Its runs; nothing is written.
        num_samples (int, optional): The number of resamples of the bootstrap.
            (default: :obj:`2000`)
        seed (int, optional): Seeds the bootstrap. (default: :obj:`0`)

    Raises:
        ValueError: If nothing has finished, or runs are of different data.
    """
    out: dict[str, Any] = {
        'name': experiment.name,
        'description': experiment.description,
        'bootstrap': {'num_samples': num_samples, 'seed': seed, 'level': 0.95},
        'datasets': {},
        **{f'mean_{name}': {} for name in OTHERS},
        'groups': {
            group: {'models': models, **{f'mean_{name}': {} for name in OTHERS}}
            for group, models in experiment.groups.items()
        },
        'unfinished': [],
        'versions': [],
        'machines': [],
    }
    gains: dict[str, dict[tuple[str, str], dict[str, dict[str, Gain]]]] = {x: {} for x in OTHERS}
    for index, source in enumerate(experiment.datasets):
        of_dataset: dict[str, Any] = {'data_hash': None, 'models': {}}
        for model in experiment.models:
            cells = [c for c in experiment.cells if (c.dataset, c.model) == (source, model)]
            stages = {c.variant: stage(experiment, c, records) for c in cells}
            variants = {}
            for cell in cells:
                at = stages[cell.variant]
                if not at.is_finished:
                    out['unfinished'].append(
                        f'{source.name} {model} {cell.variant}: {at.num_finished} of '
                        f'{at.num_runs} runs'
                    )
                else:
                    variants[cell.variant] = _variant(experiment, cell, at, records)
                _check_origin(experiment, cell, at, records, of_dataset, out)
            if not variants:
                continue
            of_model: dict[str, Any] = {'variants': variants, **{name: {} for name in OTHERS}}
            of_dataset['models'][model] = of_model
            if len(variants) == len(cells) and any(c.kind == 'mrdib' for c in cells):
                users = {c.variant: _users(experiment, c, stages, records) for c in cells}
                sums = _resample(variants, users, num_samples, seed + index)
                for kind_of_gain, kinds in OTHERS.items():
                    found = _gains(variants, sums, kinds)
                    of_model[kind_of_gain] = {name: rows for name, (_, rows) in found.items()}
                    replicates = {name: values for name, (values, _) in found.items()}
                    if replicates:
                        gains[kind_of_gain][source.name, model] = replicates
        out['datasets'][source.name] = of_dataset
    if not any(of_dataset['models'] for of_dataset in out['datasets'].values()):
        raise ValueError(
            f"no variant of a model is finished in '{records.folder}'; run the experiment first"
        )
    names = [source.name for source in experiment.datasets]
    for key, chosen in [*((name, [name]) for name in names), ('all', names)]:
        for name, of_kind in gains.items():
            of_chosen = [g for (d, _), g in of_kind.items() if d in chosen]
            out[f'mean_{name}'][key] = _mean_gains(of_chosen)
            for group in out['groups'].values():
                members = [(d, model) for d in chosen for model in group['models']]
                # With a model missing it would be the mean of something else.
                is_complete = all(member in of_kind for member in members)
                of_group = [of_kind[member] for member in members] if is_complete else []
                group[f'mean_{name}'][key] = _mean_gains(_common(of_group))
    return out


def _variant(experiment: Experiment, cell: Cell, at: Stage, records: Records) -> dict[str, Any]:
    assert at.chosen is not None
    finals = [experiment.job(cell, at.chosen, s, test=True) for s in experiment.seeds]
    results = [_result(records, job) for job in finals]
    return {
        'kind': cell.kind,
        'chosen': cell.settings[at.chosen],
        'trials': [
            {**setting, 'val': [x if np.isfinite(x) else None for x in scores]}
            for setting, scores in zip(cell.settings, at.scores)
        ],
        'seeds': experiment.seeds,
        'val': _by_metric([result['val'] for result in results]),
        'test': _by_metric([result['test'] for result in results]),
        'best_epoch': [result['best_epoch'] for result in results],
        'num_epochs': [result['num_epochs'] for result in results],
        'epoch_seconds': [result['epoch_seconds'] for result in results],
        'num_parameters': results[0]['num_parameters'],
        'terms': [result['terms'] for result in results],
    }


def _by_metric(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    cutoffs = sorted({int(name.split('@')[1]) for name in rows[0]})
    names = [f'{metric}@{k}' for metric in METRICS for k in cutoffs]
    return {name: [row[name] for row in rows] for name in names}


def _result(records: Records, job: Mapping[str, Any]) -> dict[str, Any]:
    record = records.load(job)
    assert record is not None
    return record['result']


def _check_origin(
    experiment: Experiment,
    cell: Cell,
    at: Stage,
    records: Records,
    of_dataset: dict[str, Any],
    out: dict[str, Any],
) -> None:
    r"""Notes the hash of the data, the versions and the machine of the test runs of a cell."""
    if at.chosen is None:
        return
    for seed in experiment.seeds:
        record = records.load(experiment.job(cell, at.chosen, seed, test=True))
        if record is None:
            continue
        result = record['result']
        if of_dataset['data_hash'] not in (None, result['data_hash']):
            raise ValueError(
                f"the runs in '{records.folder}' are of different data named "
                f"'{cell.dataset.name}'; remove those of the wrong one"
            )
        of_dataset['data_hash'] = result['data_hash']
        for key, value in (('versions', result['versions']), ('machines', result['machine'])):
            if value not in out[key]:
                out[key].append(value)


Users = tuple[np.ndarray, dict[str, np.ndarray]]


def _users(
    experiment: Experiment, cell: Cell, stages: Mapping[str, Stage], records: Records
) -> Users:
    r"""Returns the evaluated users, and each metric of each of them summed over seeds."""
    chosen = stages[cell.variant].chosen
    assert chosen is not None
    jobs = [experiment.job(cell, chosen, seed, test=True) for seed in experiment.seeds]
    user, sums = records.per_user(jobs[0])
    for job in jobs[1:]:
        other, values = records.per_user(job)
        if not np.array_equal(user, other):
            raise ValueError(f"the runs of '{cell.model}' have evaluated different users")
        sums = {name: sums[name] + values[name] for name in sums}
    return user, sums


Sums = tuple[np.ndarray, np.ndarray]


def _resample(
    variants: Mapping[str, dict[str, Any]], users: Mapping[str, Users], num_samples: int, seed: int
) -> Sums:
    r"""Returns the sums over users, variant by variant and metric by metric, and those of each
    resample.
    """
    names = list(variants)
    if any(not np.array_equal(users[name][0], users[names[0]][0]) for name in names):
        raise ValueError('the variants of a model have evaluated different users')
    metrics = variants[names[0]]['test']
    columns = np.stack([users[name][1][m] for name in names for m in metrics], axis=1)
    return columns.sum(axis=0), resample_sums(columns, num_samples, seed)


def _gains(
    variants: Mapping[str, dict[str, Any]], sums: Sums, kinds: tuple[str, ...]
) -> dict[str, tuple[dict[str, Gain], dict[str, dict[str, Any]]]]:
    r"""Returns for each variant with MRdIB its gains over the best of the given kinds, with and
    without resamples.
    """
    treated = [name for name, variant in variants.items() if variant['kind'] == 'mrdib']
    others = [name for name, variant in variants.items() if variant['kind'] in kinds]
    if not treated or not others:
        return {}
    names = list(variants)
    metrics = list(variants[names[0]]['test'])
    total, resampled = sums
    out: dict[str, tuple[dict[str, Gain], dict[str, dict[str, Any]]]] = {}
    for name in treated:
        of_gains, rows = {}, {}
        for i, metric in enumerate(metrics):
            means = {x: statistics.mean(variants[x]['test'][metric]) for x in others}
            best = max(others, key=means.__getitem__)
            pair = [names.index(x) * len(metrics) + i for x in (name, best)]
            gain = ratio_gain(total[pair], resampled[:, pair])
            mine, its = (variants[x]['test'][metric] for x in (name, best))
            of_gains[metric] = gain
            rows[metric] = {
                'best_of_others': best,
                **_numbers(gain),
                'differences': [a - b for a, b in zip(mine, its)],
            }
        out[name] = of_gains, rows
    return out


def _mean_gains(gains: list[dict[str, dict[str, Gain]]]) -> dict[str, dict[str, dict[str, Any]]]:
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for variant in dict.fromkeys(name for of_model in gains for name in of_model):
        of_variant = [of_model[variant] for of_model in gains if variant in of_model]
        out[variant] = {}
        for metric in of_variant[0]:
            values = [of_model[metric] for of_model in of_variant]
            gain = make_gain(
                statistics.mean(x.gain for x in values),
                np.mean([x.replicates for x in values], axis=0),
            )
            out[variant][metric] = {**_numbers(gain), 'num_models': len(values)}
    return out


def _common(gains: list[dict[str, dict[str, Gain]]]) -> list[dict[str, dict[str, Gain]]]:
    r"""Returns the gains of the variants that all models have."""
    return [
        {name: g for name, g in of_model.items() if all(name in other for other in gains)}
        for of_model in gains
    ]


def _numbers(gain: Gain) -> dict[str, Any]:
    r"""Returns a gain for JSON, which has no NaN: nothing stands for a gain over zero."""
    numbers = {'gain': gain.gain, 'low': gain.low, 'high': gain.high}
    return {name: x if np.isfinite(x) else None for name, x in numbers.items()}
