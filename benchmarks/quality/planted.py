r"""Measures what MRdIB brings on planted data, in which it is known what each modality says.

Two models: *content*, with two-layer encoders, a perceptron as fusion, user tables, no graph and no
item ID; and *reference*, :class:`MultimodalLightGCN` as it is by default, with its graph and its ID
channel. The settings of each row were set beforehand, not searched.

    python -m benchmarks.quality.planted
    python -m benchmarks.quality.results     puts the table into the README
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality import results
from benchmarks.quality.cells import save
from benchmarks.schema import RESULTS
from mrdib_pyg.datasets import Planted
from mrdib_pyg.training import train_model

CONTENT = {'num_layers': 0, 'id_channel': False, 'num_encoder_layers': 2, 'fusion': 'mlp'}
MODELS: dict[str, dict[str, Any]] = {
    'content': {
        'settings': {**CONTENT, 'l2_weight': 0.0},
        'lr': 1e-3,
        'variants': {
            'plain': {},
            'L2 on the codes': {'mrdib': {'control': 'l2'}, 'weights': {'bottleneck': 5e-3}},
            'noise on the codes': {'mrdib': {'control': 'noise', 'noise_scale': 0.3}},
            'MRdIB': {
                'mrdib': {},
                'weights': {'bottleneck': 5e-3, 'redundant': 1e-2, 'unique': 0.5},
            },
        },
    },
    'reference': {
        'settings': {},
        'lr': 3e-3,
        'variants': {
            'plain': {},
            'L2 on the codes': {'mrdib': {'control': 'l2'}, 'weights': {'bottleneck': 1e-3}},
            'noise on the codes': {'mrdib': {'control': 'noise', 'noise_scale': 0.3}},
            'MRdIB': {
                'mrdib': {},
                'weights': {'bottleneck': 1e-3, 'redundant': 1e-2, 'unique': 0.5},
            },
        },
    },
}


def measure(
    seeds: list[int], noise: float = 3.0, models: dict[str, dict[str, Any]] = MODELS
) -> dict[str, Any]:
    """Trains every variant of the models on the data set of each seed."""
    out: dict[str, Any] = {'dataset': 'planted', 'noise': noise, 'seeds': seeds, 'models': {}}
    for model, spec in models.items():
        out['models'][model] = {'settings': spec['settings'], 'variants': {}}
        for name, variant in spec['variants'].items():
            runs = []
            for seed in seeds:
                result = train_model(
                    Planted(seed=seed, noise=noise)[0],
                    'multimodal_lightgcn',
                    settings=spec['settings'],
                    seed=seed,
                    lr=spec['lr'],
                    k=(5, 10, 20),
                    epochs=60,
                    patience=60,
                    monitor='ndcg@10',
                    progress=False,
                    **variant,
                )
                runs.append({k: result[k] for k in ('data_hash', 'best_epoch', 'val', 'test')})
                print(f'{model} {name} seed {seed}: {result["test"]["ndcg@10"]:.4f}', flush=True)
            out['models'][model]['variants'][name] = {**variant, 'runs': runs}
    out |= {k: result[k] for k in ('versions', 'machine')}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description='MRdIB on planted data.')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3, 4, 5])
    parser.add_argument('--noise', type=float, default=3.0)
    parser.add_argument('--json', type=Path, default=RESULTS / 'planted.json')
    args = parser.parse_args()
    torch.set_num_threads(1)
    summary = measure(args.seeds, args.noise)
    save(args.json, summary)
    print(results.planted(summary))


if __name__ == '__main__':
    main()
