r"""One part of the suite: its options, its clock, and the JSON file it writes after every case."""

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import schema
from benchmarks.machine import describe_machine
from benchmarks.roofline import roofline
from benchmarks.timer import Timing, describe, make_clock, time_rivals
from mrdib_pyg.files import write_atomic
from mrdib_pyg.training._freed_memory import keep_freed_memory

RESULTS = Path(__file__).parent / 'results'
#: Wall seconds that one case may take: on CPU in full, in the short form, and on CUDA.
CASE_SECONDS = {'full': 15.0, 'short': 4.0, 'cuda': 4.0}

Rivals = Mapping[str, Callable[[], Any]]
Case = dict[str, Any]


class Part:
    r"""Collects the rows of a part and keeps its file up to date.

    Args:
        name (str): The name of the part; the file is ``<name>-<device>.json``.
        device (str): ``'cpu'`` or ``'cuda'``.
        short (bool): Whether sizes and runs are those of the short form.
        full (bool): Whether sizes that take very long are included.
        out (Path): The folder of the file.
        data (Path, optional): The folder of real data sets.
        seconds (float, optional): Wall seconds for the whole part: cases that would begin later
            are noted as missing.
        smallest (bool): Whether to run the smallest sizes once, to see that everything works.
        sizes (List[int], optional): Numbers of edges that are asked for, where a part varies them.
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
        seconds: float = float('inf'),
        smallest: bool = False,
        sizes: list[int] | None = None,
        resume: bool = False,
    ) -> None:
        self.name, self.device, self.short, self.full = name, device, short or smallest, full
        self.smallest, self.sizes = smallest, sizes
        self.path = out / f'{name}-{device}.json'
        self.data = data
        self.begin = time.monotonic()
        self.end = self.begin + seconds
        self.rows: list[dict[str, Any]] = []
        self.missing: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.is_late = False  # whether something was left out for want of time
        self.command: str | None = None  # where it is none of the parts of `benchmarks.run`
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
            self.rows, self.seconds_before = before['rows'], before['seconds']
            self.settings.update(before['settings'])

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
            settings.setdefault('min_seconds', 0.1)
            settings.setdefault('max_runs', 30)
        elif self.device == 'cuda':  # where times are steady, and a round takes longer than they
            settings = {**settings, 'min_seconds': 0.05, 'max_runs': 40}
        if self.smallest:
            settings.update(min_runs=1, max_runs=1, warmup=1)
        timings, errors = time_rivals(rivals, self._clock, **settings)
        for name, why in errors.items():
            self.missing.append({'case': case, 'method': name, 'why': why})
        for name, timing in timings.items():
            self.add(
                case, name, roles.get(name, 'rival'), time=timing, **((extra or {}).get(name, {}))
            )
        shown = ', '.join(f'{n} {1e3 * t.median:.3g} ms' for n, t in timings.items())
        failed = ', '.join(f'{name}: {why}' for name, why in errors.items())
        self.log(f'{_label(case)}: {shown}{"; failed: " + failed if failed else ""}')
        self.write()
        return timings

    def add_rooflines(
        self, case: Case, num_bytes: tuple[int, int], bandwidth: float, *methods: str
    ) -> None:
        r"""Adds to the rows of a case (or of some of its methods) the bytes, requested and
        compulsory, and their share of the bandwidth of a copy.
        """
        for row in self.rows:
            if row['case'] == case and 'time' in row and (not methods or row['method'] in methods):
                entry = roofline(*num_bytes, row['time']['median'], bandwidth)
                row['roofline'] = _rounded(entry)
        self.write()

    def attempt(self, case: Case, fn: Callable[[], Any]) -> None:
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
    if root is None or not (root / name).is_dir():
        return None
    return root / name


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


def main(name: str, measure: Callable[[Part], None]) -> None:
    r"""The command line of a part."""
    parser = argparse.ArgumentParser(description=f'Benchmark: {name}.')
    add_arguments(parser)
    parser.add_argument('--seconds', type=float, default=float('inf'), help='for the whole part')
    parser.add_argument('--smallest', action='store_true', help='one run of the smallest sizes')
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # else who comes after a rival that freed much has pages to map
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no CUDA device; use '--device cpu'")
    out = args.out or (Path('runs/bench') if args.short or args.smallest else RESULTS)
    part = Part(
        name,
        device=args.device,
        short=args.short,
        full=args.full,
        out=out,
        data=args.data,
        seconds=args.seconds,
        smallest=args.smallest,
        sizes=args.sizes,
        resume=args.resume,
    )
    try:
        measure(part)
    except Exception as e:
        part.miss({'part': name}, 'all', describe(e))
        raise
    part.write(complete=not part.is_late)
    part.log(f'{len(part.rows)} rows, {len(part.missing)} missing: {part.path}')
    sys.stdout.flush()


def _rounded(value: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float(f'{x:.6g}') if isinstance(x, float) else x for k, x in value.items()}


def _label(case: Case) -> str:
    return ' '.join(str(value) for value in case.values())
