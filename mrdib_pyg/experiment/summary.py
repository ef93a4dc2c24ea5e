"""The results of an experiment as one dictionary, of which tables and figures are made."""

import csv
import io
import json
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mrdib_pyg.experiment.description import KINDS, Cell, Experiment
from mrdib_pyg.experiment.records import Records
from mrdib_pyg.experiment.selection import Stage, stage


class Gain(NamedTuple):
    r"""A relative gain, with its bootstrap replicates.

    Args:
        gain (float): The gain, 0.1 for 10 %.
        low (float): The lower end of its 95 % interval.
        high (float): The upper end.
        replicates (numpy.ndarray): The gain in each resample.
    """

    gain: float
    low: float
    high: float
    replicates: np.ndarray


def bootstrap_gain(
    treated: np.ndarray, baseline: np.ndarray, num_samples: int = 2000, seed: int = 0
) -> Gain:
    r"""The relative gain of one metric over another, with an interval by a bootstrap over users and
    training seeds,

    .. math::
        \frac{\sum_s \frac{1}{U} \sum_u a_{su}}{\sum_s \frac{1}{U} \sum_u b_{su}} - 1

    for users :math:`u` and training seeds :math:`s`. Each resample draws users and, independently,
    seeds with replacement: the same ones in both metrics, and the same users in all seeds, since
    all are measured on the same users. The interval says what other users and other trainings like
    these would give. It is that of the percentiles 2.5 and 97.5; under three seeds, which say
    nothing of their spread, there is none (NaN).

    The same arguments give the same draws. Those of users depend on :obj:`seed` and the number of
    users alone, so that replicates of several models may be averaged.

    Args:
        treated (numpy.ndarray): The metric of each seed and user, ``[S, U]``.
        baseline (numpy.ndarray): That of what it is compared with, ``[S, U]``.
        num_samples (int, optional): The number of resamples. (default: :obj:`2000`)
        seed (int, optional): Seeds the draws. (default: :obj:`0`)

    Raises:
        ValueError: If the shapes differ, or are not of two dimensions.
    """
    if treated.shape != baseline.shape or treated.ndim != 2 or treated.shape[1] == 0:
        raise ValueError(
            f"'treated' and 'baseline' must have the same shape [S, U] (got {treated.shape} and "
            f'{baseline.shape})'
        )
    values = np.stack([treated.T, baseline.T], axis=2).astype(np.float64)
    return ratio_gain(values.sum(axis=(0, 1)), resample_sums(values, num_samples, seed))


