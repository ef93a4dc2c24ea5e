import io
import os
import pickle
import stat
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData, InMemoryDataset
from torch_geometric.transforms import BaseTransform

from mrdib_pyg.datasets import InteractionFolder, data_hash, write_folder
from mrdib_pyg.transforms import InteractionSplit

HEADER = 'userID\titemID\tx_label\n'
# Three users, four items; each user has a training interaction.
ROWS = '0\t0\t0\n0\t2\t0\n1\t1\t0\n2\t3\t0\n0\t3\t1\n1\t0\t2\n2\t0\t2\n'
DATA = Path(os.environ.get('MRDIB_DATA', '../shared/data'))


def make(folder, table=HEADER + ROWS, name='toy', **arrays):
    folder.mkdir(exist_ok=True)
    content = table if isinstance(table, bytes) else table.encode()
    (folder / f'{name}.inter').write_bytes(content)
    for key, value in arrays.items():
        np.save(folder / f'{key}.npy', value, allow_pickle=True)
    return folder


def snapshot(folder):
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob('*'))}


def feat(rows=4, columns=3, dtype='f4'):
    return np.arange(rows * columns, dtype=dtype).reshape(rows, columns)


def test_folder_values(tmp_path):
    image, text = feat(4, 3, 'f2'), feat(4, 2, 'f8') - 4.25
    make(tmp_path, image_feat=image, text_feat=text, image_knn=np.zeros((4, 10)))
    before = snapshot(tmp_path)
    dataset = InteractionFolder(tmp_path)
    assert isinstance(dataset, InMemoryDataset)
    assert len(dataset) == 1 and str(dataset) == 'InteractionFolder(toy)'
    data = dataset[0]
    assert isinstance(data, HeteroData) and data.validate()
    assert data.name == dataset.name == 'toy'
    assert data['user'].num_nodes == 3 and data['item'].num_nodes == 4
    assert data['item'].x_image.dtype == data['item'].x_text.dtype == torch.float32
    assert data['item'].x_image.tolist() == image.tolist()
    assert data['item'].x_text.tolist() == text.tolist()
    assert [k for k in data['item'] if k.startswith(('x_', 'has_'))] == ['x_image', 'x_text']
    assert data['user', 'rates', 'item'].edge_index.tolist() == [[0, 0, 1, 2], [0, 2, 1, 3]]
    assert data['user', 'val', 'item'].edge_label_index.tolist() == [[0], [3]]
    assert data['user', 'test', 'item'].edge_label_index.tolist() == [[1, 2], [0, 0]]
    assert data['user', 'rates', 'item'].edge_index.dtype == torch.long
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    'table',
    [
        # Order of columns and rows, other columns, line ends, a byte order mark, no last line end.
        'x_label\titemID\tuserID\n' + ''.join('\t'.join(r.split()[::-1]) + '\n' for r in
                                              ROWS.splitlines()[::-1]),
        'userID\titemID\trating\ttimestamp\tx_label\n'
        + ''.join('{}\t{}\t4.5\t1.3e9\t{}\n'.format(*r.split()) for r in ROWS.splitlines()),
        'userID\titemID\tx_label\ttitle\n'
        + ''.join(f'{r}\tçé "x#\n' for r in ROWS.splitlines()),
        'userID\titemID\tx_label\trating\n' + ''.join(f'{r}\t\n' for r in ROWS.splitlines()),
        (HEADER + ROWS).replace('\n', '\r\n'),
        '\ufeff' + HEADER + ROWS,
        (HEADER + ROWS).rstrip('\n'),
        (HEADER + ROWS).replace('\n', '\n\n'),
    ],
    ids=['order', 'mmrec', 'text', 'empty', 'crlf', 'bom', 'last', 'blank'],
)  # fmt: skip
def test_folder_equivalent_tables(tmp_path, table):
    reference = InteractionFolder(make(tmp_path / 'a'))[0]
    data = InteractionFolder(make(tmp_path / 'b', table))[0]
    for store, other in zip(reference.edge_stores, data.edge_stores):
        for key, value in store.items():
            assert torch.equal(value, other[key])
    assert data_hash(data) == data_hash(reference)


