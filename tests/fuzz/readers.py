"""Every reader of files, with a good file to start from, and the ways to spoil it."""

import contextlib
import gzip
import io
import json
import shutil
import signal
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'datasets'))

from raw_files import features, item_id, meta_line, record  # noqa: E402

from mrdib_pyg.datasets import (  # noqa: E402
    IdMap,
    InteractionFolder,
    Planted,
    PrepareReport,
    prepare_amazon,
    prepare_table,
)
from mrdib_pyg.datasets._literal import parse_literal  # noqa: E402
from mrdib_pyg.nn.models import VBPR  # noqa: E402
from mrdib_pyg.training import load_checkpoint, load_model, save_checkpoint  # noqa: E402

#: What a reader may raise: a missing file, or a file that is not as it is documented.
DOCUMENTED = (ValueError, FileNotFoundError)
#: Seconds after which a reader counts as hanging.
PATIENCE = 60
#: What is put in somewhere: ends of fields and texts, huge numbers, pickles that would run code.
TOKENS = [
    b'\0', b'\xff' * 8, b'\xed\xa0\x80', b'\xef\xbb\xbf', b'"', b"'", b'\\', b'\n', b'\r', b'\t',
    b',', b'-1', b'9' * 11, b'9' * 30, b'1e400', b'nan', b'inf', b'(' * 40, b'[' * 400, b'{', b'}',
    b'-' * 900, b'cos\nsystem\n', b"__import__('os').system('x')", b'\x80\x02cposix\nsystem\n',
    b'PK\x03\x04', b'\x1f\x8b', b'PAR1', b'\x93NUMPY', b'|O', b'<f8', b'>i2', b'True', b'None',
]  # fmt: skip
_PLACE = st.floats(0, 1, exclude_max=True)
#: An edit: what, where, how much, and of what.
EDITS = st.lists(
    st.tuples(
        st.sampled_from(['flip', 'delete', 'repeat', 'insert', 'overwrite', 'cut', 'move']),
        _PLACE,
        st.integers(1, 40),
        st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=4,
)


def spoil(content: bytes, edits: list) -> bytes:
    for kind, place, size, token in edits:
        at = int(place * len(content))
        if kind == 'flip' and content:
            content = content[:at] + bytes([content[at] ^ (1 << size % 8)]) + content[at + 1 :]
        elif kind == 'delete':
            content = content[:at] + content[at + size :]
        elif kind == 'repeat':
            content = content[:at] + content[at : at + size] * 3 + content[at + size :]
        elif kind == 'insert':
            content = content[:at] + token + content[at:]
        elif kind == 'overwrite':
            content = content[:at] + token + content[at + len(token) :]
        elif kind == 'cut':
            content = content[:at] if size % 2 else content[at:]
        elif kind == 'move':
            content = content[at:] + content[:at]
    return content


class Reader(NamedTuple):
    """A reader.

    Args:
        name: Its file in the folder.
        make: Writes good files into a folder.
        read: Reads a folder.
        inside: Spoils what is packed in the file, and packs it again: the checksums are right then.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], object]
    inside: Callable[[bytes, list], bytes] | None = None


def inside_gzip(content, edits):
    return gzip.compress(spoil(gzip.decompress(content), edits), mtime=0)


def inside_zip(content, edits):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = sorted(members)[int(edits[0][1] * len(members))]
    members[name] = spoil(members[name], edits)
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return out.getvalue()


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


_DATA = Planted(num_users=6, num_items=5, num_interactions=5)[0]


def make_checkpoint(folder):
    from mrdib_pyg.datasets import data_hash

    model = VBPR(_DATA, channels=2)
    identity = {'model': 'VBPR', 'config': {'channels': 2}, 'data_hash': data_hash(_DATA)}
    state = {'identity': identity, 'epoch': 1, 'model': model.state_dict()}
    save_checkpoint(folder / 'best.pt', state)


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
        inside_gzip,
    ),
    'table .parquet': Reader(
        't.parquet', lambda f: FRAME.to_parquet(f / 't.parquet'), read_table('t.parquet')
    ),
    'item features .npy': Reader('f.npy', make_features, read_features('f.npy')),
    'item features .npz': Reader('f.npz', make_features, read_features('f.npz'), inside_zip),
    'item features .safetensors': Reader(
        'f.safetensors', make_features, read_features('f.safetensors')
    ),
    'Amazon ratings': Reader('ratings_Mini.csv', make_amazon, read_amazon([])),
    'Amazon metadata': Reader('meta_Mini.json.gz', make_amazon, read_amazon(['text']), inside_gzip),
    'Amazon images': Reader('image_features_Mini.b', make_amazon, read_amazon(['image'])),
    'literals': Reader('l.txt', make_literal, read_literal),
    'report': Reader('report.json', make_report, PrepareReport.load),
    'checkpoint': Reader(
        'best.pt', make_checkpoint, lambda f: load_checkpoint(f / 'best.pt'), inside_zip
    ),
    'model': Reader(
        'best.pt', make_checkpoint, lambda f: load_model(f / 'best.pt', _DATA), inside_zip
    ),
}  # fmt: skip
#: Optional packages that readers need.
NEEDS = {'table .parquet': 'pyarrow', 'item features .safetensors': 'safetensors'}


def attempt(reader: Reader, folder: Path, content: bytes) -> str:
    """Reads spoiled content; returns ``'loaded'`` or ``'refused'``, or raises what it should not
    have raised.
    """
    (folder / reader.name).write_bytes(content)

    def hang(*args):
        raise TimeoutError(f'read for more than {PATIENCE} s')

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            reader.read(folder)
        return 'loaded'
    except DOCUMENTED as e:
        assert str(e) != ''
        return 'refused'
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        shutil.rmtree(folder / 'out', ignore_errors=True)


def as_json(counts: dict) -> str:
    return json.dumps(counts, indent=1)


torch.set_num_threads(1)
