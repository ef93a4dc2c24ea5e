r"""Measures whether training does what its terms say.

As the weights of ``redundant`` and ``unique`` grow from 0: what the two codes of an item share, by
all five estimators, the partial information decomposition of held-out edges, and the metrics. What
is measured is the epoch with the best validation metric, as a training leaves it.

Each run is written as it ends, so a call continues where the last one stopped; ``--limit`` ends it
after some runs. Settings were set beforehand, not searched, and trainings are short.

    python -m benchmarks.quality.pid_training planted data/tiktok data/amazon-baby
    python -m benchmarks.quality.results       puts the table into docs/PID.md
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric import seed_everything

from benchmarks.quality import results
from benchmarks.quality.cells import save
from benchmarks.quality.planted import CONTENT
from benchmarks.quality.results import PID_EPOCHS
from benchmarks.schema import RESULTS
from mrdib_pyg.datasets import Planted, load_dataset
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import MODELS
from mrdib_pyg.nn.mrdib import ESTIMATORS
from mrdib_pyg.pid import measure_pid
from mrdib_pyg.training import fit
from mrdib_pyg.training._run import provenance

#: Of the planted data the model without graph and IDs, whose only signal is in the codes; else the
#: reference as it is by default.
TRAININGS: dict[str, dict[str, Any]] = {
    'planted': {'settings': {**CONTENT, 'l2_weight': 0.0}, 'lr': 3e-3},
    'tiktok': {'settings': {}, 'lr': 1e-3},
    'amazon-baby': {'settings': {}, 'lr': 1e-3},
}
BOTTLENECK = 1e-3


def variants() -> dict[str, dict[str, Any]]:
    """The runs, by name: what is handed to the model and to `fit`."""
    out: dict[str, dict[str, Any]] = {
        'plain': {},
        'bottleneck only': _mrdib(None),
    }
    for weight in (0.1, 1.0):
        for name in ESTIMATORS:
            out[f'redundant {weight:g}, {name}'] = _mrdib(name, redundant=weight)
    for weight in (0.05, 0.5):
        out[f'unique {weight:g}'] = _mrdib(None, unique=weight)
    for name in ('mine', 'club', 'gaussian'):
        out[f'redundant 0.1, {name}; unique 0.5'] = _mrdib(name, redundant=0.1, unique=0.5)
    return out


def shared_information(z1: Tensor, z2: Tensor, seed: int = 0, steps: int = 200) -> dict[str, float]:
    """What two codes share by each estimator, in nats. A critic learns on half of the rows, stops
    by its loss on a quarter, and is read on the other quarter: so it cannot claim what it has
    memorized. The Gaussian form, which learns nothing, takes all rows.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(z1), generator=generator)
    z1, z2 = ((z - z.mean(0)) / z.std(0).clamp(min=1e-12) for z in (z1, z2))
    half, rest = len(z1) // 2, len(z1) // 4
    rows = order[:half], order[half : half + rest], order[half + rest :]
    out = {}
    for name, make in ESTIMATORS.items():
        torch.manual_seed(seed)
        critic = make(z1.size(1), z2.size(1), 64)
        parameters = list(critic.parameters())
        if not parameters:
            out[name] = float(critic.eval()(z1, z2))
            continue
        optimizer = torch.optim.Adam(parameters, lr=1e-3)
        best, out[name] = float('inf'), float('nan')
        for step in range(steps + 1):
            if step % 20 == 0:
                critic.eval()
                with torch.no_grad():
                    loss = float(critic.learning_loss(z1[rows[1]], z2[rows[1]]))
                    if loss < best:
                        best, out[name] = loss, float(critic(z1[rows[2]], z2[rows[2]]))
            critic.train()
            batch = rows[0][torch.randint(half, (min(256, half),), generator=generator)]
            optimizer.zero_grad()
            critic.learning_loss(z1[batch], z2[batch]).backward()
            optimizer.step()
    return out


def train_and_measure(
    data: Any, dataset: str, variant: dict[str, Any], seed: int, epochs: int | None = None
) -> dict[str, Any]:
    """One training, and everything that is measured of it."""
    spec = TRAININGS[dataset]
    start = time.perf_counter()
    seed_everything(seed)
    model = MODELS['multimodal_lightgcn'](data, **spec['settings'], mrdib=variant.get('mrdib'))
    epochs = epochs or PID_EPOCHS[dataset]
    fitted = fit(
        model, data, epochs=epochs, lr=spec['lr'], patience=epochs, seed=seed,
        weights=variant.get('weights'), monitor='ndcg@10', progress=False,
    )  # fmt: skip
    model.eval()
    with torch.no_grad():
        codes = model._embed(None)[2]
        z1, z2 = (item for _, item in codes.values())
    measured = measure_pid(model, data, negatives='uniform', groups=(), num_bootstrap=50, seed=seed)
    part = measured.to_dict()['overall']['uniform']
    return {
        'seconds': time.perf_counter() - start,
        'best_epoch': fitted.best_epoch,
        'test': evaluate(model, data, 'test', k=(10, 20)),
        'shared': shared_information(z1, z2, seed),
        'code_rms': [float(z.square().mean().sqrt()) for z in (z1, z2)],
        'pid': part['pairs'][0]['broja'],
        'informations': part['informations'],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description='Does training do what its terms say?')
    parser.add_argument('datasets', nargs='*', help='planted, or folders of the real data')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1])
    parser.add_argument('--limit', type=int, help='end after so many new runs')
    parser.add_argument('--epochs', type=int, help='fewer epochs than the settings say, to try it')
    parser.add_argument('--json', type=Path, default=RESULTS / 'pid_training.json')
    args = parser.parse_args()
    torch.set_num_threads(1)
    summary: dict[str, Any] = {'benchmark': 'pid_training', 'bottleneck': BOTTLENECK, 'runs': {}}
    if args.json.is_file():
        summary = json.loads(args.json.read_text())
    num_new = 0
    for folder in args.datasets:
        dataset = Path(folder).name
        runs = summary['runs'].setdefault(dataset, [])
        for seed in args.seeds:
            data = Planted(seed=seed)[0] if dataset == 'planted' else load_dataset(folder)
            for name, variant in variants().items():
                if any(run['variant'] == name and run['seed'] == seed for run in runs):
                    continue
                if args.limit is not None and num_new >= args.limit:
                    return
                found = train_and_measure(data, dataset, variant, seed, args.epochs)
                runs.append({'variant': name, 'seed': seed, **found})
                summary |= provenance()
                save(args.json, summary)
                num_new += 1
                print(
                    f'{dataset}, {name}, seed {seed}: ndcg@10 {found["test"]["ndcg@10"]:.4f}, '
                    f'{found["seconds"]:.0f} s', flush=True
                )  # fmt: skip
    print(results.pid_training(summary))


def _mrdib(redundancy: str | None, **weights: float) -> dict[str, Any]:
    return {
        'mrdib': {'redundancy': redundancy},
        'weights': {'bottleneck': BOTTLENECK, 'redundant': 0.0, 'unique': 0.0, **weights},
    }


if __name__ == '__main__':
    main()