def test_folder_against_naive_reader(tmp_path):
    generator = np.random.default_rng(0)
    rows = np.stack([generator.integers(0, n, 500) for n in (20, 30, 3)], axis=1)
    rows[:20] = np.stack([np.arange(20), np.arange(20), np.zeros(20)], axis=1)
    table = HEADER + ''.join(f'{u}\t{i}\t{x}\n' for u, i, x in rows)
    with pytest.warns(UserWarning):
        data = InteractionFolder(make(tmp_path, table, image_feat=feat(40)))[0]
    assert data['user'].num_nodes == 20 and data['item'].num_nodes == 40
    for label, store in enumerate(data.edge_stores):
        pairs = sorted({(u, i) for u, i, x in rows.tolist() if x == label})
        index = store['edge_index' if label == 0 else 'edge_label_index']
        assert index.t().tolist() == [list(pair) for pair in pairs]


def test_folder_without_modalities_and_held_out(tmp_path):
    data = InteractionFolder(make(tmp_path, HEADER + '0\t5\t0\n'))[0]
    assert data['item'].num_nodes == 6
    assert data['user', 'val', 'item'].edge_label_index.size() == (2, 0)


def test_folder_modalities(tmp_path):
    make(tmp_path, a_feat=feat(4, 1) + 1, b_feat=feat(4, 2), c_feat=feat(4, 3))
    data = InteractionFolder(tmp_path, modalities=['c', 'a'])[0]
    assert [key for key in data['item'] if key.startswith('x_')] == ['x_c', 'x_a']
    make(tmp_path, b_feat=feat(4, 0))  # what is not asked for is not read
    InteractionFolder(tmp_path, modalities=['c'])


def test_folder_mask(tmp_path):
    x = feat(4, 3)
    x[1, 2] = np.nan  # in an item that lacks the modality anyway
    make(tmp_path, image_feat=x, image_mask=np.array([True, False, True, True]))
    with pytest.warns(UserWarning, match=r"toy\.inter': 1 of 4 items lack the modality 'image'"):
        data = InteractionFolder(tmp_path)[0]
    assert data['item'].has_image.tolist() == [True, False, True, True]
    assert data['item'].x_image.tolist() == [[0, 1, 2], [0, 0, 0], [6, 7, 8], [9, 10, 11]]


def test_folder_zero_rows_are_missing(tmp_path):
    x = np.array([[0, 1], [0, 0], [-0.0, 0], [1, 0]])
    make(tmp_path, image_feat=x, text_feat=feat() + 1)
    with pytest.warns(
        UserWarning, match=r"2 of 4 items lack the modality 'image'.*zeros"
    ) as record:
        item = InteractionFolder(tmp_path)[0]['item']
    assert len(record) == 1
    assert item.has_image.tolist() == [True, False, False, True] and 'has_text' not in item
    assert item.x_image.tolist() == x.tolist()
    # A mask says otherwise.
    make(tmp_path, image_feat=x, image_mask=np.ones(4, bool))
    assert InteractionFolder(tmp_path)[0]['item'].has_image.all()


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        ('0\t0\t0\n0\t0\t0\n', r'dropped 2 repeated pair\(s\) of the train split'),
        ('1\t0\t2\n', r'dropped 1 repeated pair\(s\) of the test split'),
        ('0\t0\t1\n1\t1\t1\n', r'kept 2 pair\(s\) that are in both the train and val splits'),
        ('0\t3\t2\n', r'kept 1 pair\(s\) that are in both the val and test splits'),
        ('5\t0\t1\n', r'3 of 6 users have no training interaction'),
    ],
)
def test_folder_counted_warnings(tmp_path, extra, message):
    make(tmp_path, HEADER + ROWS + extra)
    with pytest.warns(UserWarning, match=message) as record:
        data = InteractionFolder(tmp_path)[0]
    assert len(record) == 1 and 'toy.inter' in str(record[0].message)
    index = data['user', 'rates', 'item'].edge_index
    assert index.tolist() == [[0, 0, 1, 2], [0, 2, 1, 3]]


