"""Thousands of spoiled files for every reader, and what became of them.

python tests/fuzz/run.py --examples 1000
python tests/fuzz/run.py --examples 5000 --readers 'ids;checkpoint' --json counts.json
"""

import argparse
import datetime
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from battery import MEMORY, missing, run  # noqa: E402
from reader import PATIENCE  # noqa: E402
from readers import READERS  # noqa: E402

from benchmarks import schema  # noqa: E402
from mrdib_pyg.files import write_atomic  # noqa: E402
from mrdib_pyg.training._run import provenance  # noqa: E402

#: Packages that read files, or make the inputs.
PACKAGES = ('hypothesis', 'pandas', 'pyarrow', 'safetensors', 'faiss-cpu')


def show(row: dict[str, Any]) -> None:
    wrong = sum(row['undocumented'].values()) + row['hangs']
    print(
        f'{row["reader"]:28} {row["inputs"]:7} tried, {row["loaded"]:6} loaded, '
        f'{sum(row["refused"].values()):6} refused, {wrong:4} wrong '
        f'({row["seconds"]:.0f} s, {row["peak_mib"]:.0f} MiB) {row["undocumented"] or ""}',
        flush=True,
    )


def describe(rows: list[dict[str, Any]], args: argparse.Namespace, complete: bool) -> dict:
    found = provenance()
    for name in PACKAGES:
        try:
            found['versions'][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        'benchmark': 'fuzz',
        'command': f'python tests/fuzz/run.py --examples {args.examples} --seed {args.seed}',
        'date': datetime.date.today().isoformat(),
        'complete': complete,
        'seed': args.seed,
        'examples': args.examples,
        'memory_mib': args.memory,
        'patience_seconds': PATIENCE,
        'total': {
            'readers': len(rows),
            'inputs': sum(row['inputs'] for row in rows),
            'loaded': sum(row['loaded'] for row in rows),
            'refused': sum(sum(row['refused'].values()) for row in rows),
            'undocumented': sum(sum(row['undocumented'].values()) for row in rows),
            'hangs': sum(row['hangs'] for row in rows),
        },
        'readers': rows,
        **found,
    }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--examples', type=int, default=1000, help='for each reader')
    parser.add_argument('--readers', help='names, separated by semicolons (all)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--memory', type=int, default=MEMORY, help='MiB that a spoiled file may take'
    )
    parser.add_argument(
        '--json', type=Path,
        help='where the counts are written; those of other readers in it stay',
    )  # fmt: skip
    args = parser.parse_args(argv)
    args.readers = args.readers.split(';') if args.readers else list(READERS)
    for name in args.readers:
        if name not in READERS:
            parser.error(f'there is no reader {name!r}; there are {list(READERS)}')
    return args


def settings(args: argparse.Namespace) -> tuple[int, int, int]:
    return args.examples, args.seed, args.memory


def _others(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The counts of other readers that a file has already, by the same settings."""
    if args.json is None or not args.json.exists():
        return []
    value = schema.load(args.json)
    if (value['examples'], value['seed'], value['memory_mib']) != settings(args):
        return []
    return [row for row in value['readers'] if row['reader'] in READERS]


def main() -> int:
    args = parse()
    ready = [name for name in args.readers if not missing(name)]
    for name in args.readers:
        if name not in ready:
            print(f'{name:28} needs {", ".join(missing(name))}')
    found = {row['reader']: row for row in _others(args)}
    found |= {row['reader']: row for row in run(ready, *settings(args), show)}
    rows = [found[name] for name in READERS if name in found]
    value = describe(rows, args, complete=len(rows) == len(READERS))
    print(json.dumps(value['total']))
    if args.json is not None:
        schema.validate(value)
        write_atomic(args.json, (json.dumps(value, indent=1) + '\n').encode())
    return 1 if value['total']['undocumented'] or value['total']['hangs'] else 0


if __name__ == '__main__':
    sys.exit(main())
