"""``mrdib train``: train a model into a run folder."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mrdib_pyg.commands.arguments import (
    Add,
    Usage,
    absolute,
    find_class,
    new_run_folder,
    number,
    pairs,
    read_device,
    table,
    value,
)

SETTINGS = (
    'epochs', 'patience', 'monitor', 'batch_size', 'modality_dropout', 'lr', 'seed', 'compile'
)  # fmt: skip

DEFAULT_WEIGHTS = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'train',
        '--dataset DATASET [options]',
        'Train a model, evaluate its best epoch, and write a run folder.',
        epilog='examples:\n'
        '  mrdib train --dataset planted --set fusion=mlp --out runs/plain\n'
        '  mrdib train --dataset data/tiktok --mrdib --seed 0 --out runs/tiktok\n'
        '  mrdib train --dataset data/tiktok --mrdib --seed 0 --out runs/tiktok --resume\n'
        '  torchrun --nproc-per-node 2 -m mrdib_pyg train --dataset data/tiktok --mrdib',
    )
    g = p.add_argument_group('data and model')
    g.add_argument('--dataset', required=True, help='a folder, or a name of `mrdib datasets`')
    g.add_argument(
        '--model', metavar='NAME', default='multimodal_lightgcn',
        help='a name of `mrdib models`, or MODULE:CLASS for one of your own (multimodal_lightgcn)',
    )  # fmt: skip
    g.add_argument(
        '--set', metavar='NAME=VALUE,...', default='', help='settings of the model, see there'
    )

    g = p.add_argument_group('MRdIB')
    g.add_argument('--mrdib', action='store_true', help='put MRdIB into the model')
    g.add_argument(
        '--redundancy', choices=['mine', 'nwj', 'infonce', 'club', 'gaussian', 'none'],
        metavar='NAME',
        help='the estimator of what modalities share: mine, nwj, infonce, club, gaussian or none '
        '(mine)',
    )  # fmt: skip
    g.add_argument(
        '--decoder', choices=['bpr', 'nce'], metavar='NAME',
        help='what each modality alone is trained against: one negative, bpr, or many, nce (bpr)',
    )  # fmt: skip
    g.add_argument(
        '--num-negatives', metavar='N', type=int, help='the negatives of --decoder nce (128)'
    )
    g.add_argument(
        '--weights', default='', metavar='NAME=W,...',
        help='weights of terms of the loss; with --mrdib by default '
        + ','.join(f'{name}={weight:g}' for name, weight in DEFAULT_WEIGHTS.items()),
    )  # fmt: skip
    g.add_argument(
        '--control', choices=['l2', 'noise'], metavar='NAME',
        help='a control in the place of MRdIB: l2 or noise on the codes',
    )  # fmt: skip
    g.add_argument(
        '--noise-scale', metavar='S', type=float, help='the scale of --control noise (0.1)'
    )

    # Not given, these are left to `train_model`, whose defaults are in brackets.
    g = p.add_argument_group('training', argument_default=argparse.SUPPRESS)
    g.add_argument('--epochs', metavar='N', type=int, help='the most epochs (500)')
    g.add_argument(
        '--patience', metavar='N', type=int,
        help='stop after more than N epochs without improvement (20)',
    )  # fmt: skip
    g.add_argument(
        '--monitor', metavar='METRIC', help='the validation metric to select by (recall@20)'
    )
    g.add_argument('--batch-size', metavar='N', type=int, help='triplets per step (2048)')
    g.add_argument(
        '--modality-dropout', metavar='P', type=float,
        help='in each step an item lacks a modality with this probability, never the last (0)',
    )  # fmt: skip
    g.add_argument('--lr', metavar='X', type=float, help='learning rate (0.001)')
    g.add_argument('--seed', metavar='N', type=int, help='seeds everything (0)')
    g.add_argument(
        '--compile', action='store_true',
        help='run full batches in fixed shapes: on a GPU as one CUDA graph, else compiled',
    )  # fmt: skip
    g.add_argument('--device', metavar='NAME', default='auto', help='cpu, cuda or auto (auto)')

    g = p.add_argument_group('output')
    g.add_argument('--out', metavar='FOLDER', help='the run folder (runs/DATASET-MODEL)')
    g.add_argument('--resume', action='store_true', help='continue the run in the folder')
    g.add_argument('--no-test', action='store_true', help='do not read the test edges')
    g.add_argument('--json', action='store_true', help='print the results as JSON')
    g.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    weights = pairs('--weights', args.weights, number)
    settings = pairs('--set', args.set, value)
    mrdib = _mrdib(args, weights)

    from mrdib_pyg.distributed import processes

    device = read_device(args.device)
    with processes(device) as mesh:
        _train(args, weights, settings, mrdib, device, mesh)


def _train(
    args: argparse.Namespace,
    weights: dict[str, float],
    settings: dict[str, Any],
    mrdib: dict[str, Any] | None,
    device: str,
    mesh: Any,
) -> None:
    model = find_class(args.model)

    from mrdib_pyg.datasets import load_dataset
    from mrdib_pyg.distributed import first, is_first
    from mrdib_pyg.nn.models.registry import model_name
    from mrdib_pyg.training import train_model
    from mrdib_pyg.training._freed_memory import keep_freed_memory

    dataset = Path(args.dataset).expanduser().resolve().name
    name = model_name(model).rpartition(':')[2]
    # Asked by one process: the folder may fill before another looks.
    out = first(lambda: new_run_folder(args.out or f'runs/{dataset}-{name}', args.resume), mesh)
    if is_first(mesh) and args.resume and not (out / 'last.pt').exists():  # as of a misspelled one
        print(f"warning: '{out}' holds no finished epoch; training begins anew", file=sys.stderr)
    keep_freed_memory()
    results = train_model(
        load_dataset(args.dataset),
        model,
        settings=settings,
        mrdib=mrdib,
        test=not args.no_test,
        out=out,
        device=device,
        dataset=absolute(args.dataset),
        mesh=mesh,
        weights=weights,
        resume=args.resume,
        progress=not args.quiet,
        **{name: getattr(args, name) for name in SETTINGS if name in args},
    )
    if not is_first(mesh):
        return
    if 'val' not in results:
        print(
            'warning: there are no validation edges to select by: the parameters of the last '
            'epoch are kept',
            file=sys.stderr,
        )
    if args.json:
        print(json.dumps(results))
        return
    measured: dict[str, dict[str, float]] = {
        split: results[split] for split in ('val', 'test') if split in results
    }
    if measured:
        print(table(measured))
    best, last = results['best_epoch'], results['num_epochs']
    more = ', still improving: train on with --resume and more --epochs' if best == last else ''
    print(f'best epoch {best} of {last}{more if "val" in results else ""}; files in {out}')


def _mrdib(args: argparse.Namespace, weights: dict[str, float]) -> dict[str, Any] | None:
    r"""Returns the settings of MRdIB or of a control; adds the default weights."""
    if args.mrdib and args.control:
        raise Usage('--mrdib and --control exclude each other: a control takes its place')
    if args.redundancy and not args.mrdib:
        raise Usage('--redundancy is a setting of MRdIB: add --mrdib')
    if args.decoder and not args.mrdib:
        raise Usage('--decoder is a setting of MRdIB: add --mrdib')
    if args.num_negatives is not None and args.decoder != 'nce':
        raise Usage(
            '--num-negatives is a setting of --decoder nce: add that; of a task with as many '
            'negatives it is --set task=ssm,num_negatives=N'
        )
    if args.noise_scale is not None and args.control != 'noise':
        raise Usage('--noise-scale is a setting of a control: add --control noise')
    if args.redundancy == 'none' and weights.get('redundant', 0) > 0:
        raise Usage("--weights: with --redundancy none there is no term 'redundant'; leave it out")
    used = list(DEFAULT_WEIGHTS) if args.mrdib else ['bottleneck'] if args.control == 'l2' else []
    for name in DEFAULT_WEIGHTS:
        if name in weights and name not in used:
            raise Usage(f"--weights: without --mrdib there is no term '{name}'; add --mrdib")
    for name in used:
        weights.setdefault(name, DEFAULT_WEIGHTS[name])
    if args.mrdib:
        given = {'decoder': args.decoder, 'num_negatives': args.num_negatives}
        return {
            'redundancy': None if args.redundancy == 'none' else args.redundancy or 'mine',
            **{name: value for name, value in given.items() if value is not None},
        }
    if args.control == 'noise':
        scale = 0.1 if args.noise_scale is None else args.noise_scale
        return {'control': 'noise', 'noise_scale': scale}
    return {'control': 'l2'} if args.control == 'l2' else None
