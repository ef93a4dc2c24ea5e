"""The results of an experiment as Markdown and as CSV."""

import csv
import io
import json
import statistics
from collections.abc import Mapping
from typing import Any

#: What the overview of the gains shows.
OVERVIEW = ('recall@5', 'ndcg@5', 'recall@20', 'ndcg@20')
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
        for model, of_model in of_dataset['models'].items():
            lines += [f'### {model}', '', *_model(of_model), *_chosen(of_model)]
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
        f'interval by a bootstrap over users.'
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


def _model(of_model: Mapping[str, Any]) -> list[str]:
    variants, gains = of_model['variants'], of_model['gains']
    head = ['', *variants]
    for name in gains:
        more = '' if len(gains) == 1 else f' of {name}'
        head += [f'gain{more} in %', 'over', 'seed by seed, in 1e-4']
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for metric in next(iter(variants.values()))['test']:
        cells = [_label(metric)]
        for variant in variants.values():
            cells.append(mean_sd(variant['test'][metric]))
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
