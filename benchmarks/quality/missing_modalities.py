r"""Measures Recall and NDCG as a modality is taken away from 0 to 90 % of the items.

For each model: *plain*; *mean filling*, the plain model on data in which the missing rows are the
mean of the others; *MRdIB*; and *MRdIB + modality dropout*. The models leave out what is missing,
but for mean filling. The settings of each row were set beforehand, not searched. The file grows by
a run at a time; the same command continues a run that was stopped.

    python -m benchmarks.quality.missing_modalities --dataset data/tiktok
    python -m benchmarks.quality.missing_modalities --figure docs/missing_modalities.png
    python -m benchmarks.quality.results       puts the tables into docs/MISSING.md

`--figure` only draws what the file has, with the extra `[report]`.
"""

import argparse
import copy
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch_geometric import seed_everything
from torch_geometric.data import HeteroData

from benchmarks import schema
from benchmarks.quality import results
from benchmarks.quality.cells import run_cells
from benchmarks.quality.results import values_of
from benchmarks.schema import RESULTS
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import MODELS
from mrdib_pyg.training import fit
from mrdib_pyg.transforms import FillMissing, MaskModality

WEIGHTS = {'bottleneck': 1e-4, 'redundant': 1e-4, 'unique': 5e-3}
SETTINGS: dict[str, Any] = {
    'modality': 'image',
    'ratios': [0.0, 0.3, 0.5, 0.7, 0.9],
    'seeds': [1, 2],
    'k': 20,
    'models': {
        'multimodal_lightgcn': {'epochs': 8, 'lr': 3e-3},
        'freedom': {'epochs': 10, 'lr': 5e-3},
    },
}
VARIANTS: dict[str, dict[str, Any]] = {
    'plain': {},
    'mean filling': {'fill': True},
    'MRdIB': {'mrdib': {}, 'weights': WEIGHTS},
    'MRdIB + modality dropout': {'mrdib': {}, 'weights': WEIGHTS, 'modality_dropout': 0.3},
}
LABELS = {'recall': 'Recall', 'ndcg': 'NDCG'}
COLORS = ('#4d4d4d', '#b2b2b2', '#2166ac', '#d6604d')


def cells(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is to be run; a seed is finished for all models before the next begins."""
    for seed in settings['seeds']:
        for model in settings['models']:
            for ratio in settings['ratios']:
                for variant in VARIANTS:
                    if ratio > 0 or variant != 'mean filling':  # else it is plain
                        yield {'model': model, 'variant': variant, 'ratio': ratio, 'seed': seed}


def measure(cell: dict[str, Any], data: HeteroData, settings: dict[str, Any]) -> dict[str, Any]:
    """Trains one model and evaluates it on the test edges: all, and those of items without."""
    name, k = settings['modality'], settings['k']
    variant = dict(VARIANTS[cell['variant']])
    data = copy.copy(data)
    if cell['ratio'] > 0:
        data = MaskModality(name, cell['ratio'], seed=cell['seed'])(data)
    has = data['item'].get(f'has_{name}')
    if variant.pop('fill', False):
        data = FillMissing()(data)
    seed_everything(cell['seed'])
    model = MODELS[cell['model']](data, mrdib=variant.pop('mrdib', None))
    out = fit(
        model,
        data,
        seed=cell['seed'],
        patience=1000,
        monitor=f'recall@{k}',
        progress=False,
        **settings['models'][cell['model']],
        **variant,
    )
    result = {**cell, 'best_epoch': out.best_epoch, 'val': evaluate(model, data, 'val', k=k)}
    result['test'] = evaluate(model, data, 'test', k=k)
    if has is not None:
        edge = ('user', 'test', 'item')
        index = data[edge].edge_label_index
        data[edge].edge_label_index = index[:, ~has[index[1]]]
        result['test_without'] = evaluate(model, data, 'test', k=k)
    return result


def run(dataset: str, path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Runs what the file does not have yet, and writes it after each run."""
    return run_cells(dataset, path, settings, VARIANTS, list(cells(settings)), measure)


def figure(result: dict[str, Any], path: Path) -> None:
    """Draws the curves: a column of panels for each model, a row for each metric."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    plt.rcParams['svg.hashsalt'] = 'mrdib_pyg'  # the same figures give the same file
    settings = result['settings']
    models, k = list(settings['models']), settings['k']
    fig, axes = plt.subplots(2, len(models), figsize=(4.4 * len(models), 6), squeeze=False)
    for column, model in enumerate(models):
        for row, (metric, label) in enumerate(LABELS.items()):
            axis = axes[row, column]
            for variant, color in zip(VARIANTS, COLORS):
                points = [
                    (100 * ratio, found)
                    for ratio in settings['ratios']
                    if (found := values_of(result, model, variant, ratio, f'{metric}@{k}'))
                ]
                if len(points) == 0:
                    continue
                x = [ratio for ratio, _ in points]
                y = [statistics.mean(found) for _, found in points]
                spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for _, v in points]
                axis.errorbar(
                    x, y, spread, color=color, marker='o', markersize=3, capsize=2, label=variant
                )
            axis.set_xlabel(f'% of the items without {settings["modality"]}')
            axis.set_ylabel(f'{label}@{k}')
            if row == 0:
                axis.set_title(model, fontsize=9)
    axes[0, 0].legend(fontsize=7)
    fig.suptitle(f'{result["dataset"]}, test edges, mean and spread over seeds', fontsize=9)
    fig.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    date = {} if path.suffix == '.png' else {'Date': None}
    fig.savefig(path, dpi=150, metadata=date)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description='Recall and NDCG as a modality goes missing.')
    parser.add_argument('--dataset', default='data/tiktok')
    parser.add_argument('--json', type=Path, default=RESULTS / 'missing_modalities.json')
    parser.add_argument('--seeds', type=int, nargs='+', default=SETTINGS['seeds'])
    parser.add_argument('--ratios', type=float, nargs='+', default=SETTINGS['ratios'])
    parser.add_argument('--models', nargs='+', default=list(SETTINGS['models']))
    parser.add_argument('--epochs', type=int, help='of each model, in place of the settings')
    parser.add_argument('--modality', default=SETTINGS['modality'])
    parser.add_argument('--k', type=int, default=SETTINGS['k'])
    parser.add_argument('--figure', type=Path, help='only draw what the file has')
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.figure is not None:
        figure(schema.load(args.json), args.figure)
        return
    warnings.filterwarnings('ignore', '.*have no training interaction')
    names = ('seeds', 'ratios', 'modality', 'k')
    settings = {**SETTINGS, **{name: getattr(args, name) for name in names}}
    settings['models'] = {name: dict(SETTINGS['models'].get(name, {})) for name in args.models}
    for model in settings['models'].values():
        model.setdefault('epochs', 10)
        model['epochs'] = args.epochs or model['epochs']
    result = run(args.dataset, args.json, settings)
    print(results.missing(result, 'recall'), results.missing(result, 'ndcg'), sep='\n\n')


if __name__ == '__main__':
    main()
