r"""Runs the suite: each part in a process of its own, on one thread, then tables and plots.

    python -m benchmarks.run --short                     the short form, under five minutes
    python -m benchmarks.run                             everything on CPU, within an hour
    python -m benchmarks.run --only propagation,training some parts, which share the time of all
    python -m benchmarks.run --resume                    the parts that are not complete yet
    python -m benchmarks.run --device cuda               everything on a GPU, within ten minutes

A part writes its file after every case. One that fails, or runs out of its time, costs no other
part anything: what it measured before is in its file already, and what went wrong is noted there.
"""

import argparse
import datetime
import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import schema, tables
from benchmarks.schema import RESULTS
from benchmarks.timer import (
    Call,
    Timing,
    describe,
    describe_machine,
    in_process,
    make_clock,
    time_rivals,
)
from mrdib_pyg.files import write_atomic
from mrdib_pyg.training._freed_memory import keep_freed_memory


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


#: Wall seconds that one case may take: in full, in the short form, and on CUDA.
CASE_SECONDS = {'full': 15.0, 'short': 4.0, 'cuda': 4.0}

Rivals = Mapping[str, Call]
Case = dict[str, Any]


class Part:
    r"""Collects the rows of a part and keeps its file up to date.

    Args:
        name (str): The name of the part; the file is ``<name>-<device>.json``.
        device (str): ``'cpu'`` or ``'cuda'``.
        short, full (bool): Whether sizes and runs are those of the short form, and whether sizes
            that take very long are included.
        out (Path): The folder of the file.
        data (Path, optional): The folder of real data sets.
        seconds (float, optional): Wall seconds for the whole part: cases that would begin later
            are noted as missing.
        smallest (bool): Whether to run the smallest sizes once, to see that everything works.
        sizes (List[int], optional): Numbers of edges, where a part varies them.
        resume (bool): Whether to keep the rows that the file has, and measure what it lacks.
    """

    def __init__(
        self,
        name: str,
        device: str = 'cpu',
        short: bool = False,
        full: bool = False,
        out: Path = RESULTS,
        data: Path | None = None,
        seconds: float = math.inf,
        smallest: bool = False,
        sizes: list[int] | None = None,
        resume: bool = False,
    ) -> None:
        self.name, self.device, self.short, self.full = name, device, short or smallest, full
        self.smallest, self.sizes = smallest, sizes
        self.path, self.data = out / f'{name}-{device}.json', data
        self.begin = time.monotonic()
        self.end = self.begin + seconds
        self.rows: list[dict[str, Any]] = []
        self.missing: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.is_late = False  # whether something was left out for want of time
        self.command: str | None = None  # where it is none of :obj:`PARTS`
        self._clock: Any = None
        self._base = describe_machine(device)
        self.seconds_before = 0.0  # of the calls before
        if resume and self.path.exists():
            before = schema.load(self.path)
            now = {'short': short, **json.loads(json.dumps(self._base))}
            changed = [key for key, value in now.items() if before[key] != value]
            if changed:
                raise SystemExit(
                    f"'{self.path}' was measured with other values of {changed}, which say where "
                    f'all rows come from; measure it anew, without --resume'
                )
            self.take(before)

    def take(self, before: dict[str, Any]) -> None:
        r"""Goes on from what a file has."""
        self.rows, self.settings = before['rows'], before['settings']
        self.seconds_before = before['seconds']

    @property
    def quick(self) -> bool:
        r"""Whether there is little time: in the short form, and on a GPU, which is lent."""
        return self.short or self.device == 'cuda'

    def pick(self, full: Any, short: Any, smallest: Any) -> Any:
        r"""Returns what suits the form of this run."""
        return smallest if self.smallest else short if self.short else full

    def log(self, text: str) -> None:
        print(f'[{self.name} {time.monotonic() - self.begin:6.1f} s] {text}', flush=True)

    def out_of_time(self, case: Case, method: str = 'all') -> bool:
        r"""Whether the time is over; if so, the case is noted as missing."""
        if time.monotonic() < self.end:
            return False
        self.is_late = True
        self.miss(case, method, 'left out: the time of this part was over')
        return True

    def has(self, case: Case, method: str | None = None) -> bool:
        r"""Whether there is a row of the case, and of the method if one is named."""
        return any(row['case'] == case and method in (None, row['method']) for row in self.rows)

    def miss(self, case: Case, method: str, why: str) -> None:
        r"""Notes what could not be measured, and why."""
        self.log(f'{_label(case)} {method}: {why}')
        self.missing.append({'case': case, 'method': method, 'why': why})
        self.write()

    def add(self, case: Case, method: str, role: str, **measured: Any) -> None:
        r"""Adds a row; ``time``, ``memory``, ``roofline`` and ``values`` that are empty or
        :obj:`None` are left out.
        """
        row = {'case': case, 'method': method, 'role': role}
        for key, value in measured.items():
            if isinstance(value, Timing):
                value = value._asdict()
            if value:
                row[key] = _rounded(value)
        self.rows.append(row)

    def time(
        self,
        case: Case,
        rivals: Rivals,
        roles: Mapping[str, str],
        *,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> dict[str, Timing]:
        r"""Times rivals of a case against each other and adds their rows.

        Args:
            case (Dict): What the rivals do, in scalars.
            rivals (Dict[str, Callable]): The calls.
            roles (Dict[str, str]): ``'ours'``, ``'baseline'`` or, by default, ``'rival'``.
            extra (Dict, optional): Further keys of the rows, such as their errors.
            **settings: Arguments of :func:`~benchmarks.timer.time_rivals`.
        """
        if self.has(case) or self.out_of_time(case):
            return {}
        if self._clock is None:
            self._clock = make_clock(self.device)
        form = 'short' if self.short else 'cuda' if self.device == 'cuda' else 'full'
        settings.setdefault('max_seconds', min(CASE_SECONDS[form], self.end - time.monotonic()))
        if self.short:
            settings = {'min_seconds': 0.1, 'max_runs': 30, **settings}
        elif self.device == 'cuda':  # where times are steady, and a round takes longer than they
            settings = {**settings, 'min_seconds': 0.05, 'max_runs': 40}
        if self.smallest:
            settings.update(min_runs=1, max_runs=1, warmup=1)
        timings, errors = time_rivals(rivals, self._clock, **settings)
        for name, why in errors.items():
            self.missing.append({'case': case, 'method': name, 'why': why})
        for name, timing in timings.items():
            more = (extra or {}).get(name, {})
            self.add(case, name, roles.get(name, 'rival'), time=timing, **more)
        shown = ', '.join(f'{n} {1e3 * t.median:.3g} ms' for n, t in timings.items())
        failed = ', '.join(f'{name}: {why}' for name, why in errors.items())
        self.log(f'{_label(case)}: {shown}{"; failed: " + failed if failed else ""}')
        self.write()
        return timings

    def peaks(self, case: Case, roles: Mapping[str, str], target: str, *args: Any) -> None:
        r"""Adds the peak memory of some methods: :obj:`target`, a ``'module:function'``, is called
        with each, the arguments and the device, on CPU in a process of its own.
        """
        module, _, name = target.partition(':')
        for method, role in roles.items():
            if self.has(case, method) or self.out_of_time(case, method):
                continue
            try:
                if self.smallest or self.device == 'cuda':
                    function = getattr(importlib.import_module(module), name)
                    memory = function(method, *args, self.device)
                else:
                    memory = in_process(target, method, *args, self.device)
            except RuntimeError as e:
                self.miss(case, method, str(e)[:300])
                continue
            self.add(case, method, role, memory=memory)
            self.write()

    def add_rooflines(
        self, case: Case, num_bytes: tuple[int, int], bandwidth: float, *methods: str
    ) -> None:
        r"""Adds to the rows of a case (or of some of its methods) how near they come to the memory.

        Args:
            case (Dict): The case.
            num_bytes (Tuple[int, int]): The bytes *requested*, a gathered row as often as it is
                gathered, of which caches may serve a part; and the *compulsory* ones, which must
                move once even with a perfect cache: every input read, every output written.
            bandwidth (float): The bytes per second of a copy.
            *methods (str): The methods. (default: all)
        """
        for row in self.rows:
            if row['case'] == case and 'time' in row and (not methods or row['method'] in methods):
                most = row['time']['median'] * bandwidth
                row['roofline'] = _rounded(
                    {
                        'requested_bytes': num_bytes[0],
                        'compulsory_bytes': num_bytes[1],
                        'copy_bytes_per_second': bandwidth,
                        'requested_share': num_bytes[0] / most,
                        'compulsory_share': num_bytes[1] / most,
                    }
                )
        self.write()

    def attempt(self, case: Case, fn: Call) -> None:
        r"""Runs the code of a case; an error is noted, and the next case goes on."""
        if self.out_of_time(case):
            return
        try:
            fn()
        except Exception as e:
            self.miss(case, 'all', describe(e))
        if self.device == 'cuda':
            torch.cuda.empty_cache()

    def write(self, complete: bool = False) -> None:
        r"""Writes what there is, checked."""
        value = {
            'schema': schema.VERSION,
            'benchmark': self.name,
            'device': self.device,
            'short': self.short,
            'complete': complete,
            'command': self._command(),
            'date': datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            'seconds': round(self.seconds_before + time.monotonic() - self.begin, 1),
            'settings': self.settings,
            'rows': self.rows,
            'missing': self.missing,
            **self._base,
        }
        schema.validate(value)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, dump(value).encode())

    def _command(self) -> str:
        if self.command is not None:
            return self.command + (' --short' if self.short else '')
        flags = ' --short' if self.short else ' --full' if self.full else ''
        flags += f' --sizes {" ".join(map(str, self.sizes))}' if self.sizes else ''
        return f'python -m benchmarks.run --only {self.name} --device {self.device}{flags}'


