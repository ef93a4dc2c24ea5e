r"""Writes the tables of ``docs/EVIDENCE.md`` from ``benchmarks/results/evidence``.

python -m benchmarks.quality.evidence_page
"""

import json
from pathlib import Path

from benchmarks.quality import cold_items, evidence_truth
from benchmarks.schema import RESULTS
from benchmarks.tables import make_table, update

FOLDER = RESULTS / 'evidence'
PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'EVIDENCE.md'
NOTES = {'amazon-baby': ', graph-derived features'}
NOT_MEASURED = 'Not measured yet.'


def tables(folder: Path = FOLDER) -> dict[str, str]:
    """The tables of what the folder has."""
    out = {}
    path = folder / 'truth.json'
    out['evidence-truth'] = NOT_MEASURED
    if path.exists():
        out['evidence-truth'] = evidence_truth.table(json.loads(path.read_text()))
    parts = []
    for path in sorted(folder.glob('cold-*.json')):
        rows = json.loads(path.read_text())
        name, seeds = rows[0]['dataset'], sorted({row['seed'] for row in rows})
        head = f'**{name}**{NOTES.get(name, "")}, seeds {", ".join(map(str, seeds))}:'
        parts.append(f'{head}\n\n{cold_items.table(rows)}')
    out['evidence-cold'] = '\n\n'.join(parts) or NOT_MEASURED
    path = folder / 'cost.json'
    out['evidence-cost'] = NOT_MEASURED
    if path.exists():
        rows = json.loads(path.read_text())['rows']
        names = [key for key in rows[0] if key != 'fit_wall_seconds']
        header = [name.replace('_', ' ') for name in names]
        out['evidence-cost'] = make_table(header, [[str(r[name]) for name in names] for r in rows])
    return out


if __name__ == '__main__':
    update(PAGE, tables(), 'python -m benchmarks.quality.evidence_page')
