r"""Makes the tables of quality in ``README.md`` and ``docs`` from the JSON files, and nothing else.

    python -m benchmarks.quality.results             puts them into the pages
    python -m benchmarks.quality.results --check     whether the pages show them

What an experiment has finished is summarized beforehand by `mrdib experiment FILE --out FOLDER
--table --figures`, which also writes its `table.md`.
"""

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import schema
from benchmarks.schema import COMMON, OURS, OURS_MRDIB, RESULTS
from benchmarks.tables import gib, make_table, mean_sd, mrdib_cost, seconds, update
from benchmarks.targets import extra_bytes, rows_of

ROOT = Path(__file__).resolve().parents[2]
Summary = Mapping[str, Any]
VARIANTS = {
    'plain': 'plain',
    'l2': 'L2 on the codes',
    'noise': 'noise on the codes',
    'mrdib': 'MRdIB',
}
#: The atoms of a decomposition of planted data.
ATOMS = ('R', 'U image', 'U text', 'S')
#: The epochs of the trainings of :mod:`benchmarks.quality.pid_training`, by data set.
PID_EPOCHS = {'planted': 20, 'tiktok': 15, 'amazon-baby': 15}
#: The terms of MRdIB with a weight, and those that a model has without it, together.
TERMS, OWN = ('bottleneck', 'redundant', 'unique'), 'own'
#: The item and user graphs by the names of their transforms, and the models that take them.
GRAPHS = {
    'ItemKNN': 'FREEDOM, MGCN',
    'ItemGraphUnion': 'FREEDOM',
    'UserCooccurrence': 'DualGNN',
    'InterestGraph': 'SOIL',
    'SecondOrderGraph': 'SOIL',
}


# -- experiments ----------------------------------------------------------------------------------


def of_experiment(table: Path) -> str:
    """The tables of an experiment for a page that has headings of its own."""
    lines = table.read_text(encoding='utf-8').splitlines()[2:]  # without the title
    return '\n'.join(f'#{line}' if line.startswith('##') else line for line in lines)


def gain_cell(gain: Summary) -> str:
    """A gain in percent with its interval."""
    cells = ['-' if gain[x] is None else f'{100 * gain[x]:+.1f}' for x in ('gain', 'low', 'high')]
    if cells[0] == '-':
        return '-'
    return f'{cells[0]} [{"-" if "-" in cells[1:] else ", ".join(cells[1:])}]'


def overview(
    summary: Summary, floors: Summary, metric: str = 'recall@20', more: str = 'ndcg@20'
) -> str:
    """A row for each model of an experiment: a metric of all variants, and the gains of MRdIB; and
    one for what ranking by popularity reaches on each data set.
    """
    rows = []
    for dataset, of_dataset in summary['datasets'].items():
        for model, of_model in of_dataset['models'].items():
            tests = [of_model['variants'].get(name, {}).get('test', {}) for name in VARIANTS]
            cells = [mean_sd(test[metric]) if metric in test else '' for test in tests]
            gains = of_model['gains'].get('mrdib', {})
            cells += [gain_cell(gains[x]) if x in gains else '' for x in (metric, more)]
            rows.append([model, *cells])
        floor = floors[dataset]
        if floor['data_hash'] != of_dataset['data_hash']:
            raise ValueError(f"popularity was measured on other data than those of '{dataset}'")
        rows.append(['(popularity)', f'{floor["test"][metric]:.4f}', '', '', '', '', ''])
    head = [f'{metric} of', *VARIANTS.values(), f'gain in {metric}, %', f'gain in {more}, %']
    return make_table(head, rows)


