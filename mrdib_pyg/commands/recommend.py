"""``mrdib recommend``: the best items of users."""

import argparse
import io
import re
import sys
from pathlib import Path
from typing import Any, TextIO

from mrdib_pyg.commands.arguments import (
    Add,
    Usage,
    add_run_arguments,
    load_ids,
    load_run,
    read_id_file,
    read_ids,
    require_packages,
)


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'recommend',
        'RUN [options]',
        'Write the best items of users as CSV, JSON lines or Parquet.',
        epilog='Ids are the raw ids of user_ids.csv and item_ids.csv in the data, else indices.\n'
        'examples:\n'
        '  mrdib recommend runs/tiktok --users 3,17 --k 10\n'
        '  mrdib recommend runs/tiktok --users users.txt --deny sold-out.txt --out recs.parquet',
    )
    add_run_arguments(p)
    p.add_argument(
        '--users', metavar='ID,...', help='ids separated by commas, or a file of ids (all users)'
    )
    p.add_argument('--k', metavar='N', type=int, help='items per user (20)')
    p.add_argument(
        '--exclude', choices=['all', 'train', 'none'], metavar='NAME',
        help='leave out the items that a user has: those of all splits, of train, or none (all)',
    )  # fmt: skip
    p.add_argument('--include-seen', action='store_true', help='same as --exclude none')
    p.add_argument('--allow', metavar='FILE', help='recommend only the items of this file')
    p.add_argument('--deny', metavar='FILE', help='never recommend the items of this file')
    p.add_argument(
        '--out', metavar='FILE', help='a .csv, .jsonl or .parquet file (standard output)'
    )
    p.add_argument('--json', action='store_true', help='one JSON object per user')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    format = _format(args)
    if args.include_seen and args.exclude not in (None, 'none'):
        raise Usage(f'--include-seen and --exclude {args.exclude} exclude each other')
    left_out = args.exclude or ('none' if args.include_seen else 'all')
    model, data = load_run(args)
    user_ids, item_ids = load_ids(args, model)
    users = None
    if args.users is not None:
        users = read_ids('--users', args.users, user_ids, model.num_users)
    lists = [
        None if path is None else read_id_file(option, path, item_ids, model.num_items)
        for option, path in (('--allow', args.allow), ('--deny', args.deny))
    ]

    import torch

    from mrdib_pyg.distributed import is_first, processes
    from mrdib_pyg.serving import known_pairs, recommend, save_recommendations
    from mrdib_pyg.serving.recommendations import write_text

    allow, deny = (None if ids is None else torch.tensor(ids) for ids in lists)
    with processes() as mesh:  # of torchrun, which rank the users in turn
        blocks = recommend(
            model,
            None if users is None else torch.tensor(users),
            min(20, model.num_items) if args.k is None else args.k,
            exclude_seen=left_out == 'train',
            exclude=known_pairs(data) if left_out == 'all' else None,  # training edges too
            allow=allow,
            deny=deny,
            mesh=mesh,
        )
        if not is_first(mesh):
            for _ in blocks:  # the first process writes
                pass
        elif args.out is None:
            write_text(blocks, _standard_output(), user_ids, item_ids, format)
        else:
            save_recommendations(blocks, args.out, user_ids, item_ids, format)


def _standard_output() -> Any:
    r"""The standard output, in UTF-8 unless it is a terminal."""
    if sys.stdout.isatty():
        return _Terminal(sys.stdout)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding='utf-8')
    return sys.stdout


class _Terminal(io.TextIOBase):
    r"""Escapes what a terminal would obey or cannot show, such as control characters in an id."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal

    def write(self, text: str) -> int:
        text = re.sub(r'[^\n\t -~\u00a0-\U0010ffff]', lambda m: ascii(m[0])[1:-1], text)
        encoding = self.terminal.encoding or 'utf-8'
        return self.terminal.write(text.encode(encoding, 'backslashreplace').decode(encoding))


def _format(args: argparse.Namespace) -> str:
    if args.out is None:
        return 'jsonl' if args.json else 'csv'
    out = Path(args.out)
    if not out.parent.is_dir() or (out.exists() and not out.is_file()):
        raise Usage(f"--out must be a file in a folder that exists (got '{args.out}')")

    from mrdib_pyg.serving.recommendations import format_of

    format = format_of(out)
    if format == 'parquet':
        require_packages(f"--out '{args.out}'", 'pyarrow')
    if args.json and format != 'jsonl':
        if format == 'parquet' or out.suffix.lower() == '.csv':
            raise Usage(f"--json and --out '{args.out}' exclude each other; leave out --json")
        return 'jsonl'
    return format
