r"""Time and memory of `pid.measure_pid` and of explanations.

On the model as it was initialized: neither depends on how well it was trained.

    python -m benchmarks.quality.pid_time --dataset data/amazon-baby
    python -m benchmarks.quality.results       puts the table into docs/PID.md
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch_geometric import seed_everything

from benchmarks.quality import results
from benchmarks.quality.cells import save
from benchmarks.schema import RESULTS
from benchmarks.timer import peak_rss
from mrdib_pyg.datasets import load_dataset
from mrdib_pyg.nn.models import MODELS
from mrdib_pyg.pid import PIDExplainer, measure_pid
from mrdib_pyg.training._run import provenance


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
    before = peak_rss()
    measured, both = timed(measure_pid, net, data)
    _, plain = timed(measure_pid, net, data, negatives='uniform', groups=())
    explainer, first = timed(PIDExplainer, net, data)
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
        'peak_bytes': peak_rss(),
        **provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description='Time and memory of pid.measure_pid.')
    parser.add_argument('--dataset', required=True)
    parser.add_argument('--model', default='multimodal_lightgcn')
    parser.add_argument('--json', type=Path, default=RESULTS / 'pid_time.json')
    args = parser.parse_args()
    torch.set_num_threads(1)
    summary = run(args.dataset, args.model)
    save(args.json, summary)
    print(results.pid_time(summary))


if __name__ == '__main__':
    main()
