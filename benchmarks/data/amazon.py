r"""The raw files of an Amazon category made into a folder: time, and peak memory, which is not to
grow with what is left out of files of many gigabytes.

    python -m benchmarks.data.amazon --short

The ratings of some items pass the 5-core, those of all others do not; each item has a record of
4,096 numbers, and a line of metadata. What is kept is the same for every size. Every row has a
process of its own; texts are hashed, which needs no model.
"""

import functools
import gzip
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.run import Part, part_main
from benchmarks.targets import extra_bytes
from benchmarks.timer import in_process, measure_once, return_freed_memory

OURS = 'prepare_amazon'
CATEGORY = 'Synthetic'
NUM_FEATURES, PER_ITEM = 4_096, 8
_BLOCK = 1_000
_RECORD = np.dtype([('id', 'S10'), ('x', '<f4', (NUM_FEATURES,))])


def measure(part: Part) -> None:
    r"""Measures the part."""
    if part.device != 'cpu':
        part.miss({'task': 'amazon'}, 'all', 'it runs on the CPU')
        return
    kept = part.pick(10_000, 1_000, 20)
    part.settings.update(k_core=5, items_kept=kept, text_encoder='hashing')
    for factor in part.pick((2, 6, 18), (2, 6), (2, 3)):
        case = {'items': factor * kept, 'kept': kept, 'task': 'prepare'}
        part.attempt(case, functools.partial(_measure, part, case))


def _measure(part: Part, case: dict[str, Any]) -> None:
    if part.out_of_time(case, OURS):
        return
    with tempfile.TemporaryDirectory() as folder:
        size = write_raw_files(Path(folder), case['items'], case['kept'])
        if part.smallest:
            out = run(folder)
        else:
            out = in_process('benchmarks.data.amazon:run', folder)
    values = {'raw_gib': size / 2**30, 'items_kept': out.pop('items')}
    part.add(case, OURS, 'ours', **out, values=values)
    gib = extra_bytes(out) / 2**30
    part.log(f'{size / 2**30:.2f} GiB raw: {out["time"].wall:.1f} s, {gib:.2f} GiB')
    part.write()


def write_raw_files(folder: Path, num_items: int, kept: int) -> int:
    r"""Writes the three files in the published formats, and returns their size."""
    rng = np.random.default_rng(0)
    stride = num_items // kept  # items that are kept lie all over the files
    paths = [
        folder / name.format(CATEGORY)
        for name in ('ratings_{}.csv', 'meta_{}.json.gz', 'image_features_{}.b')
    ]
    with open(paths[0], 'w') as f:
        for item in range(num_items):
            is_kept = item % stride == 0 and item // stride < kept
            for place in range(PER_ITEM if is_kept else 1):
                # Each of the users rates eight of the items that are kept.
                user = (item // stride + place) % kept if is_kept else kept + item
                f.write(f'A{user:012d}X,B{item:09d},5.0,{1_300_000_000 + item}\n')
    with gzip.open(paths[1], 'wt', compresslevel=1) as f:
        for item in range(num_items):
            line = {'asin': f'B{item:09d}', 'title': f'Toy {item}', 'description': 'soft ' * 40}
            f.write(f'{line!r}\n')
    block = np.zeros(_BLOCK, dtype=_RECORD)
    block['x'] = rng.standard_normal((_BLOCK, NUM_FEATURES), dtype=np.float32)
    with open(paths[2], 'wb') as f:
        for begin in range(0, num_items, _BLOCK):
            count = min(_BLOCK, num_items - begin)
            block['id'][:count] = [b'B%09d' % item for item in range(begin, begin + count)]
            f.write(block[:count].tobytes())
    return sum(path.stat().st_size for path in paths)


def run(folder: str) -> dict[str, Any]:
    r"""One call and its memory, for a process of its own."""
    from mrdib_pyg.datasets import prepare_amazon

    return_freed_memory()
    found: list[int] = []

    def work() -> None:
        report = prepare_amazon(
            folder, CATEGORY, Path(folder) / 'out', text_encoder='hashing', download=False
        )
        found.append(report.kept['items'])

    return {**measure_once(work), 'items': found[0]}


if __name__ == '__main__':
    part_main('amazon', measure)
