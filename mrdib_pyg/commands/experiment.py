"""``mrdib experiment``: one protocol for models with and without MRdIB."""

import argparse
import importlib.util
import json
import os
from contextlib import nullcontext
from pathlib import Path

from mrdib_pyg.commands.arguments import Add, Usage, import_from_here, read_device


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'experiment',
        'FILE [options]',
        'Compare models without and with MRdIB: search, choose, test, and make the tables.',
        epilog='The same command continues what was interrupted, and tries again what failed.\n'
        'examples:\n'
        '  mrdib experiment examples/experiments/planted-small.toml --dry-run\n'
        '  mrdib experiment examples/experiments/planted-small.toml --workers 2\n'
        '  mrdib experiment examples/experiments/planted-small.toml --table --figures',
    )
    p.add_argument('file', metavar='FILE', help='a description, see docs/EXPERIMENTS.md')
    p.add_argument('--out', metavar='FOLDER', help='the folder of all runs (runs/NAME of FILE)')
    p.add_argument(
        '--root', metavar='FOLDER', default='.',
        help='what the folders of the data sets in FILE are relative to (.)',
    )  # fmt: skip
    p.add_argument('--models', metavar='NAME,...', help='only these models of FILE')
    p.add_argument(
        '--workers', metavar='N', type=int, default=1,
        help='processes side by side, of one thread each (1)',
    )  # fmt: skip
    p.add_argument('--device', metavar='NAME', default='auto', help='cpu, cuda or auto (auto)')
    p.add_argument(
        '--compile', action='store_true',
        help='compile trainings that are yet to run, on a GPU each step to one CUDA graph',
    )  # fmt: skip
    p.add_argument('--dry-run', action='store_true', help='print the plan, and do nothing')
    p.add_argument('--table', action='store_true', help='make the tables of finished runs')
    p.add_argument('--figures', action='store_true', help='draw the figures too')
    p.add_argument('--json', action='store_true', help='print the summary as JSON')
    p.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    models = None if args.models is None else args.models.replace(',', ' ').split()
    if models == []:
        raise Usage('--models names nothing; pass names of FILE separated by commas')
    cores = os.cpu_count() or 1
    if not 1 <= args.workers <= cores:
        raise Usage(f'--workers must lie between 1 and the {cores} cores (got {args.workers})')
    if args.figures and importlib.util.find_spec('matplotlib') is None:
        raise Usage("--figures needs matplotlib: pip install 'mrdib_pyg[report]'")

    from mrdib_pyg.experiment import load_experiment, run_experiment, save_report
    from mrdib_pyg.experiment.records import Records
    from mrdib_pyg.experiment.runner import check_data, plan
    from mrdib_pyg.files import lock_folder

    if not args.dry_run:  # which runs no code of others
        import_from_here()
    experiment = load_experiment(args.file, models, imports=not args.dry_run)
    out = Path(args.out or f'runs/{experiment.name}')
    if args.dry_run:
        check_data(experiment, Records(out), args.root)
        print(plan(experiment, Records(out)))
        return
    if not args.table:
        device = read_device(args.device)
        failures = run_experiment(
            experiment, out, args.root, args.workers, device, not args.quiet, compile=args.compile
        )
        if failures:
            first = failures[0]
            raise RuntimeError(
                f'{len(failures)} of the runs failed, first {first.name}: {first.reason}; the logs '
                f'are in {out / "logs"}; call it again to try them again'
            )
    with lock_folder(out) if out.is_dir() else nullcontext():
        summary = save_report(experiment, out, figures=args.figures)
    if args.json:
        print(json.dumps(summary))
    elif args.table:
        print((out / 'table.md').read_text(encoding='utf-8'), end='')
    else:
        print(f'all runs are finished; tables in {out / "table.md"} and {out / "table.csv"}')
