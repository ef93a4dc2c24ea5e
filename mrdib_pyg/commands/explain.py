"""``mrdib explain``: what speaks for a user taking an item."""

import argparse
import json

from mrdib_pyg.commands.arguments import Add, Usage
from mrdib_pyg.commands.run_folder import find_dataset, load_run


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'explain',
        'RUN --user ID --item ID [options]',
        'Say what speaks for a user taking an item: shared, each modality, fusion, IDs.',
        epilog='example: mrdib explain runs/tiktok --user 3 --item 17',
    )
    p.add_argument('folder', metavar='RUN', help='a run folder of `mrdib train`')
    p.add_argument(
        '--user', metavar='ID', required=True, help='the raw id, or the index where there are none'
    )
    p.add_argument('--item', metavar='ID', required=True, help='likewise')
    p.add_argument('--dataset', help='the data, where it has moved since training')
    p.add_argument(
        '--negatives', choices=['uniform', 'popularity'], default='uniform', metavar='NAME',
        help='against which items: uniform or popularity (uniform)',
    )  # fmt: skip
    p.add_argument('--seed', metavar='N', type=int, default=0, help='seeds all draws (0)')
    p.add_argument('--json', action='store_true', help='print the numbers as JSON')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    if not 0 <= args.seed < 2**31:
        raise Usage(f'--seed must lie in [0, 2**31) (got {args.seed})')
    model, data = load_run(args)

    from mrdib_pyg.pid import explain

    index = {
        'user': _index(args, 'user', model.num_users),
        'item': _index(args, 'item', model.num_items),
    }
    found = explain(model, **index, data=data, negatives=args.negatives, seed=args.seed)
    found = found._replace(user=args.user, item=args.item)  # by the ids that were asked for
    print(json.dumps(found.to_dict(), allow_nan=False) if args.json else found)


def _index(args: argparse.Namespace, kind: str, size: int) -> int:
    from mrdib_pyg.datasets.id_map import IdMap

    text = getattr(args, kind)
    ids = IdMap.load(find_dataset(args), kind)
    if ids is not None:
        if text not in ids:
            raise Usage(f"--{kind}: there is no raw id '{text}' in {kind}_ids.csv of the data")
        return ids.index(text)
    if not text.isascii() or not text.isdigit() or int(text) >= size:
        raise Usage(f"--{kind} must be an id from 0 to {size - 1} (got '{text}')")
    return int(text)
