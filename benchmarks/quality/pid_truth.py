r"""Compares the measured decomposition with the true one, on planted data.

(a) *estimator*: :func:`mrdib_pyg.pid.measure_pid` is fed the generator's own scores of the held-out
items. Each atom is to be within .02 nats or 15 % of the truth over the population of bits. The
noise of the features does not enter. (b) *trained*: the same measurement of models trained on
features of three noise levels. No target: what is missing there has not been learned.

    python -m benchmarks.quality.pid_truth
    python -m benchmarks.quality.results       puts the table into docs/PID.md
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch_geometric import seed_everything

from benchmarks.quality import results
from benchmarks.quality.cells import save
from benchmarks.quality.planted import CONTENT
from benchmarks.quality.planted_truth import PlantedGenerator
from benchmarks.quality.results import ATOMS
from benchmarks.schema import RESULTS
from mrdib_pyg.datasets import Planted
from mrdib_pyg.nn.models import MODELS
from mrdib_pyg.pid import measure_pid
from mrdib_pyg.pid._measure import measure_sources
from mrdib_pyg.training import fit
from mrdib_pyg.training._run import provenance

CASES = ('v', 't', 'r', 's', 'v+r', 'v+s', 'v+t')
NOISES = (0.5, 1.0, 3.0)
MRDIB: dict[str, Any] = {
    'mrdib': {},
    'weights': {'bottleneck': 5e-3, 'redundant': 1e-2, 'unique': 0.5},
}
MODELS_TRAINED: dict[str, dict[str, Any]] = {'plain': {}, 'MRdIB': MRDIB}


def atoms_of(pair: Any) -> dict[str, list[float]]:
    """Value, low and high of each atom by BROJA."""
    a = pair.broja
    found = (a.redundant, a.unique['image'], a.unique['text'], a.synergistic)
    return {name: list(x) for name, x in zip(ATOMS, found)}


def check_case(
    case: str,
    seed: int = 1,
    noises: tuple[float, ...] = NOISES,
    epochs: int = 20,
    num_bootstrap: int = 100,
    num_bins: int = 64,
    **sizes: int,
) -> dict[str, Any]:
    """The truth, the estimate from the generator's scores, and those of trained models."""
    dataset = Planted(case=case, seed=seed, **sizes)
    generator = PlantedGenerator(dataset)
    truth = generator.truth(num_bins)
    fed = measure_sources(
        generator.sources(), ['image', 'text'], dataset[0], negatives=['uniform'],
        num_bootstrap=num_bootstrap, seed=seed,
    ).overall['uniform']  # fmt: skip
    values = (truth.redundant, *truth.unique.values(), truth.synergistic)
    pair = fed.pairs['image+text']
    out: dict[str, Any] = {
        'case': case,
        'seed': seed,
        'num_edges': fed.num_edges,
        'bias': pair.bias,
        'truth': dict(zip(ATOMS, values)),
        'truth_error': truth.error,
        'estimator': atoms_of(pair),
        'trained': [],
    }
    for noise in noises:
        data = Planted(case=case, seed=seed, noise=noise, **sizes)[0]
        for name, variant in MODELS_TRAINED.items():
            seed_everything(seed)
            settings = {**CONTENT, 'l2_weight': 0.0, 'mrdib': variant.get('mrdib')}
            model = MODELS['multimodal_lightgcn'](data, **settings)
            fit(
                model, data, epochs=epochs, lr=3e-3, patience=epochs, seed=seed,
                weights=variant.get('weights'), monitor='ndcg@10', progress=False,
            )  # fmt: skip
            found = measure_pid(
                model, data, negatives='uniform', groups=(), num_bootstrap=num_bootstrap, seed=seed
            ).overall['uniform']
            row = {'noise': noise, 'model': name, 'atoms': atoms_of(found.pairs['image+text'])}
            out['trained'].append(row)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description='The measured and the true decomposition.')
    parser.add_argument('--cases', nargs='+', default=[*CASES], choices=CASES, metavar='CASE')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--noises', type=float, nargs='*', default=[*NOISES])
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--json', type=Path, default=RESULTS / 'pid_truth.json')
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for case in args.cases:
        cases.append(check_case(case, args.seed, tuple(args.noises), args.epochs))
        print(results.pid_truth({'cases': cases[-1:]}), flush=True)
        summary = {
            'benchmark': 'pid_truth', 'seed': args.seed, 'epochs': args.epochs,
            'cases': cases, **provenance(),
        }  # fmt: skip
        save(args.json, summary)


if __name__ == '__main__':
    main()
