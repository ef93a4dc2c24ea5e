"""Puts the tables of the committed experiments and the costs into docs/RESULTS.md.

python -m benchmarks.quality.results

What an experiment has finished is summarized beforehand by `mrdib experiment FILE --out FOLDER
--table --figures`; a summary is all that is read here.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import schema
from benchmarks.markdown import insert, make_table
from benchmarks.part import RESULTS
from benchmarks.tables import gib, mrdib_cost
from mrdib_pyg.training.experiment import markdown

PAGE = Path(__file__).parents[2] / 'docs/RESULTS.md'


def of_experiment(summary: dict[str, Any]) -> str:
    """The tables of an experiment for a page that has headings of its own."""
    lines = markdown(summary).splitlines()[2:]  # without the title
    return '\n'.join(f'#{line}' if line.startswith('##') else line for line in lines)


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
        out[path.parent.name] = of_experiment(json.loads(path.read_text()))
    out['cost'] = mrdib_cost(schema.load(results / 'mrdib_cost-cpu.json'))
    out['memory'] = memory(schema.load(results / 'training-cpu.json'))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description='Put the tables into docs/RESULTS.md.')
    parser.add_argument('--page', type=Path, default=PAGE)
    args = parser.parse_args()
    for name, text in tables().items():
        insert(args.page, name, text)


if __name__ == '__main__':
    main()
