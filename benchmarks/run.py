r"""Runs the suite: each part in a process of its own, on one thread, then tables and plots.

    python -m benchmarks.run --short                     the short form, under five minutes
    python -m benchmarks.run                             everything on CPU, within an hour
    python -m benchmarks.run --only propagation,training some parts, which share the time of all
    python -m benchmarks.run --resume                    the parts that are not complete yet
    python -m benchmarks.run --device cuda               everything on a GPU, within ten minutes

A part that fails, or runs out of its time, costs no other part anything: what it measured before is
in its file already, and what went wrong is noted there.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import schema, tables
from benchmarks.part import RESULTS, Part, add_arguments


class Entry(NamedTuple):
    r"""A part: its module, and its wall seconds in the short form, on CUDA (0: there is nothing to
    measure there) and in full on CPU.
    """

    module: str
    short: float
    cuda: float
    full: float


#: What the targets are about comes first.
PARTS: dict[str, Entry] = {
    'propagation': Entry('benchmarks.ops.propagation', 39, 115, 300),
    'pid_loss': Entry('benchmarks.ops.pid_loss', 30, 100, 220),
    'mrdib_cost': Entry('benchmarks.training.mrdib_cost', 58, 25, 480),
    'scaling': Entry('benchmarks.scaling.edges', 22, 12, 400),
    'training': Entry('benchmarks.training.epochs', 49, 160, 1380),
    'topk': Entry('benchmarks.ops.topk', 25, 20, 110),
    'knn': Entry('benchmarks.ops.knn', 15, 4, 40),
    'negative_sampling': Entry('benchmarks.ops.negative_sampling', 8, 8, 10),
    'mutual_information': Entry('benchmarks.ops.mutual_information', 10, 5, 50),
    'ingest': Entry('benchmarks.data.ingest', 6, 0, 180),
    'amazon': Entry('benchmarks.data.amazon', 2, 0, 70),
    'index': Entry('benchmarks.serving.index', 7, 0, 180),
    'recommend': Entry('benchmarks.serving.recommend', 14, 0, 180),
}
#: Wall seconds for the suite as a whole.
LIMITS = {'short': 285.0, 'cuda': 570.0, 'full': 3600.0}
#: Wall seconds that a part takes to start, and that it must have to be begun.
START, MIN_SECONDS = 6.0, 2.0
#: Wall seconds after its time that a part may take to come to an end: in full, a round of the
#: slowest rival.
GRACE = {'short': 20.0, 'cuda': 20.0, 'full': 240.0}


def form_of(args: argparse.Namespace) -> str:
    return 'cuda' if args.device == 'cuda' else 'short' if args.short else 'full'


def budget(
    name: str, args: argparse.Namespace, left: float, share: float = 1.0
) -> tuple[float, float]:
    r"""Returns the seconds in which a part may begin new cases, and after which it is stopped."""
    if args.device == 'cpu' and args.full and args.limit is None:
        return float('inf'), float('inf')
    form = form_of(args)
    soft = min(share * getattr(PARTS[name], form), left - 10.0)
    return soft, min(soft + GRACE[form], left)


def share_of_time(names: list[str], form: str, limit: float | None = None) -> float:
    r"""Returns how many times its own time a part may take where only some parts run: together they
    have that of the suite; or where a limit is given, what it leaves after the start of each.
    """
    needed = sum(getattr(PARTS[name], form) for name in names)
    if limit is not None:
        return max(limit - START * len(names), 0.0) / needed
    return max(LIMITS[form] / needed, 1.0)


def run_part(
    name: str, args: argparse.Namespace, out: Path, left: float, share: float = 1.0
) -> str | None:
    r"""Runs a part and returns what went wrong, if anything did."""
    soft, hard = budget(name, args, left, share)
    command = [sys.executable, '-m', PARTS[name].module, '--device', args.device]
    command += ['--out', str(out), '--seconds', str(soft)]
    command += [f'--{flag}' for flag in ('short', 'full', 'resume') if getattr(args, flag)]
    if args.data is not None:
        command += ['--data', str(args.data)]
    if args.sizes:
        command += ['--sizes', *map(str, args.sizes)]
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get('PYTHONPATH')])])
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'PYTHONPATH': path}
    try:
        code = subprocess.run(
            command, env=env, timeout=None if hard == float('inf') else hard
        ).returncode
    except subprocess.TimeoutExpired:
        return f'stopped after {hard:.0f} s'
    return None if code == 0 else f'ended with the exit code {code}'


def note(name: str, args: argparse.Namespace, out: Path, why: str) -> None:
    r"""Notes in the file of a part what became of it."""
    part = Part(name, args.device, args.short, args.full, out)
    if part.path.exists():  # what it had measured by then
        before: dict[str, Any] = schema.load(part.path)
        part.rows, part.missing = before['rows'], before['missing']
        part.settings, part.seconds_before = before['settings'], before['seconds']
    part.miss({'part': name}, 'all', why)


def is_complete(name: str, args: argparse.Namespace, out: Path) -> bool:
    path = out / f'{name}-{args.device}.json'
    if not path.exists():
        return False
    value = schema.load(path)
    return value['complete'] and not any('the time of' in m['why'] for m in value['missing'])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description='Run the benchmarks.',
        epilog=f'Parts: {", ".join(PARTS)}.',
    )
    add_arguments(parser)
    parser.add_argument('--only', help='parts, separated by commas (default: all)')
    parser.add_argument(
        '--limit', type=float, help='wall seconds for all, e.g. where a GPU is lent for so long'
    )
    args = parser.parse_args(argv)
    if args.limit is not None and not args.limit > 0:
        parser.error(f'--limit: must be positive (got {args.limit:g})')
    names = args.only.split(',') if args.only else list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"--only: there is no part '{unknown[0]}'; parts are {', '.join(PARTS)}")
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device; use '--device cpu'")
    names = [name for name in names if getattr(PARTS[name], form_of(args)) > 0]
    if len(names) == 0:
        parser.error(f"--only: of '{args.only}' there is nothing to measure on {args.device}")
    out = args.out or (Path('runs/bench') if args.short else RESULTS)
    out = out.resolve()
    is_bounded = args.device == 'cuda' or not args.full
    limit = args.limit or (LIMITS[form_of(args)] if is_bounded else float('inf'))
    end = time.monotonic() + limit
    if args.resume:
        complete = [name for name in names if is_complete(name, args, out)]
        names = [name for name in names if name not in complete]
        print(f'complete: {", ".join(complete) or "nothing"}', flush=True)
    share = share_of_time(names, form_of(args), args.limit) if names else 1.0
    failed = []
    for name in names:
        path, left = out / f'{name}-{args.device}.json', end - time.monotonic()
        why: str | None = 'left out: the time of the suite was over'
        if budget(name, args, left, share)[0] >= MIN_SECONDS:
            if not args.resume:
                path.unlink(missing_ok=True)
            why = run_part(name, args, out, left, share)
        elif path.exists():  # what was measured before stays
            print(f'[{name}] {why}', flush=True)
            failed.append(name)
            continue
        if why is not None:
            print(f'[{name}] {why}', flush=True)
            note(name, args, out, why)
            failed.append(name)
    try:
        from benchmarks import plot

        plot.write(out)
    except ImportError as e:
        print(f"no plots: {e}; pip install '.[report]'")
    tables.write(out)
    if failed:
        print(f'not complete: {", ".join(failed)}', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