def ratio_gain(total: np.ndarray, resampled: np.ndarray) -> Gain:
    r"""Returns the gain of the first of two sums over the second, given the same sums of resamples
    ``[num_samples, 2]``; NaN where the second is zero.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        replicates = resampled[:, 0] / resampled[:, 1] - 1
        return make_gain(float(np.divide(total[0], total[1]) - 1), replicates)


def make_gain(gain: float, replicates: np.ndarray) -> Gain:
    r"""Adds the 95 % interval of its replicates to a gain."""
    low, high = np.percentile(replicates, [2.5, 97.5])
    return Gain(gain, float(low), float(high), replicates)


#: With fewer seeds there is no interval.
MIN_SEEDS = 3


def resample_sums(values: np.ndarray, num_samples: int, seed: int, stream: int = 0) -> np.ndarray:
    r"""Returns the sums of resamples of users and seeds, ``[num_samples, C]`` of ``[U, S, C]``; NaN
    under three seeds.

    Args:
        values (numpy.ndarray): What is summed, ``[U, S, C]``.
        num_samples (int): The number of resamples.
        seed (int): Seeds the draws of users and, with :obj:`stream`, those of seeds.
        stream (int, optional): Tells models apart, whose trainings are independent of each other.
            (default: :obj:`0`)
    """
    rng, rng_of_seeds = np.random.default_rng(seed), np.random.default_rng([seed, stream])
    num_users, num_seeds, num_columns = values.shape
    out = np.full((num_samples, num_columns), np.nan)
    if num_seeds < MIN_SEEDS:
        return out
    flat = values.reshape(num_users, -1)
    step = max(1, 2**22 // num_users)  # bounds the memory of the counts
    for start in range(0, num_samples, step):
        count = min(step, num_samples - start)
        drawn = rng.integers(num_users, size=(count, num_users))
        drawn += np.arange(count)[:, None] * num_users
        counts = np.bincount(drawn.ravel(), minlength=count * num_users)
        sums = (counts.reshape(count, num_users) @ flat).reshape(count, num_seeds, num_columns)
        times = rng_of_seeds.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=count)
        out[start : start + count] = np.einsum('ns,nsc->nc', times, sums)
    return out


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
        of_dataset: dict[str, Any] = {'data_hash': None, 'popularity': None, 'models': {}}
        for stream, model in enumerate(experiment.models):
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
                sums = _resample(variants, users, num_samples, seed + index, stream)
                for kind_of_gain, kinds in OTHERS.items():
                    found = _gains(variants, sums, kinds)
                    of_model[kind_of_gain] = {name: rows for name, (_, rows) in found.items()}
                    replicates = {name: values for name, (values, _) in found.items()}
                    if replicates:
                        gains[kind_of_gain][source.name, model] = replicates
        of_dataset['popularity'] = records.popularity(
            source.name, of_dataset['data_hash'], experiment.k
        )
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
    names = [f'{metric}@{k}' for metric in LABELS for k in cutoffs]
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
    r"""Returns the evaluated users, and each metric by user and seed, ``[U, S]``."""
    chosen = stages[cell.variant].chosen
    assert chosen is not None
    jobs = [experiment.job(cell, chosen, seed, test=True) for seed in experiment.seeds]
    found = [records.per_user(job) for job in jobs]
    user, first = found[0]
    if any(not np.array_equal(user, other) for other, _ in found):
        raise ValueError(f"the runs of '{cell.model}' have evaluated different users")
    return user, {name: np.stack([x[name] for _, x in found], axis=1) for name in first}


Sums = tuple[np.ndarray, np.ndarray]


def _resample(
    variants: Mapping[str, dict[str, Any]],
    users: Mapping[str, Users],
    num_samples: int,
    seed: int,
    stream: int,
) -> Sums:
    r"""Returns the sums over users and seeds, variant by variant and metric by metric, and those of
    each resample.
    """
    names = list(variants)
    if any(not np.array_equal(users[name][0], users[names[0]][0]) for name in names):
        raise ValueError('the variants of a model have evaluated different users')
    metrics = variants[names[0]]['test']
    columns = np.stack([users[name][1][m] for name in names for m in metrics], axis=2)
    return columns.sum(axis=(0, 1)), resample_sums(columns, num_samples, seed, stream)


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


#: What the overview of the gains shows.
OVERVIEW = ('recall@5', 'ndcg@5', 'recall@20', 'ndcg@20')

#: The metrics in the order of the tables.
LABELS = {'recall': 'Recall', 'precision': 'Precision', 'map': 'MAP', 'ndcg': 'NDCG'}


def markdown(summary: Mapping[str, Any]) -> str:
    r"""Returns the tables of an experiment: per data set the gains of MRdIB, then for each model
    the mean and the standard deviation of every variant over seeds.

    Args:
        summary (Dict[str, Any]): What :func:`summarize` returns.
    """
    lines = [f'# {summary["name"]}', '', _protocol(summary), '']
    for dataset, of_dataset in summary['datasets'].items():
        if not of_dataset['models']:
            continue
        lines += [f'## {dataset}', '', f'Data: SHA-256 `{of_dataset["data_hash"][:16]}`.', '']
        lines += _overview(summary, dataset)
        popularity = of_dataset.get('popularity')
        for model, of_model in of_dataset['models'].items():
            lines += [f'### {model}', '', *_model(of_model, popularity), *_chosen(of_model)]
    if sum(1 for d in summary['datasets'].values() if d['models']) > 1:
        lines += _mean_over_all(summary)
    if summary['unfinished']:
        lines += ['Not finished:', '', *(f'- {entry}' for entry in summary['unfinished']), '']
    if len(summary['versions']) > 1 or len(summary['machines']) > 1:
        lines += ['The runs were made by different versions or machines, see the JSON.', '']
    return '\n'.join(lines).rstrip() + '\n'


def csv_text(summary: Mapping[str, Any]) -> str:
    r"""Returns one line of CSV per data set, model, variant and metric. Gains, over the best of the
    others and over the plain model alone, are fractions; they are given for the variants of the
    kind ``mrdib``.

    Args:
        summary (Dict[str, Any]): What :func:`summarize` returns.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(
        ['dataset', 'model', 'variant', 'metric', 'mean', 'sd', 'seeds', 'values']
        + ['best_of_others', 'gain', 'low', 'high', 'differences']
        + ['gain_over_plain', 'low_over_plain', 'high_over_plain']
    )
    for dataset, of_dataset in summary['datasets'].items():
        for model, of_model in of_dataset['models'].items():
            for name, variant in of_model['variants'].items():
                for metric, values in variant['test'].items():
                    row = [dataset, model, name, metric, statistics.mean(values), _sd(values)]
                    row += [_join(variant['seeds']), _join(values)]
                    gain = of_model['gains'].get(name, {}).get(metric)
                    if gain is not None:
                        row += [gain[x] for x in ('best_of_others', 'gain', 'low', 'high')]
                        row += [_join(gain['differences'])]
                        over_plain = of_model['gains_over_plain'].get(name, {}).get(metric, {})
                        row += [over_plain.get(x) for x in ('gain', 'low', 'high')]
                    writer.writerow(row + [None] * (16 - len(row)))
    return file.getvalue()


