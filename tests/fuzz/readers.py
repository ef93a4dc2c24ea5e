"""Every reader of files, with a good file to start from: of data here, of runs in a file of
their own.
"""

import contextlib
import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'datasets'))

from raw_files import features, item_id, meta_line, record  # noqa: E402
from reader import Reader  # noqa: E402
from run_readers import RUN_READERS  # noqa: E402
from spoil import inside_gzip, inside_json, inside_safetensors, inside_zip  # noqa: E402

from mrdib_pyg.commands.arguments import read_id_file  # noqa: E402
from mrdib_pyg.datasets import IdMap, InteractionFolder, prepare_amazon, prepare_table
from mrdib_pyg.datasets.amazon import parse_literal  # noqa: E402
from mrdib_pyg.datasets.prepare_report import PrepareReport

ROWS = [('ann', '0', 4, 30), ('bob', '1', 5, 10), ('ann', '2', 3, 20), ('bob', '0', 1, 40)]
FRAME = pd.DataFrame(ROWS, columns=['user', 'item', 'stars', 'at'])
NAMES = {'user': 'user', 'item': 'item'}


def make_folder(folder):
    rows = ''.join(f'{u}\t{i}\t{4.5}\t{x}\n' for u, i, x in ((0, 0, 0), (1, 1, 0), (0, 2, 1)))
    (folder / 't.inter').write_text('userID\titemID\trating\tx_label\n' + rows)
    np.save(folder / 'image_feat.npy', np.arange(6, dtype='f2').reshape(3, 2))
    np.save(folder / 'image_mask.npy', np.array([True, False, True]))


def make_ids(folder):
    IdMap(['ann', 'b,"ob', 'c\nid']).save(folder, 'user')


def make_csv(folder):
    FRAME.to_csv(folder / 't.csv', index=False)


def make_features(folder):
    make_csv(folder)
    x = {str(row): np.arange(2, dtype='f4') + row for row in range(3)}
    np.save(folder / 'f.npy', np.stack(list(x.values())))
    np.savez(folder / 'f.npz', **x)
    with contextlib.suppress(ImportError):
        from safetensors.numpy import save_file

        save_file(x, folder / 'f.safetensors')


def make_amazon(folder):
    lines = [f'A{u},{item_id(i)},5.0,{u + i}' for u in range(3) for i in range(2)]
    (folder / 'ratings_Mini.csv').write_text('\n'.join(lines) + '\n')
    meta = [meta_line(item_id(i), 'A "toy"', categories=[['Toys']], price=1.5) for i in range(2)]
    (folder / 'meta_Mini.json.gz').write_bytes(gzip.compress('\n'.join(meta).encode(), mtime=0))
    content = b''.join(record(item_id(i), features(i)) for i in range(2))
    (folder / 'image_features_Mini.b').write_bytes(content)


def make_report(folder):
    prepare_table(FRAME, folder / 'made', **NAMES)
    (folder / 'report.json').write_bytes((folder / 'made' / 'report.json').read_bytes())


def read_table(name, **kwargs):
    settings = {**NAMES, 'rating': 'stars', 'time': 'at', **kwargs}
    return lambda folder: prepare_table(folder / name, folder / 'out', **settings)


def read_features(name):
    return lambda folder: prepare_table(
        folder / 't.csv', folder / 'out', **NAMES, features={'a': folder / name}
    )


def read_in_order(folder):
    prepare_table(
        folder / 't.csv', folder / 'out', **NAMES, features={'a': folder / 'f.npy'},
        item_order=folder / 'order.txt',
    )  # fmt: skip


def read_items(name):
    return lambda folder: prepare_table(
        folder / 't.csv', folder / 'out', **NAMES, items=folder / name, item_id='sku',
        text=['title', 'brand'], text_encoder=lambda texts: np.ones((len(texts), 1)),
    )  # fmt: skip


def make_order(folder):
    make_features(folder)
    (folder / 'order.txt').write_text('2\n0\n1\n')


ITEMS = pd.DataFrame(
    [('0', 'A "toy", red', 'x'), ('1', 'B\u00e9', None), ('2', 'C', 'y')],
    columns=['sku', 'title', 'brand'],
)


def make_items(folder):
    make_csv(folder)
    ITEMS.to_csv(folder / 'items.csv', index=False)
    with contextlib.suppress(ImportError):
        ITEMS.to_parquet(folder / 'items.parquet')


def make_lines(text):
    return lambda folder: (folder / 'ids.txt').write_text(text, encoding='utf-8')


def read_lines(ids, size):
    return lambda folder: read_id_file('--users', str(folder / 'ids.txt'), ids, size)


def read_amazon(modalities):
    return lambda folder: prepare_amazon(
        folder, 'Mini', folder / 'out', k_core=1, download=False, modalities=modalities,
        text_encoder=lambda texts: np.ones((len(texts), 1)),
    )  # fmt: skip


def read_literal(folder):
    parse_literal((folder / 'l.txt').read_text(encoding='utf-8', errors='replace'))


def make_literal(folder):
    (folder / 'l.txt').write_text(meta_line('B1', 'a \\"b\\" \u00e9', categories=[['A', 'B']]))


READERS = {
    'interaction table': Reader('t.inter', make_folder, InteractionFolder),
    'features .npy': Reader('image_feat.npy', make_folder, InteractionFolder),
    'mask .npy': Reader('image_mask.npy', make_folder, InteractionFolder),
    'ids': Reader('user_ids.csv', make_ids, lambda folder: IdMap.load(folder, 'user')),
    'table .csv': Reader('t.csv', make_csv, read_table('t.csv')),
    'table .csv, no quotes': Reader('t.csv', make_csv, read_table('t.csv', quote=False)),
    'table .csv.gz': Reader(
        't.csv.gz', lambda f: FRAME.to_csv(f / 't.csv.gz', index=False), read_table('t.csv.gz'),
        (inside_gzip,),
    ),
    'table .parquet': Reader(
        't.parquet', lambda f: FRAME.to_parquet(f / 't.parquet'), read_table('t.parquet'),
        needs=('pyarrow',),
    ),
    'table of items .csv': Reader('items.csv', make_items, read_items('items.csv')),
    'table of items .parquet': Reader(
        'items.parquet', make_items, read_items('items.parquet'), needs=('pyarrow',)
    ),
    'item features .npy': Reader('f.npy', make_features, read_features('f.npy')),
    'item features .npz': Reader('f.npz', make_features, read_features('f.npz'), (inside_zip,)),
    'item features .safetensors': Reader(
        'f.safetensors', make_features, read_features('f.safetensors'), (inside_safetensors,),
        needs=('safetensors',),
    ),
    'item order': Reader('order.txt', make_order, read_in_order),
    'Amazon ratings': Reader('ratings_Mini.csv', make_amazon, read_amazon([])),
    'Amazon metadata': Reader(
        'meta_Mini.json.gz', make_amazon, read_amazon(['text']), (inside_gzip,)
    ),
    'Amazon images': Reader('image_features_Mini.b', make_amazon, read_amazon(['image'])),
    'literals': Reader('l.txt', make_literal, read_literal),
    'report of preparation': Reader(
        'report.json', make_report, PrepareReport.load, (inside_json,), tolerant=True
    ),
    'list of indices': Reader('ids.txt', make_lines('3, 1\n0\n'), read_lines(None, 9)),
    'list of ids': Reader(
        'ids.txt', make_lines('ann\nb,"ob\n'), read_lines(IdMap(['ann', 'b,"ob', 'cy']), 3)
    ),
    **RUN_READERS,
}  # fmt: skip

torch.set_num_threads(1)
