r"""Measures recommendations of items, and to users, that a model has not seen in training.

*Items*: 20 % of the items leave the training with all their edges and features
(:class:`~mrdib_pyg.transforms.ColdItemSplit`); the test edges of one half are ranked among all that
were held out. *Users*: 10 % of the users leave the training, are represented by their training
edges afterwards, and their test edges are ranked among all items. No model is trained again. The
settings were set beforehand, not searched; the epoch is chosen by the validation edges of what is
not cold. The file grows by a run at a time; the same command continues a run that was stopped.

    python -m benchmarks.quality.cold_models --dataset data/tiktok
    python -m benchmarks.quality.results       puts the tables into docs/MISSING.md
"""

import argparse
import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric import seed_everything
from torch_geometric.data import HeteroData

from benchmarks.quality import results
from benchmarks.quality.cells import run_cells
from benchmarks.schema import RESULTS
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import MODELS, Embeddings
from mrdib_pyg.training import fit
from mrdib_pyg.transforms import ColdItemSplit

Spec = dict[str, Any]
WEIGHTS = {'bottleneck': 1e-4, 'redundant': 1e-4, 'unique': 5e-3}
KNN, POPULARITY = 'content k-NN', 'popularity'
SETTINGS: Spec = {
    'ratio': 0.2,
    'user_ratio': 0.1,
    'seeds': [1, 2],
    'k': 20,
    'models': {
        'vbpr': {'settings': {'feature_scaling': 'standard'}, 'epochs': 10, 'lr': 3e-3},
        'multimodal_lightgcn': {'epochs': 8, 'lr': 3e-3},
        'multimodal_lightgcn without IDs': {
            'model': 'multimodal_lightgcn',
            'settings': {'id_channel': False},
            'epochs': 8,
            'lr': 3e-3,
        },
        'freedom': {'epochs': 10, 'lr': 5e-3},
        'mgcn': {'settings': {'feature_scaling': 'standard'}, 'epochs': 6, 'lr': 3e-3},
        'bm3': {'settings': {'feature_scaling': 'standard'}, 'epochs': 10, 'lr': 3e-3},
        'mmgcn': {'settings': {'feature_scaling': 'standard'}, 'epochs': 8, 'lr': 3e-3},
        'dualgnn': {'settings': {'feature_scaling': 'standard'}, 'epochs': 8, 'lr': 3e-3},
        'soil': {'settings': {'feature_scaling': 'standard'}, 'epochs': 6, 'lr': 3e-3},
    },
    'user_models': ['vbpr', 'multimodal_lightgcn', 'freedom'],
}
VARIANTS: dict[str, Spec] = {'plain': {}, 'MRdIB': {'mrdib': {}, 'weights': WEIGHTS}}


def cells(settings: Spec) -> Iterator[Spec]:
    """What is to be run; a seed is finished before the next begins."""
    for seed in settings['seeds']:
        yield {'task': 'items', 'method': KNN, 'variant': '', 'seed': seed}
        for name in settings['models']:
            for variant in VARIANTS:
                yield {'task': 'items', 'method': name, 'variant': variant, 'seed': seed}
        for name in (POPULARITY, KNN, *settings['user_models']):
            yield {'task': 'users', 'method': name, 'variant': '', 'seed': seed}


def train(name: str, data: HeteroData, spec: Spec, seed: int, k: int, **variant: Any) -> Any:
    """Trains a model with the settings of a method."""
    spec = dict(spec)
    seed_everything(seed)
    cls, settings = MODELS[spec.pop('model', name)], spec.pop('settings', {})
    model = cls(data, **settings, mrdib=variant.pop('mrdib', None))
    monitor = f'recall@{min(k, model.num_items)}'
    fit(model, data, seed=seed, patience=1000, monitor=monitor, progress=False, **spec, **variant)
    return model


def content(data: HeteroData, *node_types: str) -> list[Tensor]:
    """Per node type the directions of its features, standardized by those of the items."""
    parts: dict[str, list[Tensor]] = {name: [] for name in node_types}
    for key in [key for key in data['item'].keys() if key.startswith('x_')]:
        known = data['item'][key].float()
        mean, std = known.mean(dim=0), known.std(dim=0)
        std = torch.where(std > 0, std, torch.inf)
        for name in node_types:
            parts[name].append(F.normalize((data[name][key].float() - mean) / std, dim=1))
    return [torch.cat(part, dim=1) for part in parts.values()]


