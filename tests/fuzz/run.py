"""Thousands of spoiled files for every reader, and what became of them.

python tests/fuzz/run.py --examples 5000 --readers ids,checkpoint
"""

import argparse
import collections
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from readers import EDITS, READERS, attempt, spoil  # noqa: E402


def fuzz(name: str, examples: int, start: int) -> dict:
    reader = READERS[name]
    counts: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reader.make(folder)
        content = (folder / reader.name).read_bytes()
        shape = [reader.inside] if reader.inside else []

        @seed(start)
        @settings(
            max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(EDITS, st.sampled_from([spoil, *shape]))
        def run(edits, how):
            try:
                counts[attempt(reader, folder, how(content, edits))] += 1
            except Exception as e:
                counts[f'{type(e).__name__}: {str(e)[:80]}'] += 1
                if counts.total() < 10**6 and sum(counts[k] for k in counts if ':' in k) <= 3:
                    traceback.print_exc()
                    print(f'{name}: {edits} by {how.__name__}', file=sys.stderr)

        run()
    return dict(counts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--examples', type=int, default=2000, help='for each reader')
    parser.add_argument('--readers', help='names, separated by commas (all)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--memory', type=float, default=8.0, help='GiB of addresses a reader has')
    args = parser.parse_args()
    limit = int(args.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    failed = 0
    for name in args.readers.split(',') if args.readers else READERS:
        begin = time.perf_counter()
        counts = fuzz(name, args.examples, args.seed)
        wrong = {what: n for what, n in counts.items() if what not in ('loaded', 'refused')}
        failed += len(wrong)
        print(
            f'{name:28} {sum(counts.values()):7} tried, {counts.get("loaded", 0):6} loaded, '
            f'{counts.get("refused", 0):6} refused, {sum(wrong.values()):4} wrong '
            f'({time.perf_counter() - begin:.0f} s) {wrong or ""}', flush=True,
        )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f'largest memory of the process: {peak:.2f} GiB')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
