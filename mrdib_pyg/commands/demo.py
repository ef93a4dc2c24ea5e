"""``mrdib demo``: the main job on data that come with the package."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from mrdib_pyg.commands.arguments import Add

DATASET = 'planted'
MODEL = 'multimodal_lightgcn'
# By content alone, as for items that nobody has bought yet: no graph and no ID channel.
SETTINGS = {
    'fusion': 'mlp', 'num_layers': 0, 'id_channel': False, 'num_encoder_layers': 2, 'l2_weight': 0.0
}  # fmt: skip
FIT = {'epochs': 60}
WEIGHTS = {'bottleneck': 5e-3, 'redundant': 1e-2, 'unique': 0.5}
CUTOFFS = (5, 10, 20)


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add('demo', '[options]', 'Train on planted data without and with MRdIB, and compare.')
    p.add_argument('--out', default='runs/demo', help='the folder of both runs (runs/demo)')
    p.add_argument('--seed', type=int, default=0, help='seeds both runs (0)')
    p.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    print(compare(Path(args.out), args.seed, not args.quiet))


def compare(out: Path, seed: int, progress: bool) -> str:
    r"""Trains the reference model on planted data without and with MRdIB, into a run folder each,
    and returns a table of both. Runs that are there are continued, or replaced where they were made
    with other settings.
    """
    import torch

    from mrdib_pyg.datasets import load_dataset
    from mrdib_pyg.training import CheckpointError, train_model

    data = load_dataset(DATASET)
    results = {}
    # These matrices are small: more threads would mostly wait for each other.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, mrdib, weights in (('plain', None, {}), ('mrdib', {}, WEIGHTS)):
        folder = out / name
        kwargs: dict[str, Any] = {
            'settings': SETTINGS, 'mrdib': mrdib, 'seed': seed, 'weights': weights, 'out': folder,
            'dataset': DATASET, 'progress': progress, **FIT,
        }  # fmt: skip
        try:
            results[name] = train_model(data, MODEL, resume=True, **kwargs)
        except CheckpointError:  # made with another seed, or by another version of this demo
            shutil.rmtree(folder)
            results[name] = train_model(data, MODEL, **kwargs)
    torch.set_num_threads(num_threads)
    return (
        'multimodal_lightgcn by content alone (no graph, no item IDs) on planted data\n\n'
        f'{_table(results)}\n\nrun folders: {out / "plain"} and {out / "mrdib"}'
    )


def _table(results: dict[str, dict[str, Any]]) -> str:
    plain, mrdib = results['plain'], results['mrdib']
    lines = [f'{"test":24}{"plain":>10}{"MRdIB":>10}{"change":>10}']
    for k in CUTOFFS:
        for metric in ('recall', 'ndcg'):
            before, after = (r['test'][f'{metric}@{k}'] for r in (plain, mrdib))
            change = f'{100 * (after / before - 1):+.1f} %' if before > 0 else ''
            lines.append(f'{metric + "@" + str(k):24}{before:10.4f}{after:10.4f}{change:>10}')
    lines.append('')
    lines.append(f'{"loss term (nats)":24}{"plain":>10}{"MRdIB":>10}{"weight":>10}')
    weights = {'task': 1.0, **WEIGHTS}
    for name in ('task', 'bottleneck', 'redundant', 'unique'):
        cells = [
            f'{r["terms"][name]:10.4f}' if name in r['terms'] else ' ' * 10 for r in (plain, mrdib)
        ]
        lines.append(f'{name:24}{"".join(cells)}{weights[name]:10g}')
    return '\n'.join(lines)
