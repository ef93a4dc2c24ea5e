r"""Time and memory of :func:`~mrdib_pyg.evidence.evidence` by the number of items.

Random features of 1,280 and 384 columns, and sparse targets as interactions have them: half as many
users as items, and at most 20,000, each with 20 items. Each size in a process of its own, on one
thread.

    python -m benchmarks.quality.evidence_cost --json benchmarks/results/evidence/cost.json
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables import make_table
from mrdib_pyg.evidence import evidence
from mrdib_pyg.evidence.heads import interaction_targets
from mrdib_pyg.files import write_atomic
from mrdib_pyg.training._run import provenance

SIZES = (1_000, 1_200, 10_000, 100_000)
WIDTHS = {'image': 1280, 'text': 384}


def measure(num_items: int) -> dict[str, Any]:
    """Fits one model and predicts a thousand new items."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    features = {m: torch.randn(num_items, d, generator=generator) for m, d in WIDTHS.items()}
    num_users = min(num_items // 2, 20_000)
    user = torch.arange(num_users).repeat_interleave(20)
    item = torch.randint(num_items, user.shape, generator=generator)
    targets = interaction_targets(torch.stack([user, item]), num_users, num_items)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    model = evidence(features, targets)
    fit_wall, fit_cpu = time.perf_counter() - wall, time.process_time() - cpu
    cpu = time.process_time()
    model.encode({m: x[:1000] for m, x in features.items()})
    return {
        'num_items': num_items,
        'num_users': num_users,
        'form': model.form,
        'fit_cpu_seconds': round(fit_cpu, 2),
        'fit_wall_seconds': round(fit_wall, 2),
        'encode_cpu_seconds': round(time.process_time() - cpu, 3),
        'peak_gib': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        'before_gib': round(before / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description='Time and memory of the evidence.')
    parser.add_argument('--json', type=Path, default=Path('benchmarks/results/evidence/cost.json'))
    parser.add_argument('--sizes', type=int, nargs='+', default=SIZES)
    parser.add_argument('--one', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one)))
        return
    out: dict[str, Any] = {'benchmark': 'evidence_cost', 'widths': WIDTHS, **provenance()}
    out['rows'] = []
    for size in args.sizes:
        command = [sys.executable, '-m', 'benchmarks.quality.evidence_cost', '--one', str(size)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        out['rows'].append(json.loads(found.stdout))
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(args.json, (json.dumps(out, indent=1) + '\n').encode())
    print(make_table(list(out['rows'][0]), [[str(x) for x in r.values()] for r in out['rows']]))


if __name__ == '__main__':
    main()