def mean_of_items(edge_index: Tensor, x: Tensor, num_users: int) -> Tensor:
    """The mean features of each user's items."""
    user, item = edge_index
    out = x.new_zeros(num_users, x.size(1)).index_add_(0, user, x[item])
    count = torch.bincount(user, minlength=num_users).clamp(min=1)
    return out / count.unsqueeze(1)


def measure_items(cell: Spec, data: HeteroData, settings: Spec) -> Spec:
    """Ranks the held-out items of the test for each user."""
    data = ColdItemSplit(settings['ratio'], seed=cell['seed'])(data)
    cold, k = data['cold_item'], settings['k']
    if cell['method'] == KNN:
        known, new = content(data, 'item', 'cold_item')
        edge_index = data['user', 'rates', 'item'].edge_index
        emb = Embeddings(mean_of_items(edge_index, known, int(data['user'].num_nodes)), new)
    else:
        spec = settings['models'][cell['method']]
        variant = dict(VARIANTS[cell['variant']])
        model = train(cell['method'], data, spec, cell['seed'], k, **variant)
        new = model.encode_items({m: cold[f'x_{m}'] for m in model.modalities})
        emb = Embeddings(model.embed().user, new)
    splits = ('val', 'test')
    values = {s: evaluate(emb, data, s, k=k, node_type='cold_item') for s in splits}
    return {**cell, 'num_candidates': int(cold.num_nodes), **values}


def measure_users(cell: Spec, data: HeteroData, settings: Spec) -> Spec:
    """Ranks all items for the held-out users."""
    num_users, num_items = int(data['user'].num_nodes), int(data['item'].num_nodes)
    generator = torch.Generator().manual_seed(cell['seed'])
    order = torch.randperm(num_users, generator=generator)
    is_cold = torch.zeros(num_users, dtype=torch.bool)
    is_cold[order[: round(settings['user_ratio'] * num_users)]] = True
    edge_index, k = data['user', 'rates', 'item'].edge_index, settings['k']
    theirs, others = edge_index[:, is_cold[edge_index[0]]], edge_index[:, ~is_cold[edge_index[0]]]

    warm, cold = copy.copy(data), copy.copy(data)
    warm['user', 'rates', 'item'].edge_index = others
    for split in ('val', 'test'):
        index = data['user', split, 'item'].edge_label_index
        warm['user', split, 'item'].edge_label_index = index[:, ~is_cold[index[0]]]
        cold['user', split, 'item'].edge_label_index = index[:, is_cold[index[0]]]

    if cell['method'] == POPULARITY:
        count = torch.bincount(others[1], minlength=num_items).float()
        emb = Embeddings(torch.ones(num_users, 1), count.unsqueeze(1))
    elif cell['method'] == KNN:
        [x] = content(data, 'item')
        emb = Embeddings(mean_of_items(theirs, x, num_users), x)
    else:
        spec = settings['models'][cell['method']]
        model = train(cell['method'], warm, spec, cell['seed'], k)
        emb = Embeddings(model.encode_users(theirs, num_users), model.embed().item)
    values = {s: evaluate(emb, cold, s, k=k) for s in ('val', 'test')}
    return {**cell, 'num_candidates': num_items, **values}


def run(dataset: str, path: Path, settings: Spec) -> Spec:
    """Runs what the file does not have yet, and writes it after each run."""
    return run_cells(dataset, path, settings, VARIANTS, list(cells(settings)), measure)


def measure(cell: Spec, data: HeteroData, settings: Spec) -> Spec:
    function = measure_items if cell['task'] == 'items' else measure_users
    return function(cell, data, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description='Items and users unseen in training.')
    parser.add_argument('--dataset', default='data/tiktok')
    parser.add_argument('--json', type=Path, default=RESULTS / 'cold_models.json')
    parser.add_argument('--seeds', type=int, nargs='+', default=SETTINGS['seeds'])
    parser.add_argument('--models', nargs='+', default=list(SETTINGS['models']))
    parser.add_argument('--epochs', type=int, help='of each model, in place of the settings')
    parser.add_argument('--k', type=int, default=SETTINGS['k'])
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore', '.*have no training interaction')
    models = {name: dict(SETTINGS['models'][name]) for name in args.models}
    for spec in models.values():
        spec['epochs'] = args.epochs or spec['epochs']
    settings = {**SETTINGS, 'seeds': args.seeds, 'k': args.k, 'models': models}
    settings['user_models'] = [name for name in SETTINGS['user_models'] if name in models]
    result = run(args.dataset, args.json, settings)
    print(results.cold(result, 'items'), results.cold(result, 'users'), sep='\n\n')


if __name__ == '__main__':
    main()
