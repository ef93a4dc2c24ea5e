r"""Time and memory of `pid.measure` and of explanations.

On the model as it was initialized: neither depends on how well it was trained.

    python -m benchmarks.quality.pid_time --dataset data/amazon-baby --doc docs/PID.md
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch_geometric import seed_everything

from benchmarks.markdown import insert, make_table
from mrdib_pyg.datasets import load_dataset
from mrdib_pyg.files import write_atomic
from mrdib_pyg.nn.models import MODELS
from mrdib_pyg.pid import Explainer, measure
from mrdib_pyg.training._run import provenance


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def timed(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, float]]:
    """What a function returns, and its seconds on the wall and of the process."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = function(*args, **kwargs)
    return out, {'wall': time.perf_counter() - wall, 'cpu': time.process_time() - cpu}


def run(dataset: str, model: str, seed: int = 0) -> dict[str, Any]:
    data = load_dataset(dataset)
    seed_everything(seed)
    net = MODELS[model](data).eval()
    net.embed()
    before = peak_bytes()
    measured, both = timed(measure, net, data)
    _, plain = timed(measure, net, data, negatives='uniform', groups=())
    explainer, first = timed(Explainer, net, data)
    _, pairs = timed(explainer, torch.arange(1000) % net.num_users, torch.arange(1000))
    part = measured.overall['uniform']
    return {
        'benchmark': 'pid_time',
        'dataset': Path(dataset).name,
        'model': model,
        'num_edges': part.num_edges,
        'num_users': part.num_users,
        'seconds': {
            'measure, both columns and deciles': both,
            'measure, uniform non-edges, overall': plain,
            'explainer': first,
            '1000 explanations': pairs,
        },
        'before_bytes': before,
        'peak_bytes': peak_bytes(),
        **provenance(),
    }


def table(summary: dict[str, Any]) -> str:
    rows = [
        [name, f'{seconds["cpu"]:.2f}', f'{seconds["wall"]:.2f}']
        for name, seconds in summary['seconds'].items()
    ]
    more = (summary['peak_bytes'] - summary['before_bytes']) / 2**20
    return (
        f'{summary["model"]} on {summary["dataset"]}: {summary["num_edges"]} held-out edges of '
        f'{summary["num_users"]} users, 200 resamples, one thread of '
        f'{summary["machine"]["processor"]}, a shared machine. Peak memory {more:.0f} MiB above '
        f'that of the process with model and data ({summary["before_bytes"] / 2**20:.0f} MiB).\n\n'
        + make_table(['', 'process s', 'wall s'], rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description='Time and memory of pid.measure.')
    parser.add_argument('--dataset', required=True)
    parser.add_argument('--model', default='multimodal_lightgcn')
    parser.add_argument('--json', type=Path, default=Path('benchmarks/results/pid_time.json'))
    parser.add_argument('--doc', type=Path, help='put the table into this Markdown file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    summary = run(args.dataset, args.model)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.json, (json.dumps(summary, indent=1) + '\n').encode())
    print(table(summary))
    if args.doc is not None:
        insert(args.doc, 'pid_time', table(summary))


if __name__ == '__main__':
    main()