def ablation(summary: Summary, whole: str = 'full') -> str:
    """A row for each variant, and what recall@5 loses against the variant with all terms."""
    metrics = ('recall@5', 'ndcg@5', 'recall@20', 'ndcg@20')
    rows = []
    for of_dataset in summary['datasets'].values():
        for model, of_model in of_dataset['models'].items():
            tests = {name: variant['test'] for name, variant in of_model['variants'].items()}
            means = {name: statistics.mean(test['recall@5']) for name, test in tests.items()}
            for name, test in tests.items():
                change = f'{100 * (means[name] / means[whole] - 1):+.1f} %'
                cells = [mean_sd(test[metric]) for metric in metrics]
                rows.append([model, name, *cells, '' if name == whole else change])
    return make_table(['', '', *metrics, f'recall@5 to {whole}'], rows)


def peaks(result: Summary) -> str:
    """The peak memory of a model without and with MRdIB."""
    found: dict[str, dict[str, str]] = {}
    for row in rows_of(dict(result), task='memory'):
        found.setdefault(row['case']['model'], {})[row['method']] = gib(row['memory']['peak_bytes'])
    methods = (OURS, OURS_MRDIB, COMMON)
    rows = [[model, *(cells.get(x, '') for x in methods)] for model, cells in found.items()]
    return make_table(['peak GiB', 'plain', 'with MRdIB', 'common implementation'], rows)


# -- files of one script each ---------------------------------------------------------------------


def planted(summary: Summary) -> str:
    """NDCG@10 on the test edges: mean, standard deviation, ratio to plain, each seed."""
    rows = []
    for model, spec in summary['models'].items():
        plain = None
        for name, variant in spec['variants'].items():
            values = [run['test']['ndcg@10'] for run in variant['runs']]
            mean = statistics.mean(values)
            plain = mean if plain is None else plain
            each = ' '.join(f'{x:.4f}' for x in values)
            rows.append([model, name, mean_sd(values), f'{mean / plain:.2f}', each])
    head = ['model', '', 'ndcg @ 10', 'to plain', 'seed by seed']
    return make_table(head, rows).replace('|  |', '| |', 1)


def is_within(value: float, truth: float) -> bool:
    """The gate of an atom: .02 nats, or 15 % of the truth."""
    return abs(value - truth) <= max(0.02, 0.15 * truth)


def pid_truth(summary: Summary) -> str:
    """The truth, the estimate from the generator's scores, and those of trained models."""

    def three(x: float) -> str:
        return f'{x:.3f}'.replace('-0.000', '0.000')

    rows = []
    for case in summary['cases']:
        truth, fed = case['truth'], case['estimator']
        cells = [three(truth[name]) for name in ATOMS]
        rows.append([case['case'], f'truth (± {case["truth_error"]:.4f})', *cells, ''])
        cells = ['{} [{}, {}]'.format(*map(three, fed[name])) for name in ATOMS]
        within = all(is_within(fed[name][0], truth[name]) for name in ATOMS)
        rows.append(['', "generator's scores", *cells, 'yes' if within else 'no'])
        for row in case['trained']:
            cells = [three(row['atoms'][name][0]) for name in ATOMS]
            rows.append(['', f'{row["model"]}, noise {row["noise"]:g}', *cells, ''])
    return make_table(['bits that matter', 'source', *ATOMS, 'within .02 or 15 %'], rows)


def pid_training(summary: Summary) -> str:
    """Per data set a table of its runs, means over seeds."""

    def numbers(run: Summary) -> dict[str, float]:
        pid = run['pid']
        return {
            'ndcg@10': run['test']['ndcg@10'],
            **{f'I by {name}': value for name, value in run['shared'].items()},
            'R': pid['redundant']['value'],
            **{f'U {name}': atom['value'] for name, atom in pid['unique'].items()},
            'S': pid['synergistic']['value'],
        }

    parts = []
    for dataset, runs in summary['runs'].items():
        seeds = sorted({run['seed'] for run in runs})
        title = f'{len(seeds)} seeds' if len(seeds) > 1 else f'seed {seeds[0]}'
        parts.append(f'**{dataset}**, {PID_EPOCHS[dataset]} epochs, {title}')
        rows = []
        for variant in dict.fromkeys(run['variant'] for run in runs):
            same = [run for run in runs if run['variant'] == variant]
            epochs = ', '.join(map(str, sorted({run['best_epoch'] for run in same})))
            found = [numbers(run) for run in same]
            means = {key: sum(x[key] for x in found) / len(found) for key in found[0]}
            cells = [f'{x:.{2 if key.startswith("I by") else 4}f}' for key, x in means.items()]
            rows.append([variant, epochs, *cells])
        parts.append(make_table(['', 'epoch', *numbers(runs[0])], rows))
    return '\n\n'.join(parts)