def dump(value: dict[str, Any]) -> str:
    r"""Returns strict JSON with a line for each key, and for each row."""
    lines = []
    for key, entry in value.items():
        if isinstance(entry, list) and len(entry) > 0:
            inner = ',\n  '.join(json.dumps(row, allow_nan=False) for row in entry)
            lines.append(f' {json.dumps(key)}: [\n  {inner}\n ]')
        else:
            lines.append(f' {json.dumps(key)}: {json.dumps(entry, allow_nan=False)}')
    return '{\n' + ',\n'.join(lines) + '\n}\n'


def find_data(name: str, root: Path | None) -> Path | None:
    r"""Returns the folder of a real data set, if it is there."""
    return None if root is None or not (root / name).is_dir() else root / name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    r"""The options that every part and the whole suite have in common."""
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--short', action='store_true', help='small sizes and few runs')
    parser.add_argument('--full', action='store_true', help='also what takes very long')
    parser.add_argument('--out', type=Path, help='the folder of the JSON files')
    parser.add_argument('--resume', action='store_true', help='keep what has been measured')
    parser.add_argument('--sizes', type=int, nargs='+', help='numbers of edges, for scaling')
    data = os.environ.get('MRDIB_DATA')
    parser.add_argument(
        '--data',
        type=Path,
        default=None if data is None else Path(data),
        help='the folder that holds amazon-baby (default: $MRDIB_DATA)',
    )


