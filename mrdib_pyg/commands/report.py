"""``mrdib report``: one HTML page about one or more runs."""

import argparse

from mrdib_pyg.commands.arguments import Add, Usage, find_class


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'report',
        'RUN [RUN ...] [options]',
        'Make one HTML page about one or more runs. It opens without a network.',
        epilog='Runs that differ only in their seed form one row with mean and deviation.\n'
        'examples:\n'
        '  mrdib report runs/tiktok\n'
        '  mrdib report runs/plain-* runs/mrdib-* --out compare.html --figures figures',
    )
    p.add_argument('folders', metavar='RUN', nargs='+', help='run folders of `mrdib train`')
    p.add_argument('--dataset', help='the data, where it has moved since training')
    p.add_argument(
        '--model', metavar='CLASS,...', default='',
        help='classes of models of your own, each as MODULE:CLASS',
    )  # fmt: skip
    p.add_argument(
        '--users', metavar='ID,...',
        help='users whose recommendations are shown: raw ids, else indices (three at random)',
    )  # fmt: skip
    p.add_argument('--k', metavar='N', type=int, default=10, help='items per user (10)')
    p.add_argument(
        '--map', choices=['tsne', 'pca'], default='tsne', metavar='NAME',
        help='the projection of the item codes: tsne or pca (tsne)',
    )  # fmt: skip
    p.add_argument('--seed', metavar='N', type=int, default=0, help='seeds all draws (0)')
    p.add_argument('--figures', metavar='FOLDER', help='a folder for every figure as PNG')
    p.add_argument('--out', metavar='FILE', help='the page (report.html in the first RUN)')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    users = None
    if args.users is not None:
        users = [part for part in args.users.split(',') if part.strip()]
        if not users:
            raise Usage('--users names nothing; pass ids separated by commas')

    models = [find_class(name) for name in args.model.replace(',', ' ').split()]

    from mrdib_pyg.report import write_report

    out = write_report(
        args.folders,
        args.out,
        dataset=args.dataset,
        users=users,
        k=args.k,
        method=args.map,
        seed=args.seed,
        figures=args.figures,
        models=models,
        progress=True,
    )
    print(f'report in {out} ({out.stat().st_size / 1e6:.1f} MB)')
