"""Makes the table of the paper from the original Amazon sets: each model without and with MRdIB.

Each set is a folder with its *.inter, image_feat.npy (4,096 wide) and text_feat.npy (384 wide), as
distributed with MMRec. The same command continues what was interrupted.

python examples/reproduce_paper.py --root data --dry-run
python examples/reproduce_paper.py --root data --workers 8
"""

import argparse
from pathlib import Path

from mrdib_pyg.experiment import Experiment, run_experiment, save_report
from mrdib_pyg.experiment.records import Records
from mrdib_pyg.experiment.runner import check_data, plan
from mrdib_pyg.nn.models import MODELS

WEIGHTS = [1e-4, 1e-3, 5e-3, 1e-2, 5e-2]
# What is searched for each model, on top of what has been published for a set.
GRIDS = {
    'vbpr': {'reg_weight': [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 2.0]},
    'mmgcn': {'reg_weight': [0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]},
    'dualgnn': {'reg_weight': [1e-4, 1e-3, 1e-2, 1e-1], 'fit': {'lr': [1e-4, 1e-3, 1e-2]}},
    'freedom': {'edge_dropout': [0.8, 0.9], 'content_weight': [0.0, 1e-5, 1e-4, 1e-3]},
    'mgcn': {'contrastive_weight': [1e-3, 1e-2, 1e-1], 'reg_weight': [1e-5, 1e-4]},
    'soil': {'contrastive_weight': [1e-3, 1e-2, 1e-1], 'interest_weight': [1e-3, 1e-2]},
}
VARIANTS = {
    'plain': {},
    'l2': {'weights': {'bottleneck': [1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]}},
    'noise': {'noise_scale': [0.1, 0.2, 0.3, 0.5, 0.7, 1.0]},
    'mrdib': {'weights': {name: WEIGHTS for name in ('bottleneck', 'redundant', 'unique')}},
}


def describe(name, args):
    models = {}
    for model in args.models:
        presets = getattr(MODELS[model], 'presets', {}) if model in MODELS else {}
        models[model] = {**presets.get(name, {}), **GRIDS[model]}
    return {
        'datasets': [{'path': f'./{name}', 'modalities': args.modalities}],
        'trials': args.trials,
        'selection_seeds': [101, 102],
        'seeds': args.seeds,
        'fit': {'epochs': args.epochs, 'patience': 20, 'lr': [5e-4, 1e-3]},
        'models': models,
        'variants': VARIANTS,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--root', required=True, help='the folder that holds the sets')
    parser.add_argument('--sets', nargs='+', default=['baby', 'sports', 'clothing'])
    parser.add_argument('--modalities', nargs='+', default=['image', 'text'])
    parser.add_argument('--models', nargs='+', default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument('--trials', type=int, nargs=2, default=[12, 4])
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3, 4, 5])
    parser.add_argument('--epochs', type=int, default=1000)
    parser.add_argument('--workers', type=int, default=1)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', default='runs/paper')
    parser.add_argument('--dry-run', action='store_true', help='print the plan, and do nothing')
    args = parser.parse_args()
    try:
        experiments = [Experiment(describe(name, args), name) for name in args.sets]
        for experiment in experiments:
            check_data(experiment, Records(Path(args.out, experiment.name)), args.root)
    except (ValueError, FileNotFoundError) as e:
        parser.error(str(e))

    for experiment in experiments:
        out = Path(args.out, experiment.name)
        if args.dry_run:
            print(plan(experiment, Records(out)), end='\n\n')
            continue
        failures = run_experiment(experiment, out, args.root, args.workers, args.device)
        if failures:
            raise SystemExit(f'{len(failures)} runs failed, first {failures[0]}; see {out}/logs')
        save_report(experiment, out)
        print((out / 'table.md').read_text())


if __name__ == '__main__':  # the workers import this file
    main()
