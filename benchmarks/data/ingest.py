r"""A table of interactions made into a folder, and read back: time and peak memory, against pandas
on the whole table.

    python -m benchmarks.data.ingest --short

Every call has a process of its own, whose peak resident size is its memory. The table has a text
id of user and item, a rating and a time in each row; items are drawn with a skew. Both sides leave
out ratings below 2, repeated pairs and what is not in the 5-core, number the ids, split by user,
and write a table and the ids.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.run import Part, part_main
from benchmarks.timer import in_process, measure_once

OURS, READ, RIVAL = 'prepare_table', 'InteractionFolder', 'pandas, whole table'
COLUMNS = ('customer', 'sku', 'stars', 'at')
K_CORE, MIN_RATING = 5, 2.0
_BLOCK = 500_000


def measure(part: Part) -> None:
    r"""Measures the part."""
    if part.device != 'cpu':
        part.miss({'task': 'ingest'}, 'all', 'it runs on the CPU')
        return
    part.settings.update(k_core=K_CORE, min_rating=MIN_RATING, split='random', format='csv')
    sizes = part.pick(full=[10_000_000, 1_000_000], short=[100_000], smallest=[3_000])
    for num_rows in sizes:
        part.attempt({'rows': num_rows}, functools.partial(_measure, part, num_rows))


def _measure(part: Part, num_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'table.csv'
        write_table(path, num_rows)
        part.log(f'{num_rows} rows, {path.stat().st_size / 1e6:.0f} MB')
        calls = ((OURS, 'prepare', 'ours'), (READ, 'read', 'ours'), (RIVAL, 'prepare', 'baseline'))
        for method, task, role in calls:
            case: dict[str, Any] = {'rows': num_rows, 'task': task}
            if part.out_of_time(case, method):
                continue
            try:
                if part.short:
                    out = run(method, folder)
                else:
                    out = in_process('benchmarks.data.ingest:run', method, folder)
            except RuntimeError as e:
                part.miss(case, method, str(e)[:300])
                continue
            values = {'interactions': out.pop('interactions')}
            part.add(case, method, role, **out, values=values)
            part.write()
            time, gib = out['time'], out['memory']['peak_bytes'] / 2**30
            part.log(f'{method}: {time.wall:.1f} s ({time.median:.1f} s of CPU), {gib:.2f} GiB')


def run(method: str, folder: str) -> dict[str, Any]:
    r"""One call and its memory, for a process of its own."""
    count: list[int] = []
    work = METHODS[method]
    out = measure_once(lambda: count.append(work(Path(folder) / 'table.csv', Path(folder))))
    return {**out, 'interactions': count[0]}


def write_table(path: Path, num_rows: int) -> None:
    r"""Writes a random table, a block at a time."""
    rng = np.random.default_rng(0)
    with open(path, 'w') as f:
        f.write(','.join(COLUMNS) + '\n')
        for begin in range(0, num_rows, _BLOCK):
            n = min(_BLOCK, num_rows - begin)
            user = rng.integers(0, num_rows // 20, n).tolist()
            item = (rng.random(n) ** 2 * (num_rows // 100)).astype(int).tolist()
            stars = rng.integers(1, 6, n).tolist()
            at = rng.integers(1_000_000_000, 1_400_000_000, n).tolist()
            f.writelines(map('A%012dX,B%09d,%d.0,%d\n'.__mod__, zip(user, item, stars, at)))


def _ours(path: Path, folder: Path) -> int:
    from mrdib_pyg.datasets import prepare_table

    user, item, rating, at = COLUMNS
    report = prepare_table(
        path, folder / 'ours', user=user, item=item, rating=rating, time=at,
        min_rating=MIN_RATING, k_core=K_CORE, name='table',
    )  # fmt: skip
    return report.kept['interactions']


def _read(path: Path, folder: Path) -> int:
    from mrdib_pyg.datasets import InteractionFolder

    data = InteractionFolder(folder / 'ours')[0]
    return sum(index.size(1) for index in data.edge_label_index_dict.values()) + int(
        data['user', 'rates', 'item'].num_edges
    )


def _pandas(path: Path, folder: Path) -> int:
    r"""The usual script: the whole table at once, groups by user, and `to_csv`."""
    import pandas as pd

    user, item, rating, at = COLUMNS
    table = pd.read_csv(path)
    table = table[table[rating] >= MIN_RATING]
    table = table.sort_values(at, kind='stable').drop_duplicates([user, item]).sort_index()
    while True:
        before = len(table)
        for name in (user, item):
            table = table[table.groupby(name)[name].transform('size') >= K_CORE]
        if len(table) == before:
            break
    ids = {}
    for name, column in ((user, 'userID'), (item, 'itemID')):
        table[column], ids[name] = pd.factorize(table[name])
    table = table.sample(frac=1.0, random_state=0)
    rank = table.groupby('userID').cumcount()
    count = table.groupby('userID')['userID'].transform('size')
    held_out = (count // 5).where(count >= 10, 2)
    table['x_label'] = (rank < held_out).astype(int) + (rank < held_out // 2)
    table = table.sort_index()
    out = folder / 'pandas'
    out.mkdir()
    names = ['userID', 'itemID', rating, at, 'x_label']
    table[names].to_csv(out / 'table.inter', sep='\t', index=False)
    for name in (user, item):
        pd.Series(ids[name]).to_csv(out / f'{name}.csv')
    return len(table)


METHODS = {OURS: _ours, READ: _read, RIVAL: _pandas}


if __name__ == '__main__':
    part_main('ingest', measure)
