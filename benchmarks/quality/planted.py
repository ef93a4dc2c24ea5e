r"""Measures what MRdIB brings on planted data, in which it is known what each modality says.

Two models: *content*, with two-layer encoders, a perceptron as fusion, user tables, no graph and no
item ID; and *reference*, :class:`MultimodalLightGCN` as it is by default, with its graph and its ID
channel. The settings of each row were set beforehand, not searched.

    python -m benchmarks.quality.planted --json benchmarks/results/planted.json --readme README.md
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.markdown import insert
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


def table(summary: dict[str, Any]) -> str:
    """NDCG@10 on the test edges: mean, standard deviation, ratio to plain, each seed."""
    lines = ['| model | | ndcg @ 10 | to plain | seed by seed |', '|---|---|---|---|---|']
    for model, spec in summary['models'].items():
        values = {
            name: [run['test']['ndcg@10'] for run in variant['runs']]
            for name, variant in spec['variants'].items()
        }
        plain = statistics.mean(values['plain'])
        for name, v in values.items():
            cells = ' '.join(f'{x:.4f}' for x in v)
            lines.append(
                f'| {model} | {name} | {statistics.mean(v):.4f} ± {statistics.stdev(v):.4f} | '
                f'{statistics.mean(v) / plain:.2f} | {cells} |'
            )
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description='MRdIB on planted data.')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3, 4, 5])
    parser.add_argument('--noise', type=float, default=3.0)
    parser.add_argument('--json', type=Path, default=Path('benchmarks/results/planted.json'))
    parser.add_argument('--readme', type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    summary = measure(args.seeds, args.noise)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(summary, indent=1) + '\n')
    text = table(summary)
    print(text)
    if args.readme is not None:
        insert(args.readme, 'planted', text)


if __name__ == '__main__':
    main()
