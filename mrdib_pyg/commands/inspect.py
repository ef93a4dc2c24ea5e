"""``mrdib inspect``: what each modality of a data set says, before any training."""

import argparse
import importlib.util
import json
from pathlib import Path

from mrdib_pyg.commands.arguments import Add, Usage


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'inspect',
        'DATA [options]',
        'Measure what each modality says of the interactions before any training.',
        epilog='Amounts are nats per entry of the interactions, for a linear-Gaussian observer.\n'
        'examples:\n'
        '  mrdib inspect data/baby --figure baby.svg\n'
        '  mrdib inspect planted --json',
    )
    p.add_argument('data', metavar='DATA', help='the name of a data set, or a folder')
    p.add_argument('--modalities', metavar='NAME,...', help='the modalities to measure (all)')
    p.add_argument('--k', metavar='N', type=int, default=20, help='items in the recall (20)')
    p.add_argument(
        '--num-shuffles', metavar='N', type=int, default=2,
        help='how often rows are shuffled for the floor (2)',
    )  # fmt: skip
    p.add_argument('--seed', metavar='N', type=int, default=0, help='seeds all draws (0)')
    p.add_argument('--figure', metavar='FILE', help='draw it, as .png, .svg or .pdf')
    p.add_argument('--json', action='store_true', help='print the numbers as JSON')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    if not 0 <= args.seed < 2**31:
        raise Usage(f'--seed must lie in [0, 2**31) (got {args.seed})')
    if args.figure is not None:
        path = Path(args.figure)
        if path.suffix.lower() not in ('.png', '.svg', '.pdf') or not path.parent.is_dir():
            raise Usage(f"--figure '{path}' must be a .png, .svg or .pdf in a folder that exists")
        if importlib.util.find_spec('matplotlib') is None:
            raise Usage("--figure needs matplotlib: pip install 'mrdib_pyg[report]'")
    names = None
    if args.modalities is not None:
        names = [name for name in args.modalities.replace(',', ' ').split() if name]

    from mrdib_pyg.datasets import load_dataset
    from mrdib_pyg.evidence import inspect_data

    data = load_dataset(args.data)
    found = inspect_data(data, names, k=args.k, num_shuffles=args.num_shuffles, seed=args.seed)
    if args.figure is not None:
        found.figure(args.figure)
    print(json.dumps(found.to_dict(), indent=1, allow_nan=False) if args.json else found)
