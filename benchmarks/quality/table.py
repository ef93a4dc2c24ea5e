r"""Makes of the runs of :mod:`benchmarks.quality.compare` one JSON file and a Markdown table.

python -m benchmarks.quality.table runs/compare-tiktok --json benchmarks/results/tiktok.json
python -m benchmarks.quality.table benchmarks/results/tiktok.json --readme README.md
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.markdown import insert

VARIANTS = {
    'plain': 'plain',
    'l2': 'L2 on the codes',
    'noise': 'noise on the codes',
    'mrdib': 'MRdIB',
}
METRICS = ('recall@5', 'recall@20', 'ndcg@5', 'ndcg@20')


def collect(folder: Path) -> dict[str, Any]:
    """Gathers the runs of a comparison, with what all of them share said once."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob('*.json'))]
    if len(records) == 0:
        raise SystemExit(f"there is no run in '{folder}'")
    shared = {k: records[0]['result'][k] for k in ('dataset', 'data_hash', 'model', 'versions')}
    for record in records:
        if any(record['result'][k] != v for k, v in shared.items()):
            raise SystemExit(f"the runs in '{folder}' are of different data, models or versions")
    out: dict[str, Any] = {**shared, 'machine': records[0]['result']['machine'], 'variants': {}}
    for name in VARIANTS:
        runs = [r for r in records if r['job']['variant'] == name]
        finals = [r for r in runs if r['job']['trial'] is None]
        finals.sort(key=lambda r: r['job']['seed'])
        settings = ('settings', 'lr', 'mrdib', 'weights', 'epochs', 'patience')
        out['variants'][name] = {
            'chosen': {k: finals[0]['job'][k] for k in settings if k in finals[0]['job']},
            'trials': [
                {k: r['job'][k] for k in settings if k in r['job']}
                | {'val': r['result']['val'], 'seed': r['job']['seed']}
                for r in runs
                if r['job']['trial'] is not None
            ],
            'seeds': [r['job']['seed'] for r in finals],
            'best_epoch': [r['result']['best_epoch'] for r in finals],
            'epoch_seconds': [r['result']['epoch_seconds'] for r in finals],
            'terms': [r['result']['terms'] for r in finals],
            'val': [r['result']['val'] for r in finals],
            'test': [r['result']['test'] for r in finals],
        }
    return out


def table(summary: dict[str, Any]) -> str:
    """Means and standard deviations over seeds, and the differences seed by seed."""
    variants = summary['variants']
    values = {
        name: {m: [run[m] for run in variant['test']] for m in METRICS}
        for name, variant in variants.items()
    }
    lines = ['| | ' + ' | '.join(m.replace('@', ' @ ') for m in METRICS) + ' |']
    lines.append('|---|' + '---|' * len(METRICS))
    for name, label in VARIANTS.items():
        cells = [
            f'{statistics.mean(v):.4f} ± {statistics.stdev(v):.4f}' for v in values[name].values()
        ]
        lines.append(f'| {label} | ' + ' | '.join(cells) + ' |')
    rivals = [name for name in VARIANTS if name != 'mrdib']
    cells, per_seed = [], []
    for m in METRICS:
        best = max(rivals, key=lambda name: statistics.mean(values[name][m]))
        differences = [a - b for a, b in zip(values['mrdib'][m], values[best][m])]
        gain = statistics.mean(differences) / statistics.mean(values[best][m])
        cells.append(f'{100 * gain:+.1f} % ({VARIANTS[best]})')
        per_seed.append(' '.join(f'{1e4 * d:+.0f}' for d in differences))
    lines.append('| MRdIB against the best of the others | ' + ' | '.join(cells) + ' |')
    lines.append('| the same, seed by seed, in 1e-4 | ' + ' | '.join(per_seed) + ' |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description='Tabulate a comparison.')
    parser.add_argument('source', type=Path, help='a folder of runs, or a JSON file made of it')
    parser.add_argument('--json', type=Path, help='write the summary here')
    parser.add_argument('--readme', type=Path, help='put the table into this Markdown file')
    args = parser.parse_args()
    is_folder = args.source.is_dir()
    summary = collect(args.source) if is_folder else json.loads(args.source.read_text())
    text = table(summary)
    print(text)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(summary, indent=1) + '\n')
    if args.readme is not None:
        insert(args.readme, summary['dataset'], text)


if __name__ == '__main__':
    main()
