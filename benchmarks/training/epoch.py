r"""Times one epoch and one evaluation of a model without and with MRdIB, and reads the peak memory.

Each variant runs in a process of its own, on one thread; medians over epochs and evaluations, with
the smallest and the largest.

    python -m benchmarks.training.epoch --dataset data/amazon-baby \
        --json benchmarks/results/epoch-amazon-baby.json
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from pathlib import Path
from typing import Any

VARIANTS: dict[str, Any] = {'plain': None, 'mrdib': {}}


def measure(job: tuple[str, str, str, int]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    from mrdib_pyg.datasets import load_dataset
    from mrdib_pyg.evaluation import evaluate
    from mrdib_pyg.nn.models import MODELS
    from mrdib_pyg.training import fit, provenance, seed_everything

    dataset, model, variant, epochs = job
    data = load_dataset(dataset)
    data['user', 'val', 'item'].edge_label_index = torch.empty(2, 0, dtype=torch.long)
    seed_everything(0)
    mrdib = VARIANTS[variant]
    net = MODELS[model](data, **({} if mrdib is None else {'mrdib': mrdib}))
    weights = {} if mrdib is None else {'bottleneck': 1e-4, 'redundant': 1e-4, 'unique': 5e-2}
    # Without validation edges the time of an epoch holds training alone; the first warms up.
    fitted = fit(net, data, epochs=epochs + 1, weights=weights, progress=False)
    seconds = [row['seconds'] for row in fitted.history[1:]]
    evaluations = []
    for _ in range(4):
        net.train()
        net.eval()  # forgets the embeddings, so that each evaluation propagates once
        start = time.perf_counter()
        evaluate(net, data, 'test')
        evaluations.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        'model': model,
        'variant': variant,
        'dataset': Path(dataset).name,
        'epoch_seconds': _spread(seconds),
        'evaluation_seconds': _spread(evaluations[1:]),
        'peak_gib': peak,
        'num_parameters': sum(p.numel() for p in net.parameters()),
        **provenance(),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {'median': statistics.median(values), 'min': min(values), 'max': max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description='Time an epoch and an evaluation.')
    parser.add_argument('--dataset', required=True)
    parser.add_argument('--models', nargs='+', default=['vbpr', 'multimodal_lightgcn'])
    parser.add_argument('--epochs', type=int, default=3)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    rows = []
    for model in args.models:
        for variant in VARIANTS:
            with multiprocessing.get_context('spawn').Pool(1) as pool:
                row = pool.apply(measure, ((args.dataset, model, variant, args.epochs),))
            rows.append(row)
            epoch, evaluation = row['epoch_seconds'], row['evaluation_seconds']
            print(
                f'{model:20} {variant:6} epoch {epoch["median"]:.2f} s ({epoch["min"]:.2f} to '
                f'{epoch["max"]:.2f}), evaluation {evaluation["median"]:.2f} s '
                f'({evaluation["min"]:.2f} to {evaluation["max"]:.2f}), peak '
                f'{row["peak_gib"]:.2f} GiB',
                flush=True,
            )
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    main()
