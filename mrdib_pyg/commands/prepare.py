"""``mrdib prepare``: from raw data to a folder."""

import argparse
import sys
from typing import Any

from mrdib_pyg.commands.arguments import Add, CommandFormatter, Usage, number, pairs

SPLITS = ('random', 'leave_one_out', 'temporal')
RATIOS = '0.8,0.1,0.1'
ENCODER = 'minilm'


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'prepare',
        'amazon|table [options]',
        'Make a folder that can be trained on of raw data.',
        epilog='`mrdib prepare amazon --help` and `mrdib prepare table --help` tell more, and '
        'docs/DATA.md.',
    )
    sources: Any = p.add_subparsers(
        dest='source', required=True, metavar='SOURCE', prog='mrdib prepare'
    )
    _add_amazon(sources)
    _add_table(sources)


def _add(sources: Any, name: str, usage: str, summary: str, epilog: str) -> argparse.ArgumentParser:
    p = sources.add_parser(
        name, usage=f'mrdib prepare {name} {usage}', help=summary, description=summary,
        epilog=epilog, formatter_class=CommandFormatter, allow_abbrev=False,
    )  # fmt: skip
    p.add_argument(
        '--debug', action='store_true', default=argparse.SUPPRESS,
        help='show the traceback of an error',
    )  # fmt: skip
    return p


def _add_amazon(sources: Any) -> None:
    p = _add(
        sources,
        'amazon',
        '--category NAME --root RAW --out FOLDER [options]',
        'Amazon Reviews 2014: ratings, metadata and image features of a category.',
        'example: mrdib prepare amazon --category Baby --root data/amazon --out data/baby',
    )
    p.add_argument(
        '--category', metavar='NAME', required=True, help='Baby, Sports, Clothing, or any other'
    )
    p.add_argument(
        '--root', metavar='RAW', required=True,
        help='the folder with the raw files; missing ones are downloaded into its folder raw',
    )  # fmt: skip
    p.add_argument('--no-download', action='store_true', help='say what is missing instead')
    p.add_argument(
        '--modalities', metavar='NAME,...', default='image,text',
        help='what to prepare (image,text)',
    )  # fmt: skip
    _add_common(p, k_core=5, cache='RAW/cache', split='random')


def _add_table(sources: Any) -> None:
    p = _add(
        sources,
        'table',
        'FILE --user COLUMN --item COLUMN --out FOLDER [options]',
        'A table of your own (CSV, TSV, JSON, Parquet) with a row for each interaction.',
        'examples:\n'
        '  mrdib prepare table orders.csv --user customer --item sku --out data/shop\n'
        '  mrdib prepare table plays.parquet --user u --item i --time at --split temporal \\\n'
        '      --features audio=audio.npz --items tracks.csv --text title,artist --out data/plays',
    )
    p.add_argument('table', metavar='FILE', help='the table: .csv, .tsv, .json, .parquet; .gz')
    p.add_argument('--user', metavar='COLUMN', required=True, help='the column of user ids')
    p.add_argument('--item', metavar='COLUMN', required=True, help='the column of item ids')
    p.add_argument('--rating', metavar='COLUMN', help='the column of ratings')
    p.add_argument('--time', metavar='COLUMN', help='the column of times: numbers or dates')
    p.add_argument(
        '--time-format', metavar='FORMAT',
        help="the form of dates that are not of ISO 8601, such as '%%d/%%m/%%Y'",
    )  # fmt: skip
    p.add_argument('--weight', metavar='COLUMN', help='the column of weights')
    p.add_argument('--sep', metavar='TEXT', help='what separates the fields, e.g. :: (found out)')
    p.add_argument(
        '--header', choices=['first', 'none'], metavar='WHERE',
        help='the names of columns: in the first line, or none (found out)',
    )  # fmt: skip
    p.add_argument('--names', metavar='NAME,...', help='the names of all columns')
    p.add_argument('--no-quotes', action='store_true', help='double quotes are plain text')
    p.add_argument(
        '--keep-null-words', action='store_true', help='ids may be words such as NA or NULL'
    )
    g = p.add_argument_group('features of the items')
    g.add_argument(
        '--features', metavar='NAME=FILE,...', default='',
        help='modalities: .npz or .safetensors by item id, .npy by order',
    )  # fmt: skip
    g.add_argument(
        '--item-order', metavar='FILE',
        help='the item id of each row of .npy, one a line (ids are the numbers of rows)',
    )  # fmt: skip
    g.add_argument('--text', metavar='COLUMN,...', help='columns to encode as modality text')
    g.add_argument('--items', metavar='FILE', help='the table of items that has these columns')
    g.add_argument('--item-id', metavar='COLUMN', help='its column of item ids (as --item)')
    _add_common(p, k_core=1, cache='none', split=None)


