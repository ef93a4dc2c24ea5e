"""Gives spoiled files to readers, in processes whose memory is limited, and counts what became of
them.

python tests/fuzz/battery.py '{"readers": ["ids"], "examples": 100, "seed": 0, "memory": 1024}'
"""

import collections
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: MiB that a reader may take on top of what it takes for its good file.
MEMORY = 512
#: Traces that are printed for a reader.
SHOWN = 3
#: Inputs after which the counts are told, in case the process dies.
TELL = 50


def run(
    readers: Sequence[str],
    examples: int,
    seed: int = 0,
    memory: int = MEMORY,
    done: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Fuzzes readers in a process of their own. If that dies, so does not the battery: the death is
    counted, and the readers that are left go on in another one.

    Args:
        readers: The names.
        examples: The number of inputs for each.
        seed: Of the inputs.
        memory: MiB.
        done: Is called with the counts of each.
    """
    out: list[dict[str, Any]] = []
    left = list(readers)
    while left:
        args = {'readers': left, 'examples': examples, 'seed': seed, 'memory': memory}
        row: dict[str, Any] = {}
        with tempfile.TemporaryFile('w+') as errors:
            with subprocess.Popen(
                [sys.executable, __file__, json.dumps(args)],
                stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
            ) as process:  # fmt: skip
                assert process.stdout is not None
                for line in process.stdout:
                    row = json.loads(line)
                    if row.pop('finished'):
                        out.append(row)
                        done(row)
                        row = {}
            errors.seek(0)
            text = errors.read()
        print(text, file=sys.stderr, end='')
        if process.returncode != 0:
            if not row:
                raise RuntimeError(f'the battery does not start: {text}')
            if 'Timeout (' in text:  # of faulthandler
                row['hangs'] += 1
            else:
                row['undocumented'][f'the process ended with {process.returncode}'] = 1
            row['inputs'] += 1
            out.append(row)
            done(row)
        left = left[left.index(out[-1]['reader']) + 1 :]
    return out


def fuzz(name: str, examples: int, start: int, memory: int) -> None:
    """Fuzzes a reader, and prints its counts as JSON from time to time and at the end."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st
    from reader import attempt
    from readers import READERS
    from spoil import EDITS, spoil

    from benchmarks.timer import peak_rss, reset_peak_rss

    reader = READERS[name]
    refused: collections.Counter = collections.Counter()
    wrong: collections.Counter = collections.Counter()
    row: dict[str, Any] = {
        'reader': name, 'file': Path(reader.name).name, 'inputs': 0, 'loaded': 0,
        'refused': refused, 'undocumented': wrong, 'hangs': 0, 'peak_mib': 0.0, 'seconds': 0.0,
        'longest_seconds': 0.0,
    }  # fmt: skip

    def tell(finished: bool) -> None:
        print(json.dumps({**row, 'finished': finished}), flush=True)

    tell(False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reader.make(folder)
        content = (folder / reader.name).read_bytes()
        outcome = attempt(reader, folder, content)
        if outcome.kind != 'loaded':
            raise RuntimeError(f'{name}: the good file is not loaded') from outcome.error
        files = sorted(folder.rglob('*'))
        base = reset_peak_rss()
        _limit_memory(memory)
        begin = time.perf_counter()

        @seed(start)
        @settings(
            max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(EDITS, st.sampled_from([spoil, *reader.inside]))
        def one(edits: list, how: Callable[[bytes, list], bytes]) -> None:
            spoiled = how(content, edits)
            before = time.perf_counter()
            kind, what, error = attempt(reader, folder, spoiled)
            row['longest_seconds'] = max(row['longest_seconds'], time.perf_counter() - before)
            row['inputs'] += 1
            if kind == 'loaded':
                row['loaded'] += 1
            elif kind == 'refused':
                refused[what] += 1
            elif kind == 'hang':
                row['hangs'] += 1
            else:
                wrong[what] += 1
            if kind in ('hang', 'undocumented') and wrong.total() + row['hangs'] <= SHOWN:
                traceback.print_exception(error)
                print(f'{name}: {edits} by {how.__name__}\n', file=sys.stderr, flush=True)
            if row['inputs'] % TELL == 0:
                tell(False)

        one()
        row['seconds'] = round(time.perf_counter() - begin, 2)
        row['longest_seconds'] = round(row['longest_seconds'], 3)
        row['peak_mib'] = round(max(peak_rss() - base, 0) / 2**20, 2)
        if sorted(folder.rglob('*')) != files:
            raise RuntimeError(f'{name}: files are left behind: {sorted(folder.rglob("*"))}')
    tell(True)


def _limit_memory(mib: int) -> None:
    """Limits the addresses of this process, where the system tells how many it has."""
    try:
        pages = int(Path('/proc/self/statm').read_text().split()[0])
    except OSError:
        return
    limit = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def missing(name: str) -> list[str]:
    """The optional packages that a reader needs and that are not installed."""
    from readers import READERS

    out = []
    for package in READERS[name].needs:
        try:
            importlib.import_module(package)
        except ImportError:
            out.append(package)
    return out


def main() -> None:
    import faulthandler

    faulthandler.enable()
    args = json.loads(sys.argv[1])
    for name in args['readers']:
        fuzz(name, args['examples'], args['seed'], args['memory'])


sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
if __name__ == '__main__':
    main()