def npy(array, cut=None):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()[:cut]


def with_file(name, content):
    return lambda folder: (make(folder) / name).write_bytes(content)


def with_table(table):
    return lambda folder: make(folder, table)


def with_features(*arrays):
    names = ('image_feat', 'text_feat', 'zz_feat')
    return lambda folder: make(folder, **dict(zip(names, arrays)))


def value(x, dtype='f8'):
    array = np.zeros((4, 2), dtype)
    array[2, 1] = x
    return array


def two_tables(folder):
    make(folder)
    make(folder, name='other')


REFUSED = {
    'no_folder': (lambda f: None, FileNotFoundError, 'is not a folder'),
    'file_for_folder': (lambda f: f.write_text('x'), FileNotFoundError, 'is not a folder'),
    'no_table': (lambda f: f.mkdir(), FileNotFoundError, "no '*.inter'"),
    'two_tables': (two_tables, ValueError, 'other.inter, toy.inter'),
    'empty_table': (with_table(''), ValueError, "toy.inter' is empty"),
    'blank_first_line': (with_table('\n' + HEADER + ROWS), ValueError, 'empty line'),
    'header_only': (with_table(HEADER), ValueError, 'no interactions'),
    'header_and_blanks': (with_table(HEADER + '\n \n'), ValueError, 'no interactions'),
    'header_missing': (with_table(ROWS), ValueError, 'lacks the column'),
    'column_missing': (with_table('userID\titemID\n0\t0\n'), ValueError, "['x_label']"),
    'column_renamed': (with_table('user\titemID\tx_label\n0\t0\t0\n'), ValueError, "['userID']"),
    'recbole': (with_table('user_id:token\titem_id:token\n1\t2\n'), ValueError, 'RecBole'),
    'column_twice': (with_table('userID\titemID\tx_label\tuserID\n0\t0\t0\t0\n'), ValueError,
                     'twice'),
    'commas': (with_table((HEADER + ROWS).replace('\t', ',')), ValueError, 'tab separated'),
    'garbage': (with_table(b'\xff\xfe\x00\x81' * 50), ValueError, 'UTF-8'),
    'garbage_below': (with_table(HEADER.encode() + b'0\t0\t0\n\xff\xfe\t0\t0\n'), ValueError,
                      'line 3'),
    'binary_header': (with_table(npy(feat())), ValueError, 'UTF-8'),
    'user_negative': (with_table(HEADER + '0\t0\t0\n-1\t0\t0\n'), ValueError, 'userID is -1'),
    'item_negative': (with_table(HEADER + '0\t0\t0\n\n0\t-2\t0\n'), ValueError,
                      "line 4 of '{}/toy.inter': itemID is -2"),
    'user_not_integer': (with_table(HEADER + '0.5\t0\t0\n'), ValueError, "userID is '0.5'"),
    'user_float': (with_table(HEADER + '0\t0\t0\n1.0\t0\t0\n'), ValueError, "userID is '1.0'"),
    'item_name': (with_table(HEADER + '0\tB00X\t0\n'), ValueError, "itemID is 'B00X'"),
    'item_empty': (with_table(HEADER + '0\t\t0\n'), ValueError, "itemID is ''"),
    'item_nan': (with_table(HEADER + '0\tnan\t0\n'), ValueError, "itemID is 'nan'"),
    'id_overflow': (with_table(HEADER + '0\t99999999999999999999\t0\n'), ValueError, '64 bits'),
    'user_giant': (with_table(HEADER + '4000000000\t0\t0\n'), ValueError, 'renumber'),
    'item_giant': (with_table(HEADER + f'0\t{2**63 - 1}\t0\n'), ValueError, 'renumber'),
    'label_3': (with_table(HEADER + ROWS + '0\t1\t3\n'), ValueError, 'x_label is 3'),
    'label_negative': (with_table(HEADER + '0\t1\t-1\n'), ValueError, 'x_label is -1'),
    'label_empty': (with_table(HEADER + '0\t1\t\n'), ValueError, "x_label is ''"),
    'label_word': (with_table(HEADER + '0\t1\ttrain\n'), ValueError, "x_label is 'train'"),
    'no_train': (with_table(HEADER + '0\t1\t1\n1\t0\t2\n'), ValueError, 'no training'),
    'line_short': (with_table(HEADER + '0\t1\t0\n1\t1\n'), ValueError, 'line 3'),
    'line_long': (with_table(HEADER + '0\t1\t0\n1\t1\t0\t7\n'), ValueError, '4 field(s)'),
    'line_torn': (with_table(HEADER + '0\t1\t0\n1\t'), ValueError, 'line 3'),
    'npy_empty': (with_file('image_feat.npy', b''), ValueError, 'image_feat.npy'),
    'npy_torn_magic': (with_file('image_feat.npy', npy(feat(), 5)), ValueError, 'complete'),
    'npy_torn_header': (with_file('image_feat.npy', npy(feat(), 60)), ValueError, 'complete'),
    'npy_torn_rows': (with_file('image_feat.npy', npy(feat(), -1)), ValueError, 'complete'),
    'npy_bad_header': (with_file('image_feat.npy', npy(feat()).replace(b'descr', b'd(scr')),
                       ValueError, 'complete'),
    'npy_text': (with_file('image_feat.npy', b'1 2 3\n'), ValueError, 'complete'),
    'npy_object': (with_features(np.array([[None]] * 4)), ValueError, 'image_feat.npy'),
    'npy_strings': (with_features(np.array([['a']] * 4)), ValueError, 'real numbers'),
    'npy_complex': (with_features(value(1, 'c8')), ValueError, 'real numbers'),
    'npy_structured': (with_features(np.zeros(4, [('a', 'f4')])), ValueError, 'real numbers'),
    'feat_nan': (with_features(value(np.nan)), ValueError, 'first is row 2'),
    'feat_inf': (with_features(value(np.inf, 'f2')), ValueError, '1 row(s)'),
    'feat_minus_inf': (with_features(feat(), value(-np.inf)), ValueError, 'text_feat.npy'),
    'feat_beyond_float32': (with_features(value(1e300)), ValueError, 'too large'),
    'feat_rank_1': (with_features(np.zeros(4)), ValueError, '[4]'),
    'feat_rank_0': (with_features(np.float32(1)), ValueError, '[]'),
    'feat_rank_3': (with_features(np.zeros((4, 2, 2))), ValueError, '[4, 2, 2]'),
    'feat_no_columns': (with_features(np.zeros((4, 0))), ValueError, 'no columns'),
    'feat_no_rows': (with_features(np.zeros((0, 3))), ValueError, 'has 0 rows'),
    'feat_few_rows': (with_features(feat(3)), ValueError, 'has 3 rows'),
    'feat_disagree': (with_features(feat(4), feat(5)), ValueError, "'{}/image_feat.npy' has 4"),
    'feat_disagree_less': (with_features(feat(5), feat(4)), ValueError, 'text_feat.npy'),
    'mask_alone': (with_file('image_mask.npy', npy(np.ones(4, bool))), ValueError,
                   "no 'image_feat.npy'"),
    'mask_rows': (lambda f: make(f, image_feat=feat(), image_mask=np.ones(3, bool)), ValueError,
                  'image_mask.npy'),
    'mask_dtype': (lambda f: make(f, image_feat=feat(), image_mask=np.ones(4)), ValueError,
                   'float64'),
    'modality_name': (lambda f: make(f, **{'a.b_feat': feat()}), ValueError, "'a.b'"),
    'modality_no_name': (lambda f: make(f, _feat=feat()), ValueError, 'rename'),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_folder_refused(tmp_path, case):
    build, error, message = REFUSED[case]
    folder = tmp_path / 'data'
    build(folder)
    before = snapshot(tmp_path)
    with pytest.raises(error) as info:
        InteractionFolder(folder, cache_dir=tmp_path / 'cache')
    assert type(info.value) is error
    assert message.format(folder) in str(info.value)
    assert str(folder) in str(info.value)
    assert snapshot(tmp_path) == before


def test_folder_refused_npz(tmp_path):
    make(tmp_path)
    with open(tmp_path / 'image_feat.npy', 'wb') as f:
        np.savez(f, feat())
    with pytest.raises(ValueError, match='npz archive'):
        InteractionFolder(tmp_path)


def test_folder_refused_modality(tmp_path):
    make(tmp_path, image_feat=feat())
    with pytest.raises(FileNotFoundError, match=r"'audio_feat.npy'.*'image'"):
        InteractionFolder(tmp_path, modalities=['audio'])


def special(kind, path):
    """Puts something in the place of a file that is none."""
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'socket':
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    else:
        path.symlink_to('nowhere')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs named pipes')
@pytest.mark.parametrize('kind', ['pipe', 'folder', 'socket', 'device', 'link'])
@pytest.mark.parametrize('name', ['toy.inter', 'image_feat.npy', 'image_mask.npy'])
def test_folder_refuses_what_is_no_file(tmp_path, kind, name):
    make(tmp_path, image_feat=feat(), image_mask=np.ones(4, bool))
    (tmp_path / name).unlink()
    special(kind, tmp_path / name)
    with pytest.raises(FileNotFoundError if kind == 'link' else ValueError) as info:
        InteractionFolder(tmp_path)
    assert f"'{tmp_path / name}' " in str(info.value)
    assert ("'nowhere'" if kind == 'link' else kind) in str(info.value)


def test_folder_names_paths_without_what_a_terminal_obeys(tmp_path):
    folder = tmp_path / 'a\x1b[2Jb\n\u202e'
    for build in (lambda: None, lambda: make(folder, HEADER), lambda: make(folder, 'x')):
        build()
        with pytest.raises((ValueError, FileNotFoundError)) as info:
            InteractionFolder(folder)
        assert str(info.value).isprintable() and r'a\x1b[2Jb\n\u202e' in str(info.value)
    make(folder, HEADER + ROWS + '0\t0\t0\n')
    with pytest.warns(UserWarning, match='repeated') as record:
        InteractionFolder(folder)
    assert str(record[0].message).isprintable()


def test_folder_refuses_lengths_that_no_array_has(tmp_path):
    for shape in ('(-4, 3)', '(-1, -12)', '(4, -3)', '(9223372036854775807, 3)', '(10**9, 3)'):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + '\n'
        content = b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header.encode()
        with_file('image_feat.npy', content + bytes(48))(tmp_path)
        with pytest.raises(ValueError, match=r"image_feat\.npy' is not a complete"):
            InteractionFolder(tmp_path)


def test_folder_never_unpickles(tmp_path):
    bomb = Bomb(tmp_path / 'exploded')
    make(tmp_path, image_feat=np.array([[bomb]] * 4, dtype=object))
    with pytest.raises(ValueError, match='image_feat.npy'):
        InteractionFolder(tmp_path)
    assert not (tmp_path / 'exploded').exists()


class Counting:
    """A transform that counts its calls and prints as what it does."""

    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self, data):
        self.calls += 1
        data.value = self.value
        return data

    def __repr__(self):
        return f'Counting({self.value})'


