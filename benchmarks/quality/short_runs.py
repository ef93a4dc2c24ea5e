r"""What it takes to begin: the graphs that models build before they train, and one epoch of every
model by `mrdib train`, from the start of Python to the metrics of the test edges.

    python -m benchmarks.quality.short_runs data/tiktok data/amazon-baby
    python -m benchmarks.quality.results                   puts the tables into the pages

Processes have one thread each and run one after the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality import results
from benchmarks.quality.cells import save
from benchmarks.quality.results import GRAPHS
from benchmarks.schema import RESULTS
from benchmarks.timer import in_process, peak_of
from mrdib_pyg import transforms
from mrdib_pyg.datasets import data_hash, load_dataset
from mrdib_pyg.nn.models import MODELS
from mrdib_pyg.nn.models.registry import takes_mrdib
from mrdib_pyg.training._run import provenance


def measure_graph(name: str, path: str, num_runs: int) -> dict[str, Any]:
    """The time of a transform, and the peak memory of its first call; for a process of its own."""
    transform, data = getattr(transforms, name)(), load_dataset(path)
    memory = peak_of(lambda: transform(data))
    times = []
    for _ in range(num_runs):
        start = time.process_time()
        transform(data)
        times.append(time.process_time() - start)
    return {'seconds': times, 'memory': memory}


def measure_training(name: str, path: str) -> dict[str, Any]:
    """The time of one epoch by the command line: of the whole command, and of the epoch in it."""
    layer = ['--mrdib'] if takes_mrdib(MODELS[name]) else []
    with tempfile.TemporaryDirectory() as folder:
        command = ['train', '--dataset', path, '--model', name, *layer, '--epochs', '1', '--quiet']
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, '-m', 'mrdib_pyg.cli', *command, '--out', folder],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )
        total = time.perf_counter() - start
        results = json.loads((Path(folder) / 'results.json').read_text())
    return {'mrdib': len(layer) > 0, 'seconds': total, 'epoch_seconds': results['epoch_seconds']}


def measure(path: str, models: Sequence[str], num_runs: int) -> dict[str, Any]:
    """All graphs and all models on one data set."""
    target = 'benchmarks.quality.short_runs:measure_graph'
    return {
        'data_hash': data_hash(load_dataset(path)),
        'graphs': {name: in_process(target, name, path, num_runs) for name in GRAPHS},
        'trainings': {name: measure_training(name, path) for name in models},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description='What does it take to begin?')
    parser.add_argument('datasets', nargs='+', help='folders of data')
    parser.add_argument('--models', type=lambda text: text.split(','), default=sorted(MODELS))
    parser.add_argument('--runs', type=int, default=3, help='runs of each graph')
    parser.add_argument('--json', type=Path, default=RESULTS / 'short_runs.json')
    args = parser.parse_args()
    found = {Path(path).name: measure(path, args.models, args.runs) for path in args.datasets}
    summary = {'benchmark': 'short_runs', 'datasets': found, **provenance()}
    save(args.json, summary)
    print(results.graphs(summary), results.trainings(summary), sep='\n\n')


if __name__ == '__main__':
    main()
