"""``mrdib recommend``: the best items of users."""

import argparse
import json
import os
import sys
from pathlib import Path

from mrdib_pyg.commands.arguments import Add, Usage, integers
from mrdib_pyg.commands.run_folder import load_run


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'recommend',
        'RUN [options]',
        'Write the best items of users as CSV or JSON lines.',
        epilog='example: mrdib recommend runs/tiktok --users 3,17 --k 10',
    )
    p.add_argument('folder', metavar='RUN', help='a run folder of `mrdib train`')
    p.add_argument('--dataset', help='the data, where it has moved since training')
    p.add_argument(
        '--users', metavar='ID,...', help='ids separated by commas, or a file of ids (all users)'
    )
    p.add_argument('--k', metavar='N', type=int, help='items per user (20)')
    p.add_argument('--include-seen', action='store_true', help='rank training items too')
    p.add_argument('--out', metavar='FILE', help='a file (standard output)')
    p.add_argument('--json', action='store_true', help='one JSON object per user')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    if args.out is not None and (Path(args.out).is_dir() or not Path(args.out).parent.is_dir()):
        raise Usage(f"--out '{args.out}' must be a file in a folder that exists")
    users = None if args.users is None else _users(args.users)
    model, data = load_run(args)

    import torch

    from mrdib_pyg.training import write_atomic

    user = None
    if users is not None:
        if not 0 <= min(users) <= max(users) < model.num_users:
            wrong = next(u for u in users if not 0 <= u < model.num_users)
            raise Usage(f'--users must be ids from 0 to {model.num_users - 1} (got {wrong})')
        user = torch.tensor(users)
    k = min(20, model.num_items) if args.k is None else args.k
    score, item = model.recommend(user, k=k, exclude_seen=not args.include_seen)
    lines: list[str] = [] if args.json else ['userID,rank,itemID,score']
    for u, items, scores in zip(users or range(model.num_users), item.tolist(), score.tolist()):
        ranked = [(i, s) for i, s in zip(items, scores) if i >= 0]
        if args.json:
            row = {'user': u, 'item': [i for i, _ in ranked], 'score': [s for _, s in ranked]}
            lines.append(json.dumps(row))
        else:
            lines += [f'{u},{rank},{i},{s:.6g}' for rank, (i, s) in enumerate(ranked, start=1)]
    text = '\n'.join(lines) + '\n'
    if args.out is None:
        sys.stdout.write(text)
    else:
        write_atomic(Path(args.out), text.encode())


def _users(text: str) -> list[int]:
    if os.path.isfile(text):  # unlike Path.is_file, takes a text too long for a name
        try:
            return integers(f"--users, file '{text}'", Path(text).read_text(encoding='utf-8'))
        except UnicodeDecodeError:
            raise Usage(f"--users: '{text}' is not a text file of ids") from None
    try:
        return integers('--users', text)
    except Usage as e:
        raise Usage(f'{e}, and there is no such file') from None
