"""``mrdib explain``: one score in parts that add up."""

import argparse
import json

from mrdib_pyg.commands.arguments import Add, Usage, add_run_arguments, load_ids, load_run, read_id


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'explain',
        'RUN --user ID --item ID [options]',
        'Explain one score in parts that add up: shared, each modality, fusion, IDs.',
        epilog='example: mrdib explain runs/tiktok --user 3 --item 17',
    )
    add_run_arguments(p)
    p.add_argument('--user', metavar='ID', required=True, help='the raw id, else the index')
    p.add_argument('--item', metavar='ID', required=True, help='the raw id, else the index')
    p.add_argument(
        '--negatives', choices=['uniform', 'popularity'], default='uniform', metavar='NAME',
        help='how non-edges are drawn: uniform or popularity (uniform)',
    )  # fmt: skip
    p.add_argument('--seed', metavar='N', type=int, default=0, help='seeds all draws (0)')
    p.add_argument('--json', action='store_true', help='print the numbers as JSON')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    if not 0 <= args.seed < 2**31:
        raise Usage(f'--seed must lie in [0, 2**31) (got {args.seed})')
    model, data = load_run(args)

    user_ids, item_ids = load_ids(args, model)
    user = read_id('--user', args.user, user_ids, model.num_users)
    item = read_id('--item', args.item, item_ids, model.num_items)

    from mrdib_pyg.pid import explain_pair

    found = explain_pair(model, user, item, data, negatives=args.negatives, seed=args.seed)
    found = found._replace(user=args.user, item=args.item)  # as the user wrote them
    print(json.dumps(found.to_dict(), allow_nan=False) if args.json else found)