def pid_time(summary: Summary) -> str:
    rows = [[k, f'{v["cpu"]:.2f}', f'{v["wall"]:.2f}'] for k, v in summary['seconds'].items()]
    more = (summary['peak_bytes'] - summary['before_bytes']) / 2**20
    return (
        f'{summary["model"]} on {summary["dataset"]}: {summary["num_edges"]} held-out edges of '
        f'{summary["num_users"]} users, 200 resamples, one thread of '
        f'{summary["machine"]["processor"]}, a shared machine. Peak memory {more:.0f} MiB above '
        f'that of the process with model and data ({summary["before_bytes"] / 2**20:.0f} MiB).\n\n'
        + make_table(['', 'process s', 'wall s'], rows)
    )


def term_gradients(summary: Summary) -> str:
    """A row for each model: each pull over that of its own loss, and what its codes share."""
    rows = []
    for name, found in summary['models'].items():
        values = found['measured']
        cells = [name, f'{values["rms of codes"]:.3f}']
        for term in TERMS:
            ratio = values[term] / values[OWN] if values[OWN] > 0 else float('inf')
            cells.append(f'{ratio:.2f} ({found["weights"][term]:g})')
        keys = ('redundant in nats', 'shared', 'shared without')
        rows.append([*cells, *(f'{values[key]:.2f}' for key in keys)])
    header = ['', 'codes, rms', *(f'{term} (weight)' for term in TERMS)]
    header += ['redundant, in training', 'shared, nats', 'shared without the term']
    return make_table(header, rows)


def popularity(summary: Summary) -> str:
    """A row for each data set."""
    names = [f'{name}@{k}' for name in ('recall', 'ndcg') for k in summary['k']]
    rows = []
    for dataset, found in summary['datasets'].items():
        shares = [f'{100 * x:.1f} %' for x in found['share_of_test_edges'].values()]
        rows.append([dataset, *(f'{found["test"][name]:.4f}' for name in names), *shares])
    tops = [f'test edges of the first {k}' for k in summary['k']]
    return make_table(['items by popularity', *names, *tops], rows)


def graphs(summary: Summary) -> str:
    """A row for each graph of each data set."""
    rows = []
    for dataset, found in summary['datasets'].items():
        for name, row in found['graphs'].items():
            cells = [seconds(statistics.median(row['seconds'])), gib(row['memory']['peak_bytes'])]
            rows.append([dataset, name, GRAPHS[name], *cells, gib(extra_bytes(row))])
    return make_table(['', 'graph', 'of', 'time', 'peak GiB', 'of it for this GiB'], rows)


def trainings(summary: Summary) -> str:
    """A row for each model: the whole command, and the epoch in it, on each data set."""
    datasets, rows = summary['datasets'], []
    for name in next(iter(datasets.values()))['trainings']:
        found = [of['trainings'][name] for of in datasets.values()]
        cells = [seconds(row[key]) for row in found for key in ('seconds', 'epoch_seconds')]
        rows.append([f'{name}, MRdIB' if found[0]['mrdib'] else name, *cells])
    head = [text for name in datasets for text in (f'{name}, command', 'its epoch')]
    return make_table(['', *head], rows)


