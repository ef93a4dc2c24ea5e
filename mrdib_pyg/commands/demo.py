"""``mrdib demo``: the main job on data that come with the package."""

import argparse
from pathlib import Path

from mrdib_pyg.commands.arguments import Add


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add('demo', '[options]', 'Train on planted data without and with MRdIB, and compare.')
    p.add_argument('--out', default='runs/demo', help='the folder of both runs (runs/demo)')
    p.add_argument('--seed', type=int, default=0, help='seeds both runs (0)')
    p.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    from mrdib_pyg.demo import demo

    print(demo(Path(args.out), seed=args.seed, progress=not args.quiet))