def test_folder_transforms(tmp_path):
    pre, transform = Counting(1), Counting(2)
    dataset = InteractionFolder(make(tmp_path), transform, pre)
    assert (pre.calls, transform.calls) == (1, 0)
    assert dataset[0].value == 2 and dataset[0].value == 2
    assert (pre.calls, transform.calls) == (1, 2)
    assert dataset._data.value == 1  # a transform sees a copy


def test_folder_cache(tmp_path):
    folder, cache = make(tmp_path / 'data', image_feat=feat()), tmp_path / 'a' / 'cache'
    one = Counting(1)
    first = InteractionFolder(folder, None, one, cache_dir=cache)[0]
    again = InteractionFolder(folder, None, one, cache_dir=cache)[0]
    assert one.calls == 1 and again.value == 1 and again.name == 'toy'
    assert data_hash(first) == data_hash(again)
    assert again.validate() and again['user'].num_nodes == 3
    assert [p.suffix for p in cache.iterdir()] == ['.pt']
    InteractionFolder(folder, None, one, force_reload=True, cache_dir=cache)
    assert one.calls == 2
    # Another transform, and changed files, are not mistaken for what is kept.
    assert InteractionFolder(folder, None, Counting(5), cache_dir=cache)[0].value == 5
    make(folder, HEADER + ROWS + '2\t1\t0\n')
    data = InteractionFolder(folder, None, one, cache_dir=cache)[0]
    assert data['user', 'rates', 'item'].num_edges == 5