def _add_common(p: argparse.ArgumentParser, k_core: int, cache: str, split: str | None) -> None:
    p.add_argument(
        '--text-encoder', metavar='NAME',
        help='minilm, hashing (no download), or a sentence encoder or its folder (minilm)',
    )  # fmt: skip
    p.add_argument(
        '--cache', metavar='FOLDER',
        help=f'where the vector of each text is kept for the next time ({cache})',
    )  # fmt: skip
    p.add_argument(
        '--fill', choices=['mask', 'mean'], default='mask', metavar='HOW',
        help='items without a modality: mask, or the mean of the others (mask)',
    )  # fmt: skip
    g = p.add_argument_group('interactions')
    g.add_argument('--min-rating', metavar='X', type=float, help='leave lower ratings out')
    g.add_argument(
        '--k-core', metavar='N', type=int, default=k_core,
        help=f'the least interactions of a user and of an item ({k_core})',
    )  # fmt: skip
    g.add_argument(
        '--split', choices=SPLITS, default=split, metavar='NAME',
        help='random (per user), leave_one_out (by time) or temporal '
        + (f'({split})' if split else '(temporal where there is --time, else random)'),
    )  # fmt: skip
    g.add_argument('--seed', metavar='N', type=int, default=0, help='of the random split (0)')
    g.add_argument('--ratios', metavar='A,B,C', help='of --split temporal (0.8,0.1,0.1)')
    g = p.add_argument_group('output')
    g.add_argument('--out', metavar='FOLDER', required=True, help='the folder to write')
    g.add_argument('--force', action='store_true', help='replace data that were prepared before')
    g.add_argument('--json', action='store_true', help='print the report as JSON')
    g.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    by_time = args.split is None and getattr(args, 'time', None) is not None
    if args.ratios is not None and args.split != 'temporal' and not by_time:
        raise Usage('--ratios are those of --split temporal: add it, or leave them out')
    ratios = tuple(number('--ratios', part) for part in (args.ratios or RATIOS).split(','))
    common: dict[str, Any] = {
        'k_core': args.k_core, 'min_rating': args.min_rating, 'split': args.split,
        'seed': args.seed, 'ratios': ratios, 'fill': args.fill,
        'text_encoder': args.text_encoder or ENCODER, 'cache_dir': args.cache,
        'force': args.force, 'progress': not args.quiet,
    }  # fmt: skip
    if args.source == 'amazon':
        from mrdib_pyg.datasets import prepare_amazon

        modalities = [name.strip() for name in args.modalities.split(',') if name.strip()]
        report = prepare_amazon(
            args.root, args.category, args.out, modalities=modalities,
            download=not args.no_download, **common,
        )  # fmt: skip
    else:
        if args.min_rating is not None and args.rating is None:
            raise Usage('--min-rating needs the column of ratings: add --rating COLUMN')
        if args.split not in (None, 'random') and args.time is None:
            raise Usage(f'--split {args.split} needs the column of times: add --time COLUMN')
        if args.time_format is not None and args.time is None:
            raise Usage('--time-format is that of the column of times: add --time COLUMN')
        if args.header == 'none' and not args.names:
            raise Usage('without a header columns need names: add --names NAME,...')
        if args.item_id is not None and args.items is None:
            raise Usage('--item-id is a column of the table of items: add --items FILE')
        if args.item_order is not None and not args.features:
            raise Usage('--item-order is that of features: add --features NAME=FILE')
        for option, given in (('--text-encoder', args.text_encoder), ('--cache', args.cache)):
            if given is not None and not args.text:
                raise Usage(f'{option} is for texts: add --text COLUMN,...')

        from mrdib_pyg.datasets import prepare_table

        text = [name.strip() for name in (args.text or '').split(',') if name.strip()]
        report = prepare_table(
            args.table, args.out, user=args.user, item=args.item, rating=args.rating,
            time=args.time, time_format=args.time_format, weight=args.weight,
            sep='\t' if args.sep == '\\t' else args.sep,
            header=None if args.header is None else args.header == 'first',
            names=None if args.names is None else [n.strip() for n in args.names.split(',')],
            quote=not args.no_quotes, keep_null_words=args.keep_null_words,
            features=pairs('--features', args.features, _path),
            item_order=args.item_order, text=text, items=args.items, item_id=args.item_id, **common,
        )  # fmt: skip
    if report.split.get('validation') == 0:
        print(
            'warning: no interaction is for validation, by which a training selects: users have '
            'too few for this split',
            file=sys.stderr,
        )
    shown = str(report).replace("split='random'", '--split random')
    print(report.to_json() if args.json else f'{shown}\nwrote {args.out}')


def _path(option: str, text: str) -> str:
    return text