def part_main(name: str, measure: Callable[[Part], None]) -> None:
    r"""The command line of a part."""
    parser = argparse.ArgumentParser(description=f'Benchmark: {name}.')
    add_arguments(parser)
    parser.add_argument('--seconds', type=float, default=math.inf, help='for the whole part')
    parser.add_argument('--smallest', action='store_true', help='one run of the smallest sizes')
    args = parser.parse_args()
    check_device(parser, args.device)
    torch.set_num_threads(1)
    keep_freed_memory()  # else who comes after a rival that freed much has pages to map
    args.out = args.out or folder_of(args.short or args.smallest)
    part = Part(name, **vars(args))
    try:
        measure(part)
    except Exception as e:
        part.miss({'part': name}, 'all', describe(e))
        raise
    part.write(complete=not part.is_late)
    part.log(f'{len(part.rows)} rows, {len(part.missing)} missing: {part.path}')


def check_device(parser: argparse.ArgumentParser, device: str) -> None:
    if device == 'cuda' and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device; use '--device cpu'")


def folder_of(short: bool) -> Path:
    return Path('runs/bench') if short else RESULTS


def _rounded(value: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float(f'{x:.6g}') if isinstance(x, float) else x for k, x in value.items()}


def _label(case: Case) -> str:
    return ' '.join(str(value) for value in case.values())


def form_of(args: argparse.Namespace) -> str:
    return 'cuda' if args.device == 'cuda' else 'short' if args.short else 'full'


def budget(
    name: str, args: argparse.Namespace, left: float, share: float = 1.0
) -> tuple[float, float]:
    r"""Returns the seconds in which a part may begin new cases, and after which it is stopped."""
    if args.device == 'cpu' and args.full and args.limit is None:
        return math.inf, math.inf
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
        timeout = None if hard == math.inf else hard
        code = subprocess.run(command, env=env, timeout=timeout).returncode
    except subprocess.TimeoutExpired:
        return f'stopped after {hard:.0f} s'
    return None if code == 0 else f'ended with the exit code {code}'


def note(name: str, args: argparse.Namespace, out: Path, why: str) -> None:
    r"""Notes in the file of a part what became of it."""
    part = Part(name, args.device, args.short, args.full, out)
    if part.path.exists():  # what it had measured by then
        before = schema.load(part.path)
        part.take(before)
        part.missing = before['missing']
    part.miss({'part': name}, 'all', why)


def is_complete(name: str, args: argparse.Namespace, out: Path) -> bool:
    path = out / f'{name}-{args.device}.json'
    if not path.exists():
        return False
    value = schema.load(path)
    return value['complete'] and not any('the time of' in m['why'] for m in value['missing'])


def main(argv: list[str] | None = None) -> int:
    epilog = f'Parts: {", ".join(PARTS)}.'
    parser = argparse.ArgumentParser(description='Run the benchmarks.', epilog=epilog)
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
    check_device(parser, args.device)
    names = [name for name in names if getattr(PARTS[name], form_of(args)) > 0]
    if len(names) == 0:
        parser.error(f"--only: of '{args.only}' there is nothing to measure on {args.device}")
    out = (args.out or folder_of(args.short)).resolve()
    is_bounded = args.device == 'cuda' or not args.full
    limit = args.limit or (LIMITS[form_of(args)] if is_bounded else math.inf)
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