def damaged(kind, content, folder):
    if kind == 'planted':
        buffer = io.BytesIO()
        torch.save((Bomb(folder / 'exploded'), None), buffer)
        return buffer.getvalue()
    if kind == 'other':
        buffer = io.BytesIO()
        torch.save({'kind': 'HeteroData', 'data': torch.ones(2)}, buffer)
        return buffer.getvalue()
    if kind == 'pickle':
        return pickle.dumps(Bomb(folder / 'exploded'), protocol=2)
    if kind == 'edited':  # as a valid file with another feature
        found = torch.load(io.BytesIO(content[32:]), weights_only=True)
        found['data']['item']['x_image'][0, 0] += 1
        buffer = io.BytesIO()
        torch.save(found, buffer)
        return content[:32] + buffer.getvalue()
    return {'empty': b'', 'torn': content[:-50], 'text': b'garbage' * 9}[kind]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.mark.parametrize('kind', ['planted', 'pickle', 'empty', 'torn', 'text', 'other', 'edited'])
def test_folder_cache_that_cannot_be_used(tmp_path, kind):
    """It is replaced, and never run."""
    folder, cache = make(tmp_path / 'data', image_feat=feat()), tmp_path / 'cache'
    data = InteractionFolder(folder, cache_dir=cache)[0]
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.write_bytes(damaged(kind, content, tmp_path))
    with pytest.warns(UserWarning, match='is not used: the data are read anew') as record:
        again = InteractionFolder(folder, cache_dir=cache)[0]
    assert len(record) == 1 and str(file) in str(record[0].message)
    assert data_hash(again) == data_hash(data)
    assert list(cache.iterdir()) == [file] and not (tmp_path / 'exploded').exists()
    assert data_hash(InteractionFolder(folder, cache_dir=cache)[0]) == data_hash(data)


