"""Puts the tables of the committed experiments and the costs into docs/RESULTS.md, and an overview
of them into README.md.

python -m benchmarks.quality.results

What an experiment has finished is summarized beforehand by `mrdib experiment FILE --out FOLDER
--table --figures`; a summary is all that is read here.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import schema
from benchmarks.markdown import insert, make_table
from benchmarks.part import RESULTS
from benchmarks.quality import popularity, short_runs
from benchmarks.tables import gib, mrdib_cost
from mrdib_pyg.experiment.summary import gain_cell, markdown, mean_sd

PAGE = Path(__file__).parents[2] / 'docs/RESULTS.md'
README = Path(__file__).parents[2] / 'README.md'
VARIANTS = {
    'plain': 'plain',
    'l2': 'L2 on the codes',
    'noise': 'noise on the codes',
    'mrdib': 'MRdIB',
}


def of_experiment(summary: dict[str, Any]) -> str:
    """The tables of an experiment for a page that has headings of its own."""
    lines = markdown(summary).splitlines()[2:]  # without the title
    return '\n'.join(f'#{line}' if line.startswith('##') else line for line in lines)


def overview(
    summary: dict[str, Any],
    floors: dict[str, Any],
    metric: str = 'recall@20',
    more: str = 'ndcg@20',
) -> str:
    """A row for each model of an experiment: a metric of all variants, and the gains of MRdIB; and
    one for what ranking by popularity reaches on each data set.
    """
    rows = []
    for dataset, of_dataset in summary['datasets'].items():
        for model, of_model in of_dataset['models'].items():
            cells = [model]
            for name in VARIANTS:
                values = of_model['variants'].get(name, {}).get('test', {}).get(metric)
                cells.append('' if values is None else mean_sd(values))
            gains = of_model['gains'].get('mrdib', {})
            cells += [gain_cell(gains[x]) if x in gains else '' for x in (metric, more)]
            rows.append(cells)
        floor = floors[dataset]
        if floor['data_hash'] != of_dataset['data_hash']:
            raise ValueError(f"popularity was measured on other data than those of '{dataset}'")
        rows.append(['(popularity)', f'{floor["test"][metric]:.4f}', '', '', '', '', ''])
    head = [f'{metric} of', *VARIANTS.values(), f'gain in {metric}, %', f'gain in {more}, %']
    return make_table(head, rows)


def ablation(summary: dict[str, Any], whole: str = 'full') -> str:
    """A row for each variant, and what recall@5 loses against the variant with all terms."""
    metrics = ('recall@5', 'ndcg@5', 'recall@20', 'ndcg@20')
    rows = []
    for of_dataset in summary['datasets'].values():
        for model, of_model in of_dataset['models'].items():
            variants = of_model['variants']
            base = statistics.mean(variants[whole]['test']['recall@5'])
            for name, variant in variants.items():
                found = [variant['test'][metric] for metric in metrics]
                cells = [f'{statistics.mean(x):.4f} ± {statistics.stdev(x):.4f}' for x in found]
                change = 100 * (statistics.mean(found[0]) / base - 1)
                rows.append([model, name, *cells, '' if name == whole else f'{change:+.1f} %'])
    return make_table(['', '', *metrics, f'recall@5 to {whole}'], rows)


def memory(result: dict[str, Any]) -> str:
    """The peak memory of a model without and with MRdIB."""
    peaks: dict[str, dict[str, str]] = {}
    for row in result['rows']:
        if row['case'].get('task') == 'memory':
            of_model = peaks.setdefault(row['case']['model'], {})
            of_model[row['method']] = gib(row['memory']['peak_bytes'])
    names = ('mrdib_pyg', 'mrdib_pyg with MRdIB', 'common implementation')
    rows = [[model, *(found.get(name, '') for name in names)] for model, found in peaks.items()]
    return make_table(['peak GiB', 'plain', 'with MRdIB', 'common implementation'], rows)


def tables(results: Path = RESULTS) -> dict[str, str]:
    """All tables of the page by the names of their marks."""
    out = {}
    for path in sorted(results.glob('experiments/*/summary.json')):
        summary, kind = json.loads(path.read_text()), path.parent.name.partition('-')[0]
        whole = {'ablation': 'full', 'estimators': 'none'}.get(kind)
        out[path.parent.name] = (
            of_experiment(summary) if whole is None else ablation(summary, whole)
        )
    out['cost'] = mrdib_cost(schema.load(results / 'mrdib_cost-cpu.json'))
    out['memory'] = memory(schema.load(results / 'training-cpu.json'))
    out['popularity'] = popularity.table(schema.load(results / 'popularity.json'))
    begin = schema.load(results / 'short_runs.json')
    out['graphs'] = short_runs.graph_table(begin)
    out['short-runs'] = short_runs.training_table(begin)
    return out


def readme_tables(results: Path = RESULTS) -> dict[str, str]:
    """The overviews in the README by the names of their marks."""
    out, floors = {}, schema.load(results / 'popularity.json')['datasets']
    for name in ('tiktok', 'amazon-baby'):
        path = results / 'experiments' / name / 'summary.json'
        out[f'experiment-{name}'] = overview(json.loads(path.read_text()), floors)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description='Put the tables of experiments into the pages.')
    parser.add_argument('--page', type=Path, default=PAGE)
    parser.add_argument('--readme', type=Path, default=README)
    args = parser.parse_args()
    for page, found in ((args.page, tables()), (args.readme, readme_tables())):
        for name, text in found.items():
            insert(page, name, text)


if __name__ == '__main__':
    main()