def values_of(
    result: Summary, model: str, variant: str, ratio: float, metric: str, split: str = 'test'
) -> list[float]:
    """The metric by seed where a modality is missing; at a ratio of 0 mean filling is plain."""
    if ratio == 0 and variant == 'mean filling':
        variant = 'plain'
    wanted = {'model': model, 'variant': variant, 'ratio': ratio}
    runs = [run for run in result['runs'] if wanted.items() <= run.items() and split in run]
    return [run[split][metric] for run in sorted(runs, key=lambda run: run['seed'])]


def missing(result: Summary, metric: str, split: str = 'test') -> str:
    """Mean and standard deviation over seeds by the share of items that lack the modality."""
    settings = result['settings']
    metric = f'{metric}@{settings["k"]}'
    ratios = [r for r in settings['ratios'] if r > 0 or split == 'test']
    rows = []
    for model in settings['models']:
        for variant in result['variants']:
            found = [values_of(result, model, variant, ratio, metric, split) for ratio in ratios]
            rows.append([f'`{model}`', variant, *(mean_sd(x) if x else '' for x in found)])
    return make_table(['', '', *(f'{ratio:.0%}' for ratio in ratios)], rows)


def cold(result: Summary, task: str) -> str:
    """Mean and standard deviation over seeds on the test edges."""
    metrics = [f'{name}@{result["settings"]["k"]}' for name in ('recall', 'ndcg')]
    rows = []
    if task == 'items':  # nobody has interacted with any of them
        rows.append(['popularity', '', *['none: all are equal'] * len(metrics)])
    found = [run for run in result['runs'] if run['task'] == task]
    for method, variant in dict.fromkeys((run['method'], run['variant']) for run in found):
        tests = [x['test'] for x in found if (x['method'], x['variant']) == (method, variant)]
        cells = [mean_sd([test[metric] for test in tests]) for metric in metrics]
        name = f'`{method}`' if method in result['settings']['models'] else method
        rows.append([name, variant, *cells])
    return make_table(['', '', *metrics], rows)


# -- pages ----------------------------------------------------------------------------------------


def pages(results: Path = RESULTS) -> dict[str, dict[str, str]]:
    """All tables by their page and the names of their marks."""

    def load(name: str) -> Any:
        value = schema.load(results / f'{name}.json')
        schema.validate(value)
        return value

    floors, begin = load('popularity'), load('short_runs')
    masked, new = load('missing_modalities'), load('cold_models')
    readme, of_results = {'planted': planted(load('planted'))}, {}
    for path in sorted(results.glob('experiments/*/summary.json')):
        name = path.parent.name
        whole = {'ablation': 'full', 'estimators': 'none'}.get(name.partition('-')[0])
        summary = load(f'experiments/{name}/summary')
        if whole is not None:
            of_results[name] = ablation(summary, whole)
        else:
            of_results[name] = of_experiment(path.with_name('table.md'))
            readme[f'experiment-{name}'] = overview(summary, floors['datasets'])
    of_results |= {
        'popularity': popularity(floors),
        'term_gradients': term_gradients(load('term_gradients')),
        'cost': mrdib_cost(load('mrdib_cost-cpu')),
        'memory': peaks(load('training-cpu')),
        'graphs': graphs(begin),
        'short-runs': trainings(begin),
    }
    return {
        'README.md': readme,
        'docs/RESULTS.md': of_results,
        'docs/PID.md': {
            'pid_truth': pid_truth(load('pid_truth')),
            'pid_training': pid_training(load('pid_training')),
            'pid_time': pid_time(load('pid_time')),
        },
        'docs/MISSING.md': {
            'missing-recall': missing(masked, 'recall'),
            'missing-ndcg': missing(masked, 'ndcg'),
            'missing-without': missing(masked, 'recall', 'test_without'),
            'cold-items': cold(new, 'items'),
            'cold-users': cold(new, 'users'),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description='Put the tables of quality into the pages.')
    parser.add_argument('--check', action='store_true', help='only whether the pages show them')
    args = parser.parse_args()
    for page, tables in pages().items():
        update(ROOT / page, tables, 'python -m benchmarks.quality.results', args.check)


if __name__ == '__main__':
    main()