def test_folder_cache_under_another_name(tmp_path):
    """What was kept of other data is not taken for these, nor is anything but a file."""
    cache, datas = tmp_path / 'cache', []
    for place in range(2):
        make(tmp_path / str(place), image_feat=feat() + place)
        datas.append(InteractionFolder(tmp_path / str(place), cache_dir=cache)[0])
    first, second = sorted(cache.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    second.write_bytes(first.read_bytes())
    with pytest.warns(UserWarning, match='is not used'):
        again = InteractionFolder(tmp_path / '1', cache_dir=cache)[0]
    assert data_hash(again) == data_hash(datas[1]) != data_hash(datas[0])
    if hasattr(os, 'mkfifo'):
        second.unlink()
        os.mkfifo(second)
        with pytest.warns(UserWarning, match='is not used'):
            InteractionFolder(tmp_path / '1', cache_dir=cache)
        assert second.is_file()
    # Files of the same size and time, but of another content.
    path = tmp_path / '0' / 'image_feat.npy'
    before = path.stat()
    np.save(path, feat() + 7)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert InteractionFolder(tmp_path / '0', cache_dir=cache)[0]['item'].x_image[0, 0] == 7


def test_folder_cache_of_a_transform(tmp_path):
    folder, cache = make(tmp_path / 'data', image_feat=feat()), tmp_path / 'cache'
    for _ in range(2):  # another function may have had its address in another process
        InteractionFolder(folder, None, lambda data: data, cache_dir=cache)
    assert not cache.exists()
    for _ in range(2):
        graph = InteractionFolder(folder, None, ToHomogeneous(), cache_dir=cache)[0]
        assert type(graph) is Data and graph.edge_index.size() == (2, 4)
    assert len(list(cache.iterdir())) == 1


class ToHomogeneous(BaseTransform):
    def forward(self, data):
        return Data(edge_index=data['user', 'rates', 'item'].edge_index, num_nodes=7)


def test_folder_cache_failing_to_save(tmp_path, monkeypatch):
    def full(value, file):
        file.write(b'torn')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='No space left'):
        InteractionFolder(make(tmp_path / 'data'), cache_dir=tmp_path / 'cache')
    assert list((tmp_path / 'cache').iterdir()) == []


