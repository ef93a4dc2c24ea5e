"""``mrdib evaluate``: the metrics of a trained model."""

import argparse
import json

from mrdib_pyg.commands.arguments import Add, add_run_arguments, integers, load_run, table


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add('evaluate', 'RUN [options]', 'Rank all items for every user and print the metrics.')
    add_run_arguments(p)
    p.add_argument(
        '--split', choices=['val', 'test'], default='test', metavar='NAME',
        help='the held-out edges: val or test (test)',
    )  # fmt: skip
    p.add_argument('--k', metavar='N,...', help='cut-offs (5,10,20,50)')
    p.add_argument(
        '--mask', choices=['train', 'train+val'], default='train', metavar='NAME',
        help='leave out the items of a user: those of train or train+val (train)',
    )  # fmt: skip
    p.add_argument('--json', action='store_true', help='print the metrics as JSON')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    k = None if args.k is None else integers('--k', args.k)
    model, data = load_run(args)

    from mrdib_pyg.distributed import is_first, processes
    from mrdib_pyg.evaluation import evaluate

    if k is None:  # as in `train`, the cut-offs that the catalogue allows
        k = [n for n in (5, 10, 20, 50) if n <= model.num_items] or [model.num_items]
    with processes() as mesh:  # of torchrun, each of which ranks a part of the users
        values = evaluate(model, data, args.split, k=k, mask=args.mask, mesh=mesh)
        if is_first(mesh):
            print(json.dumps(values) if args.json else table({args.split: values}))
