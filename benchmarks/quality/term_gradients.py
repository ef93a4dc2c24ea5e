r"""Measures how hard each term of the loss pulls at the codes.

The models of an experiment are trained for some epochs at the setting that it chose for MRdIB.
Then, over some batches, the norm of the gradient of each weighted term with respect to the rows
that enter the bottlenecks is compared with that of the model's own loss; and how large these rows
and their codes are. What pulls as hard as the model's own loss decides what the codes become. What
the item codes of the first two modalities share is read by a critic that has learned on other
items, after this training and after one in which the term ``redundant`` has no weight.

    python -m benchmarks.quality.term_gradients data/tiktok --experiment tiktok
    python -m benchmarks.quality.results       puts the table into docs/RESULTS.md

Each model is written as it ends, so a call continues where the last one stopped.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric import seed_everything

from benchmarks.quality import results
from benchmarks.quality.cells import save
from benchmarks.quality.pid_training import shared_information
from benchmarks.quality.results import OWN
from benchmarks.schema import RESULTS
from benchmarks.training.backbones import make_batches
from mrdib_pyg.datasets import data_hash, load_dataset
from mrdib_pyg.nn.models import MODELS, Recommender, Triplets
from mrdib_pyg.training import fit
from mrdib_pyg.training._run import provenance
from mrdib_pyg.training.step import MRDIB_TERMS, LossWeights


def pulls(model: Recommender, batch: Triplets, weights: Mapping[str, float]) -> dict[str, float]:
    """The norm of the gradient of the model's own loss, and of each weighted term of MRdIB, with
    respect to the rows that enter the bottlenecks; and the root mean squares of rows and codes.
    """
    seen: dict[str, list[Tensor]] = {}

    def note(module: Any, args: tuple[Any, ...], out: Any) -> None:
        del module
        sides = [side for rows in args[0].values() for side in rows if side is not None]
        seen['rows'] = sides
        seen['codes'] = [side.z for pair in out.values() for side in pair if side is not None]

    assert model.mrdib is not None
    handle = model.mrdib.register_forward_hook(note)
    try:
        terms = model.loss(batch)
    finally:
        handle.remove()
    weighting = LossWeights(model.loss_weights, weights)
    own = {k: v for k, v in terms.items() if k not in (*MRDIB_TERMS, 'synergistic')}
    losses = {OWN: weighting(own)}
    losses |= {name: weighting.weights[name] * terms[name] for name in MRDIB_TERMS}
    out = {}
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss, seen['rows'], retain_graph=True, allow_unused=True)
        squares = [grad.double().square().sum() for grad in grads if grad is not None]
        out[name] = float(sum(squares, torch.zeros(())).sqrt())
    for name in ('rows', 'codes'):
        out[f'rms of {name}'] = _rms(seen[name])
    out['redundant in nats'] = float(terms['redundant'].detach())
    return out


def train(data: Any, name: str, chosen: Mapping[str, Any], epochs: int, seed: int) -> Recommender:
    """The model after some epochs at a setting of an experiment."""
    seed_everything(seed)
    model = MODELS[name](data, **chosen['settings'], mrdib=chosen['mrdib'])
    given = {**chosen['fit'], 'epochs': epochs, 'patience': epochs}
    fit(model, data, **given, weights=chosen['weights'], seed=seed, progress=False)
    return model


def shared(model: Recommender, seed: int) -> float:
    """What the item codes of the first two modalities share, in nats, by MINE."""
    model.eval()
    with torch.no_grad():
        codes = model._embed(None)[2]
    z1, z2 = [item for _, item in codes.values()][:2]
    return shared_information(z1, z2, seed)['mine']


def train_and_measure(
    data: Any, name: str, chosen: Mapping[str, Any], epochs: int, batches: int, seed: int
) -> dict[str, Any]:
    """Two trainings, with and without ``redundant``, and what is measured of them."""
    start = time.perf_counter()
    weights = dict(chosen['weights'])
    without = {**chosen, 'weights': {**weights, 'redundant': 0.0}}
    measured = {'shared without': shared(train(data, name, without, epochs, seed), seed)}
    model = train(data, name, chosen, epochs, seed)
    measured['shared'] = shared(model, seed)
    model.train()
    model.on_epoch_start(epochs + 1, torch.Generator().manual_seed(seed))
    drawn = make_batches(data, batches, seed)
    found = [pulls(model, Triplets(*batch), weights) for batch in drawn]
    measured |= {key: sum(x[key] for x in found) / len(found) for key in found[0]}
    return {'weights': weights, 'measured': measured, 'seconds': time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description='How hard does each term pull at the codes?')
    parser.add_argument('dataset', nargs='?', help='the folder of the data of the experiment')
    parser.add_argument('--experiment', default='tiktok', help='a folder of results/experiments')
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--batches', type=int, default=10)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--json', type=Path, default=RESULTS / 'term_gradients.json')
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {x: getattr(args, x) for x in ('experiment', 'epochs', 'batches', 'seed')}
    summary: dict[str, Any] = {'benchmark': 'term_gradients', 'settings': settings, 'models': {}}
    if args.json.is_file():
        summary = json.loads(args.json.read_text())
    if args.dataset is not None:
        if summary['settings'] != settings:
            raise SystemExit(f"'{args.json}' is of other settings; remove it, or name another file")
        path = RESULTS / 'experiments' / args.experiment / 'summary.json'
        experiment = json.loads(path.read_text())
        data = load_dataset(args.dataset)
        if summary.setdefault('data_hash', data_hash(data)) != data_hash(data):
            raise SystemExit(f"'{args.json}' is of other data; remove it, or name another file")
        for name, of_model in experiment['datasets'][Path(args.dataset).name]['models'].items():
            chosen = of_model['variants'].get('mrdib')
            if chosen is None or name in summary['models']:
                continue
            run = args.epochs, args.batches, args.seed
            summary['models'][name] = train_and_measure(data, name, chosen['chosen'], *run)
            summary |= provenance()
            save(args.json, summary)
            print(f'{name}: {summary["models"][name]}', flush=True)
    print(results.term_gradients(summary))


def _rms(parts: list[Tensor]) -> float:
    total = sum(float(x.detach().double().square().sum()) for x in parts)
    return (total / sum(x.numel() for x in parts)) ** 0.5


if __name__ == '__main__':
    main()