TIMED = 'userID\titemID\ttimestamp\tx_label\n'


def timed(times, extra=''):
    rows = [row.split('\t') for row in ROWS.splitlines()]
    return TIMED + ''.join(f'{u}\t{i}\t{t}\t{x}\n' for (u, i, x), t in zip(rows, times)) + extra


def times(data):
    return [store.time.tolist() for store in data.edge_stores]


@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        (['7', '6', '5', '4', '3', '2', '1'], [7, 6, 5, 4, 3, 2, 1]),
        ([str(1_700_000_000_000_000_001 + n) for n in range(7)],
         [1_700_000_000_000_000_001 + n for n in range(7)]),
        (['7', '6.5', '5', '4', '1e3', '2.0', '-1'], [7, 6.5, 5, 4, 1e3, 2, -1]),
    ],
    ids=['int', 'nanoseconds', 'float'],
)  # fmt: skip
def test_folder_timestamps(tmp_path, values, expected):
    make(tmp_path, timed(values), image_feat=feat())
    data = InteractionFolder(tmp_path, timestamps=True)[0]
    assert times(data) == [expected[:4], expected[4:5], expected[5:]]
    dtype = torch.int64 if isinstance(expected[1], int) else torch.float64
    assert data['user', 'val', 'item'].time.dtype == dtype and data.validate()
    plain = InteractionFolder(tmp_path)[0]
    assert not any('time' in store for store in plain.edge_stores)
    assert data_hash(data) == data_hash(plain)


def test_folder_timestamps_of_repeated_pairs(tmp_path):
    make(tmp_path, timed(range(10, 17), '0\t0\t3\t0\n2\t3\t99\t0\n'))
    with pytest.warns(UserWarning, match=r'dropped 2 repeated pair\(s\)'):
        data = InteractionFolder(tmp_path, timestamps=True)[0]
    assert times(data) == [[3, 11, 12, 13], [14], [15, 16]]


