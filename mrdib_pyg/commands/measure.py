"""``mrdib measure``: the information of a trained model by modality."""

import argparse
import json
from pathlib import Path

from mrdib_pyg.commands.arguments import Add, Usage, add_run_arguments, load_run


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'measure',
        'RUN [options]',
        'Measure unique, redundant and synergistic information; writes RUN/pid.json.',
        epilog='example: mrdib measure runs/tiktok --negatives popularity',
    )
    add_run_arguments(p)
    p.add_argument(
        '--negatives', choices=['uniform', 'popularity'], metavar='NAME',
        help='how non-edges are drawn: uniform or popularity (both)',
    )  # fmt: skip
    p.add_argument(
        '--groups', metavar='NAME,...', default='popularity',
        help='groupings of the items: popularity, columns of the items, or none (popularity)',
    )  # fmt: skip
    p.add_argument(
        '--num-bootstrap', metavar='N', type=int, default=200, help='resamples of users (200)'
    )
    p.add_argument('--seed', metavar='N', type=int, default=0, help='seeds all draws (0)')
    p.add_argument('--json', action='store_true', help='print the JSON of pid.json')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    if args.num_bootstrap < 0:
        raise Usage(f'--num-bootstrap must not be negative (got {args.num_bootstrap})')
    if not 0 <= args.seed < 2**31:
        raise Usage(f'--seed must lie in [0, 2**31) (got {args.seed})')
    path = Path(args.folder) / 'pid.json'
    if path.exists() and not path.is_file():
        raise Usage(f"'{path}' must be a regular file; remove what has its name")
    names = [name for name in args.groups.replace(' ', ',').split(',') if name]
    model, data = load_run(args)

    from mrdib_pyg.files import write_atomic
    from mrdib_pyg.pid import measure_pid

    measured = measure_pid(
        model,
        data,
        negatives=args.negatives or ('uniform', 'popularity'),
        groups=() if names == ['none'] else names,
        num_bootstrap=args.num_bootstrap,
        seed=args.seed,
    )
    text = json.dumps(measured.to_dict(), indent=1, allow_nan=False) + '\n'
    write_atomic(path, text.encode())
    print(text if args.json else f'{measured}\nwritten to {path}', end='' if args.json else '\n')