def _protocol(summary: Mapping[str, Any]) -> str:
    seeds = sorted({len(v['seeds']) for v in _variants(summary)})
    trials = sorted({len(v['trials']) for v in _variants(summary)})
    return (
        f'Test edges, mean ± standard deviation over {_join(seeds, " or ")} seeds; every variant '
        f'had {_join(trials, " or ")} trials, chosen on the validation edges. A gain is that of '
        f'MRdIB over the best of the other variants, metric by metric, in percent, with a 95 % '
        f'interval by a bootstrap over users and seeds; under three seeds there is none.'
    )


def _variants(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    models = [m for d in summary['datasets'].values() for m in d['models'].values()]
    return [variant for of_model in models for variant in of_model['variants'].values()]


def _overview(summary: Mapping[str, Any], dataset: str) -> list[str]:
    lines: list[str] = []
    models = summary['datasets'][dataset]['models']
    for kind, title in _gain_kinds(summary).items():
        rows = {model: of_model[kind] for model, of_model in models.items() if of_model[kind]}
        if not rows:
            continue
        means = _means(summary, kind, dataset) if len(rows) > 1 else {}
        rows |= {f'**{label}**': mean for label, mean in means.items()}
        lines += [*_gain_table(rows, title), '']
    return lines


def _means(
    summary: Mapping[str, Any], kind: str, dataset: str, title: str = 'mean'
) -> dict[str, Any]:
    # Over all models, and over the groups of the description.
    owners = {f'{title}, {name}': group for name, group in summary['groups'].items()}
    owners = {title: summary, **owners}
    found = {label: owner[f'mean_{kind}'].get(dataset, {}) for label, owner in owners.items()}
    return {label: mean for label, mean in found.items() if mean}


def _mean_over_all(summary: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for kind, title in _gain_kinds(summary).items():
        means = _means(summary, kind, 'all', 'mean over all')
        if means:
            lines += [*_gain_table(means, title), '']
    return ['## All data sets', '', *lines] if lines else []


def _gain_kinds(summary: Mapping[str, Any]) -> dict[str, str]:
    # Without controls, the best of the others is the plain model.
    has_controls = any(v['kind'] not in ('plain', 'mrdib') for v in _variants(summary))
    plain = {'gains_over_plain': 'gain over plain alone'} if has_controls else {}
    return {'gains': 'gain', **plain}


def _gain_table(rows: Mapping[str, Any], title: str) -> list[str]:
    variants = list(dict.fromkeys(name for row in rows.values() for name in row))
    first = next(iter(next(iter(rows.values())).values()))
    metrics = [metric for metric in OVERVIEW if metric in first] or list(first)
    lines = [f'| {title} | | ' + ' | '.join(map(_label, metrics)) + ' |']
    lines.append('|---|---|' + '---|' * len(metrics))
    for model, row in rows.items():
        for variant in (name for name in variants if name in row):
            cells = ' | '.join(gain_cell(row[variant][metric]) for metric in metrics)
            lines.append(f'| {model} | {variant} | {cells} |')
    return lines


def _model(of_model: Mapping[str, Any], popularity: Mapping[str, float] | None) -> list[str]:
    variants, gains = of_model['variants'], of_model['gains']
    head = ['', *variants, *(['by popularity'] if popularity else [])]
    for name in gains:
        more = '' if len(gains) == 1 else f' of {name}'
        head += [f'gain{more} in %', 'over', 'seed by seed, in 1e-4']
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for metric in next(iter(variants.values()))['test']:
        cells = [_label(metric)]
        for variant in variants.values():
            cells.append(mean_sd(variant['test'][metric]))
        if popularity:
            cells.append(f'{popularity[metric]:.4f}')
        for of_metric in gains.values():
            gain = of_metric[metric]
            differences = ' '.join(f'{1e4 * x:+.1f}' for x in gain['differences'])
            cells += [gain_cell(gain), gain['best_of_others'], differences]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return [*lines, '']


def _chosen(of_model: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, variant in of_model['variants'].items():
        chosen = variant['chosen']
        mrdib = {k: v for k, v in (chosen['mrdib'] or {}).items() if k != 'control'}
        parts = {**chosen['fit'], **chosen['settings'], **mrdib, **chosen['weights']}
        text = ', '.join(f'{k} {v if isinstance(v, str) else json.dumps(v)}' for k, v in
                         parts.items())  # fmt: skip
        diverged = sum(None in trial['val'] for trial in variant['trials'])
        note = f'; {diverged} of {len(variant["trials"])} trials diverged' if diverged else ''
        epochs = list(zip(variant['best_epoch'], variant['num_epochs']))
        last = sum(best == num_epochs for best, num_epochs in epochs)
        note += f'; the last epoch was the best in {last} of {len(epochs)} runs' if last else ''
        seconds = statistics.median(variant['epoch_seconds'])
        lines.append(f'- {name}: {text}; {seconds:.2f} s an epoch{note}')
    return ['Chosen:', '', *lines, '']


def _label(metric: str) -> str:
    name, _, k = metric.partition('@')
    return f'{LABELS.get(name, name)}@{k}'


def gain_cell(gain: Mapping[str, Any]) -> str:
    r"""Returns a gain in percent with its interval."""
    if gain['gain'] is None:
        return '-'
    interval = '-'
    if gain['low'] is not None and gain['high'] is not None:
        interval = f'{100 * gain["low"]:+.1f}, {100 * gain["high"]:+.1f}'
    return f'{100 * gain["gain"]:+.1f} [{interval}]'


def mean_sd(values: list[float]) -> str:
    r"""Returns the mean and, of more than one value, the standard deviation."""
    sd = _sd(values)
    return f'{statistics.mean(values):.4f}' + ('' if sd is None else f' ± {sd:.4f}')


def _sd(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _join(values: Any, sep: str = ' ') -> str:
    return sep.join(str(x) for x in values)