def test_folder_split_by_time(tmp_path):
    """Every user's last interaction is for test, the one before for validation."""
    rng = np.random.default_rng(0)
    code = rng.choice(20 * 30, 200, replace=False)
    time = rng.permutation(200)
    table = TIMED + ''.join(
        f'{c // 30}\t{c % 30}\t{t}\t{x}\n' for c, t, x in zip(code, time, rng.integers(0, 3, 200))
    )
    make(tmp_path / 'a', table)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        data = InteractionFolder(
            tmp_path / 'a', timestamps=True, cache_dir=tmp_path / 'c',
            pre_transform=InteractionSplit('leave_one_out'),
        )[0]  # fmt: skip
        with pytest.raises(ValueError, match="'time'.*timestamps=True"):
            InteractionFolder(
                tmp_path / 'a', cache_dir=tmp_path / 'c',
                pre_transform=InteractionSplit('leave_one_out'),
            )  # fmt: skip
        write_folder(data, tmp_path / 'b')
        again = InteractionFolder(tmp_path / 'b', timestamps=True)[0]
    expected = {'rates': set(), 'val': set(), 'test': set()}
    for user in range(20):
        items = [(t, c % 30) for c, t in zip(code, time) if c // 30 == user]
        for place, (t, item) in enumerate(sorted(items, reverse=True)):
            held_out = place < 2 and len(items) > 2
            expected[('test', 'val')[place] if held_out else 'rates'].add((user, item, t))
    for out in (data, again):
        for relation, rows in expected.items():
            store = out['user', relation, 'item']
            index = store['edge_index' if relation == 'rates' else 'edge_label_index']
            assert set(zip(*index.tolist(), store.time.tolist())) == rows


@pytest.mark.parametrize(
    ('table', 'message'),
    [
        (HEADER + ROWS, "no column 'timestamp' in its header"),
        (timed(['1', 'x', *'34567']), "line 3 of '{}/toy.inter': timestamp is 'x', expected"),
        (timed(['1', '', *'34567']), "line 3 of '{}/toy.inter': timestamp is '', expected"),
        (timed(['1', '2', 'nan', *'4567']), "line 4 of '{}/toy.inter': timestamp is 'nan'"),
        (timed(['0'] * 7), 'has the timestamp 0 in every line, which orders nothing'),
        (timed('1234567', '0\tB\t8\t0\n'), "line 9 of '{}/toy.inter': itemID is 'B'"),
    ],
    ids=['no column', 'word', 'empty', 'nan', 'constant', 'item'],
)
def test_folder_timestamps_refused(tmp_path, table, message):
    make(tmp_path, table)
    with pytest.raises(ValueError) as info:
        InteractionFolder(tmp_path, timestamps=True)
    assert message.format(tmp_path) in str(info.value)


@pytest.mark.parametrize('line', ['1.7\t1\t0', '2\t2\t0.9', '1\t1.0\t0'])
def test_fractions_are_no_ids(tmp_path, line):
    (tmp_path / 'toy.inter').write_text(f'userID\titemID\tx_label\n0\t0\t0\n{line}\n')
    np.save(tmp_path / 'image_feat.npy', feat(3, 2))
    with pytest.raises(ValueError, match='expected an integer'):
        InteractionFolder(tmp_path)


@pytest.mark.skipif(not (DATA / 'amazon-baby').is_dir(), reason="'MRDIB_DATA' is not there")
def test_folder_amazon_baby():
    folder = DATA / 'amazon-baby'
    before = sorted(folder.iterdir())
    data = InteractionFolder(folder)[0]
    assert sorted(folder.iterdir()) == before
    assert data['user'].num_nodes == 19445 and data['item'].num_nodes == 7050
    assert data['user', 'rates', 'item'].num_edges == 118551
    assert data['user', 'val', 'item'].edge_label_index.size(1) == 21682
    assert data['user', 'test', 'item'].edge_label_index.size(1) == 20559
    assert data['item'].x_image.size() == data['item'].x_text.size() == (7050, 128)
    code = data['user', 'rates', 'item'].edge_index[0] * 7050
    code = code + data['user', 'rates', 'item'].edge_index[1]
    assert (code.diff() > 0).all()
