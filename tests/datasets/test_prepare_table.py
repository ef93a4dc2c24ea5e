import gzip
import json
import os
import sys
import types
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from tables import CSV, HEADER, NAMES, ROWS, csv, load

from mrdib_pyg.cli import main
from mrdib_pyg.datasets import (
    HashingTextEncoder,
    IdMap,
    InteractionTable,
    PrepareReport,
    SentenceTextEncoder,
    _chunks,
    prepare_table,
    random_split,
)
from mrdib_pyg.datasets._text_store import TextStore
from mrdib_pyg.datasets._time_reader import TimeReader
from mrdib_pyg.datasets.sentence_text_encoder import MINILM


def read_back(folder):
    """The rows of the table that was written, with the ids in the place of the indices."""
    users, items = IdMap.load(folder, 'user'), IdMap.load(folder, 'item')
    (path,) = folder.glob('*.inter')
    table = pd.read_csv(path, sep='\t')
    table['userID'] = [users[u] for u in table['userID']]
    table['itemID'] = [items[i] for i in table['itemID']]
    return table


def test_prepare_table(tmp_path):
    out = tmp_path / 'a' / 'shop'
    report = prepare_table(csv(tmp_path), out, **NAMES, rating='stars', time='at', min_rating=2)
    table = read_back(out)
    assert list(table.columns) == ['userID', 'itemID', 'rating', 'timestamp', 'x_label']
    assert [tuple(row) for row in table.iloc[:, :4].to_numpy().tolist()] == [
        row for row in ROWS if row not in (('bob', '007', 1, 40), ('ann', '12', 2, 60))
    ]
    assert IdMap.load(out, 'user').ids == ['ann', 'bob', 'cid']
    assert IdMap.load(out, 'item').ids == ['007', '12', 'x y']
    assert report.num_rows == 8
    assert report.dropped == {
        'with a rating below 2': 1, 'that repeat a pair of user and item': 1
    }  # fmt: skip
    assert report.kept == {'interactions': 6, 'users': 3, 'items': 3}
    assert sum(report.split.values()) == 6
    index = np.array([(0, 0), (1, 1), (0, 2), (0, 1), (2, 2), (1, 2)]).T
    assert table['x_label'].tolist() == random_split(*index).tolist()
    assert sorted(p.name for p in out.iterdir()) == [
        'item_ids.csv', 'report.json', 'shop.inter', 'user_ids.csv',
    ]  # fmt: skip
    assert json.loads((out / 'report.json').read_text()) == report.to_dict()
    assert PrepareReport.load(out).to_dict() == report.to_dict()
    text = str(report)
    assert '8 rows of' in text and '-1 with a rating below 2' in text and '6 interactions' in text
    data = load(out)
    assert data['user'].num_nodes == 3 and data['item'].num_nodes == 3


def frame(**kwargs):
    table = pd.DataFrame(ROWS, columns=['user', 'item', 'stars', 'at'])
    return table.astype(kwargs) if kwargs else table


def write(kind, folder):
    if kind == 'frame':
        return frame()
    if kind == 'categorical':
        return frame(user='category', item='category', stars='float32', at='float64')
    if kind == 'parquet':
        pytest.importorskip('pyarrow')
        frame().to_parquet(folder / 't.parquet')
        return folder / 't.parquet'
    text = {
        'tsv': CSV.replace(',', '\t'),
        'semicolon': CSV.replace(',', ';'),
        'crlf': CSV.replace('\n', '\r\n'),
        'bom': '\ufeff' + CSV,
        'last line': CSV.rstrip('\n'),
        'blank lines': CSV.replace('\n', '\n\n'),
        'quoted': CSV.replace('x y', '"x y"').replace('ann', '"ann"'),
        'other columns': 'note,' + CSV.replace('\n', '\n"é\n",', len(ROWS)),
    }.get(kind, CSV)
    if kind == 'gzip':
        return csv(folder, gzip.compress(CSV.encode()), 't.csv.gz')
    return csv(folder, text, 't.tsv' if kind == 'tsv' else 't.csv')


@pytest.mark.parametrize('block', [7, 1 << 20])
@pytest.mark.parametrize(
    'kind',
    ['frame', 'categorical', 'parquet', 'tsv', 'semicolon', 'crlf', 'bom', 'last line',
     'blank lines', 'quoted', 'other columns', 'gzip'],
)  # fmt: skip
def test_equivalent_tables(tmp_path, monkeypatch, kind, block):
    """Whatever the file, and wherever it is cut into pieces, the folder is the same."""
    prepare_table(csv(tmp_path), tmp_path / 'a', **NAMES, rating='stars', time='at', name='n')
    # A row may take two blocks: the longest has 17 bytes here.
    monkeypatch.setattr(_chunks, 'BLOCK', max(block, 11))
    monkeypatch.setattr(_chunks, 'ROWS', 3)
    sep = ';' if kind == 'semicolon' else None
    prepare_table(
        write(kind, tmp_path), tmp_path / 'b', **NAMES, rating='stars', time='at', name='n',
        sep=sep,
    )  # fmt: skip
    for name in ('n.inter', 'user_ids.csv', 'item_ids.csv'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def test_ids_of_any_type(tmp_path):
    values = {
        'int': ([5, 10**18, 5], ['5', '1000000000000000000']),
        'float': ([5.0, None, 7.0], ['5', '7']),
        'text': (['007', '', 'NA'], ['007', 'NA']),
        'mixed': ([5, '5', 'ü'], ['5', 'ü']),
        'nullable': (pd.array([1, None, 2], dtype='Int64'), ['1', '2']),
        'bytes': ([b'a', None, 'b'], ['a', 'b']),
        'half': (pd.Series(['\ud800', None, 'a\nb'], dtype=object), ['?', 'a\nb']),
        'bool': ([True, False, True], ['True', 'False']),
    }
    for name, (column, expected) in values.items():
        table = pd.DataFrame({'user': column, 'item': [1, 2, 3]})
        report = prepare_table(table, tmp_path / name, **NAMES)
        assert IdMap.load(tmp_path / name, 'user').ids == expected, name
        assert sum(report.dropped.values()) == 3 - report.kept['interactions']
    with pytest.raises(ValueError, match="ids in column 'user' are neither numbers nor text"):
        prepare_table(pd.DataFrame({'user': [[1], [2]], 'item': [1, 2]}), tmp_path / 'x', **NAMES)
    with pytest.raises(ValueError, match='an id has 5000 characters'):
        prepare_table(csv(tmp_path, 'user,item\n' + 'a' * 5000 + ',1\n'), tmp_path / 'x', **NAMES)


def test_everything_that_is_dropped_is_counted(tmp_path):
    text = (
        'user,item,stars,at,n\n'
        'a,1,5,1,1\n'
        ',1,5,1,1\n'      # no user
        'a,,5,1,1\n'      # no item
        'a\n'             # a torn line: no item
        'a,2,good,1,1\n'  # no rating
        'a,2,inf,1,1\n'
        'a,2,5,today,1\n'  # no time
        'a,2,5,1,-1\n'    # no weight
        'a,2,5,1,1,1,1\n'  # too many fields
        'a,2,1,1,1\n'     # a low rating
        'a,1,5,9,2.5\n'   # a repeated pair
        'b,9,5,9,1\n'     # not in the 2-core
        'a,3,5,1,1\nb,1,5,1,1\nb,3,5,1,1\n'
    )  # fmt: skip
    report = prepare_table(
        csv(tmp_path, text), tmp_path / 'out', **NAMES, rating='stars', time='at', weight='n',
        min_rating=2, k_core=2,
    )  # fmt: skip
    assert report.num_rows == 15
    assert report.dropped == {
        'without a user id (user)': 1,
        'without an item id (item)': 2,
        'whose rating (stars) is no number': 2,
        'whose time (at) is no time': 1,
        'with a rating below 2': 1,
        'with a weight of zero or less': 1,
        'with too many fields': 1,
        'that repeat a pair of user and item': 1,
        'of users or items with fewer than 2 (2-core)': 1,
    }
    table = read_back(tmp_path / 'out')
    assert table['weight'].tolist() == [3.5, 1, 1, 1]  # weights of repeated pairs add up
    assert report.kept['interactions'] + sum(report.dropped.values()) == report.num_rows


def test_dates_and_splits_by_time(tmp_path):
    days = pd.date_range('2024-01-01', periods=10, freq='12h')
    table = pd.DataFrame({'user': 'a', 'item': range(10), 'at': days})
    for name, column in (('datetime', days), ('text', days.strftime('%Y-%m-%dT%H:%M:%SZ'))):
        table['at'] = column
        prepare_table(table, tmp_path / name, **NAMES, time='at', split='leave_one_out')
        written = read_back(tmp_path / name)
        assert written['timestamp'].tolist() == [1704067200 + 43200 * n for n in range(10)]
        assert written['x_label'].tolist() == [0] * 8 + [1, 2]
    prepare_table(
        table, tmp_path / 'temporal', **NAMES, time='at', split='temporal', ratios=(0.5, 0.3, 0.2)
    )
    assert read_back(tmp_path / 'temporal')['x_label'].tolist() == [0] * 5 + [1] * 3 + [2] * 2


def test_dates_of_mixed_precision(tmp_path):
    at = ['2024-01-01', '2024-01-01 12:00', '2024-01-02T00:00:00.5Z', '2024-01-02 12:00:00+01:00',
          'never']  # fmt: skip
    table = pd.DataFrame({'user': 'a', 'item': range(5), 'at': at})
    report = prepare_table(table, tmp_path / 'out', **NAMES, time='at', split='leave_one_out')
    found = read_back(tmp_path / 'out')['timestamp'] - 1704067200
    assert found.tolist() == [0, 43200, 86400.5, 126000]
    assert report.dropped == {'whose time (at) is no time': 1}


@pytest.mark.parametrize(
    ('at', 'message'),
    [
        (['01/01/2024', '31/12/2024'], "'01/01/2024', may have the day or the month first.*%d/%m"),
        (['2024-01-05', '31.12.2024 10:00'], "'31.12.2024 10:00', may have.*'%d.%m.%Y %H:%M'"),
        (['Jan 5 2024', '31.12.2024'], "'at' are written in several ways.*31.12.2024"),
        (['3/5/23', '13/5/23'], r"in one that is not known \(such as '3/5/23'\)"),
        ([20240105, 20241231], r"'at', such as 20240105, are dates by.*'time_format' '%Y%m%d'"),
        ([20240105.0, None], 'such as 20240105, are dates'),
    ],
)
def test_dates_that_are_not_clear_are_refused(tmp_path, at, message):
    table = pd.DataFrame({'user': 'a', 'item': [0, 1], 'at': at})
    with pytest.raises(ValueError, match=message):
        prepare_table(table, tmp_path / 'out', **NAMES, time='at')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('at', 'form'),
    [
        (['05/03/2023', '20/03/2023', 'never'], '%d/%m/%Y'),
        (['03/05/2023', '03/20/2023', ''], '%m/%d/%Y'),
        ([20230305, 20230320, 0], '%Y%m%d'),
        ([20230305, 20230320, None], '%Y%m%d'),
        (['5 Mar 2023', '20 Mar 2023', '-'], None),
        (['2023/03/05', '2023/03/20', '1'], None),
    ],
)
def test_forms_of_dates(tmp_path, at, form):
    table = pd.DataFrame({'user': 'a', 'item': range(3), 'at': at})
    report = prepare_table(table, tmp_path / 'out', **NAMES, time='at', time_format=form)
    assert read_back(tmp_path / 'out')['timestamp'].tolist() == [1677974400, 1679270400]
    assert report.dropped == {'whose time (at) is no time': 1}
    assert report.times == {'first': '2023-03-05 00:00:00', 'last': '2023-03-20 00:00:00'}
    assert 'times: 2023-03-05 00:00:00 to 2023-03-20 00:00:00' in str(report)
    assert PrepareReport.load(tmp_path / 'out').times == report.times


def test_one_form_of_dates_for_all_pieces(tmp_path, monkeypatch):
    """What pandas guesses of the first date of a piece may be another form in the next one."""
    days = pd.date_range('2023-03-20', periods=24, freq='D').strftime('%d/%m/%Y')
    path = tmp_path / 'table.csv'
    pd.DataFrame({'user': 'a', 'item': range(24), 'at': days}).to_csv(path, index=False)
    monkeypatch.setattr(_chunks, 'BLOCK', 64)
    with pytest.raises(ValueError, match="'20/03/2023', may have the day or the month first"):
        prepare_table(path, tmp_path / 'out', **NAMES, time='at')
    prepare_table(path, tmp_path / 'out', **NAMES, time='at', time_format='%d/%m/%Y')
    found = read_back(tmp_path / 'out')['timestamp']
    assert found.tolist() == [1679270400 + 86400 * n for n in range(24)]
    with pytest.raises(ValueError, match="'time_format' '%d' needs the column of times"):
        prepare_table(path, tmp_path / 'other', **NAMES, time_format='%d')


def test_numbers_of_one_piece_are_not_taken_for_dates(tmp_path, monkeypatch):
    """What times are is settled by the first of them."""
    path = tmp_path / 'table.csv'
    at = [*range(18), 20230301, 20230302]
    pd.DataFrame({'user': 'a', 'item': range(20), 'at': at}).to_csv(path, index=False)
    monkeypatch.setattr(_chunks, 'BLOCK', 64)
    prepare_table(path, tmp_path / 'out', **NAMES, time='at')
    assert read_back(tmp_path / 'out')['timestamp'].tolist() == at
    reader = TimeReader()
    assert reader.read(pd.Series([1, 2])).tolist() == [1, 2] and reader.is_date is False
    assert np.isnan(reader.read(pd.Series(['2024-01-01', '']))).all()


def test_times_that_are_numbers(tmp_path):
    table = pd.DataFrame({'user': 'a', 'item': range(3), 'at': [7, 5, 6]})
    report = prepare_table(table, tmp_path / 'out', **NAMES, time='at')
    assert report.times == {'first': 5, 'last': 7} and 'times: 5 to 7' in str(report)


def test_large_ids_of_a_parquet_column_with_nulls(tmp_path):
    pa, parquet = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    ids = [2**60 + i for i in range(4)]
    columns = {'user': ids + [None], 'item': [None, *ids], 'at': [None, 1, 2, 3, 4]}
    path = tmp_path / 'table.parquet'
    parquet.write_table(pa.table({k: pa.array(v, pa.int64()) for k, v in columns.items()}), path)
    prepare_table(path, tmp_path / 'out', **NAMES, time='at')
    assert IdMap.load(tmp_path / 'out', 'user').ids == [str(i) for i in ids[1:]]
    assert IdMap.load(tmp_path / 'out', 'item').ids == [str(i) for i in ids[:3]]
    assert read_back(tmp_path / 'out')['timestamp'].tolist() == [1, 2, 3]


VECTORS = {'007': [1, 2], 'x y': [3, 4], 'unknown': [9, 9]}


def features(kind, folder):
    """The features of two of three items, and the arguments that go with them."""
    if kind == 'dict':
        return VECTORS, None
    if kind == 'npz':
        np.savez(folder / 'f.npz', **{k: np.array(v, 'f8') for k, v in VECTORS.items()})
        return folder / 'f.npz', None
    if kind == 'safetensors':
        numpy = pytest.importorskip('safetensors.numpy')
        path = folder / 'f.safetensors'
        numpy.save_file({k: np.array(v, 'f2') for k, v in VECTORS.items()}, path)
        return path, None
    array = np.array(list(VECTORS.values()), 'f4')
    if kind == 'array':
        return array, list(VECTORS)
    (folder / 'order.txt').write_text('\n'.join(VECTORS) + '\n')
    if kind == 'one safetensor':
        numpy = pytest.importorskip('safetensors.numpy')
        numpy.save_file({'all': array}, folder / 'f.safetensors')
        return folder / 'f.safetensors', folder / 'order.txt'
    if kind == 'one npz':
        np.savez_compressed(folder / 'f.npz', array)
        return folder / 'f.npz', folder / 'order.txt'
    np.save(folder / 'f.npy', array)
    return str(folder / 'f.npy'), str(folder / 'order.txt')


def test_features_as_tensors(tmp_path):
    x = torch.tensor(list(VECTORS.values())).to(torch.bfloat16).requires_grad_()
    for name, source in (('rows', x), ('dict', dict(zip(VECTORS, x)))):
        order = list(VECTORS) if name == 'rows' else None
        out, features = tmp_path / name, {'image': source}
        prepare_table(csv(tmp_path), out, **NAMES, features=features, item_order=order)
        assert np.load(out / 'image_feat.npy').tolist() == [[1, 2], [0, 0], [3, 4]]


@pytest.mark.parametrize(
    'kind', ['dict', 'npz', 'safetensors', 'array', 'npy', 'one npz', 'one safetensor']
)
def test_features(tmp_path, kind):
    source, order = features(kind, tmp_path)
    out = tmp_path / 'out'
    report = prepare_table(
        csv(tmp_path), out, **NAMES, features={'image': source}, item_order=order
    )
    assert IdMap.load(out, 'item').ids == ['007', '12', 'x y']
    assert np.load(out / 'image_feat.npy').tolist() == [[1, 2], [0, 0], [3, 4]]
    assert np.load(out / 'image_mask.npy').tolist() == [True, False, True]
    entry = report.modalities['image']
    assert (entry['items'], entry['channels']) == (2, 2)
    assert list(entry['notes'].values()) == [1]  # a vector of no item
    data = load(out)
    assert data['item'].has_image.tolist() == [True, False, True]
    prepare_table(
        csv(tmp_path), tmp_path / 'mean', **NAMES, features={'image': source}, item_order=order,
        fill='mean',
    )  # fmt: skip
    assert np.load(tmp_path / 'mean' / 'image_feat.npy').tolist() == [[1, 2], [2, 3], [3, 4]]
    assert not (tmp_path / 'mean' / 'image_mask.npy').exists()


def test_features_by_the_number_of_the_row(tmp_path):
    table = pd.DataFrame({'user': 'abc', 'item': [2, 0, 3]})
    table['user'] = list('abc')
    x = np.arange(8.0).reshape(4, 2)
    x[3, 0] = np.nan
    report = prepare_table(table, tmp_path / 'out', **NAMES, features={'a': x})
    assert np.load(tmp_path / 'out' / 'a_feat.npy').tolist() == [[4, 5], [0, 1], [0, 0]]
    assert np.load(tmp_path / 'out' / 'a_mask.npy').tolist() == [True, True, False]
    assert report.modalities['a']['notes'] == {
        'rows are of items that are not kept': 1,
        'vectors hold NaN or infinity and count as missing': 1,
    }
    with pytest.raises(ValueError, match="has 3 rows and no ids.*got '3'.*'item_order'"):
        prepare_table(table, tmp_path / 'x', **NAMES, features={'a': x[:3]})


def test_texts(tmp_path):
    items = pd.DataFrame(
        {'id': ['12', '007', '12', 'x y'], 'title': ['red\n car', None, 'late', ' '],
         'brand': ['A', 'B', 'C', None]}
    )  # fmt: skip
    seen = []

    def encoder(texts):
        seen.append(list(texts))
        return [[len(text), 1] for text in texts]

    out = tmp_path / 'out'
    report = prepare_table(
        csv(tmp_path), out, **NAMES, text=['title', 'brand'], items=items, item_id='id',
        text_encoder=encoder,
    )  # fmt: skip
    assert seen == [['B', 'red car. A']]
    assert np.load(out / 'text_feat.npy').tolist() == [[1, 1], [10, 1], [0, 0]]
    assert np.load(out / 'text_mask.npy').tolist() == [True, True, False]
    assert report.settings['text_encoder'].endswith('encoder')
    # The columns of the interactions themselves: the first text of an item counts.
    text = 'user,item,title\na,1,\nb,1,car\na,2,boat\nc,1,other\n'
    prepare_table(
        csv(tmp_path, text), tmp_path / 'own', **NAMES, text='title', text_encoder=encoder
    )
    assert seen[1] == ['car', 'boat']


class Encoder:
    """The number of characters, and what it was asked."""

    name, width = 'mine', 2

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        return np.array([[len(text)] * self.width for text in texts])


def test_each_text_is_encoded_once(tmp_path):
    text = 'user,item,title\na,1,x\nb,2,yy\nc,3,x\n'
    encoder, cache = Encoder(), tmp_path / 'a' / 'cache'

    def prepare(text=text):
        prepare_table(
            csv(tmp_path, text), tmp_path / 'out', **NAMES, text='title', text_encoder=encoder,
            cache_dir=cache, force=True,
        )  # fmt: skip
        x = np.load(tmp_path / 'out' / 'text_feat.npy')
        assert x.dtype == np.float32
        return x.tolist()

    assert prepare() == prepare() == [[1, 1], [2, 2], [1, 1]]
    assert encoder.asked == [['x', 'yy']]
    # Another order, another core, a new text: only that is encoded.
    assert prepare('user,item,title\na,9,zzz\nb,2,yy\n') == [[3, 3], [2, 2]]
    assert encoder.asked[1:] == [['zzz']] and len(list(cache.iterdir())) == 2
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert prepare() == [[1, 1], [2, 2], [1, 1]]
    assert encoder.asked[2:] == [['x', 'yy']]
    encoder.name = 'other'
    prepare()
    assert encoder.asked[3:] == [['x', 'yy']]
    encoder.width = 3  # under the same name
    assert prepare('user,item,title\na,1,x\nb,2,new\n') == [[1] * 3, [3] * 3]
    assert encoder.asked[4:] == [['new'], ['x', 'new']]
    prepare('user,item,title\na,1,x\nb,2,new\n')
    assert len(encoder.asked) == 6
    # What is no file of vectors of this encoder is left alone.
    (file, *_) = sorted(cache.iterdir())
    for array in (np.ones(3), np.zeros(2, [('key', 'V16'), ('x', 'f4')])):
        np.save(file.with_name(file.name[:-8] + '0.npy'), array)
    prepare('user,item,title\na,1,x\nb,2,new\n')
    assert not list(cache.glob('*.part'))


def test_interaction_table_keeps_vectors_of_texts(tmp_path):
    table = pd.DataFrame({'user': [1, 2], 'item': [1, 2], 'title': ['car', 'boat']})
    encoder = Encoder()
    for seed in (0, 1):
        InteractionTable(
            tmp_path / f'{seed}', table, **NAMES, text='title', text_encoder=encoder, seed=seed,
            cache_dir=tmp_path / 'cache',
        )  # fmt: skip
    assert encoder.asked == [['car', 'boat']]


def test_command_keeps_vectors_of_texts(tmp_path, capsys, monkeypatch):
    path = csv(tmp_path, 'user,item,title\na,1,x\nb,2,yy\n')
    asked = []
    call = HashingTextEncoder.__call__
    monkeypatch.setattr(
        HashingTextEncoder, '__call__', lambda self, texts: asked.append(texts) or call(self, texts)
    )
    for out in ('a', 'b'):
        argv = ['prepare', 'table', path, '--user', 'user', '--item', 'item', '--text', 'title']
        argv += ['--text-encoder', 'hashing', '--cache', tmp_path / 'c', '--out', tmp_path / out]
        assert main([*map(str, argv), '--quiet']) == 0
    assert asked == [['x', 'yy']] and len(list((tmp_path / 'c').iterdir())) == 1
    capsys.readouterr()


class Sentences:
    """Stands for `SentenceTransformer`, which downloads a model."""

    def __init__(self, model, device=None):
        if 'none' in model:
            raise OSError(f'{model} is not a local folder\nand so on')
        self.model, self.device = model, device

    def encode(self, texts, batch_size, show_progress_bar, convert_to_numpy):
        assert isinstance(texts, list) and convert_to_numpy
        return np.array([[len(text), batch_size, show_progress_bar] for text in texts], 'f4')


def test_sentence_text_encoder(tmp_path, monkeypatch):
    module = types.SimpleNamespace(SentenceTransformer=Sentences)
    monkeypatch.setitem(sys.modules, 'sentence_transformers', module)
    encoder = SentenceTextEncoder('~/m', batch_size=7, device='cpu', progress=True)
    assert encoder(('a', 'bc')).tolist() == [[1, 7, 1], [2, 7, 1]]
    assert encoder._encoder.model == os.path.expanduser('~/m')
    assert encoder._encoder.device == 'cpu' and encoder.name.startswith('sentence-/')
    assert str(SentenceTextEncoder()) == (
        "SentenceTextEncoder('sentence-transformers/all-MiniLM-L6-v2')"
    )
    table = pd.DataFrame({'user': [1, 2], 'item': [1, 2], 'title': ['car', 'boat']})
    for choice, progress in (('minilm', False), ('some/model', True)):
        prepare_table(
            table, tmp_path / choice, **NAMES, text='title', text_encoder=choice, progress=progress
        )  # fmt: skip
        x = np.load(tmp_path / choice / 'text_feat.npy')
        assert x.tolist() == [[3, 64, progress], [4, 64, progress]]


@pytest.mark.parametrize('fault', ['package', 'model'])
def test_sentence_encoders_fail_before_anything_is_read(tmp_path, monkeypatch, fault):
    module = None if fault == 'package' else types.SimpleNamespace(SentenceTransformer=Sentences)
    monkeypatch.setitem(sys.modules, 'sentence_transformers', module)
    error, message = {
        'package': (ImportError, r"needs sentence-transformers: pip install 'mrdib_pyg\[text\]'"),
        'model': (FileNotFoundError, r'cannot be downloaded \(none is not a local folder\)'),
    }[fault]
    path = csv(tmp_path, b'\xff')  # would be refused
    options = {} if fault == 'package' else {'text_encoder': 'none'}
    refuse(tmp_path, message, error, path, text='title', **options)
    refuse(tmp_path, message, error, path, text='title', **options, cache_dir=tmp_path / 'c')
    refuse(tmp_path, 'no row of names', ValueError, path)
    # Where all vectors are there, it is not needed.
    table = pd.DataFrame({'user': [1], 'item': [1], 'title': ['car']})
    name = SentenceTextEncoder(options.get('text_encoder', MINILM)).name
    TextStore(tmp_path / 'c', name).write(['car'], np.full((1, 2), 5, 'f4'))
    prepare_table(
        table, tmp_path / 'out', **NAMES, text='title', **options, cache_dir=tmp_path / 'c'
    )
    assert np.load(tmp_path / 'out' / 'text_feat.npy').tolist() == [[5, 5]]


def test_hashing_text_encoder():
    encoder = HashingTextEncoder(64)
    assert str(encoder) == 'HashingTextEncoder(64)' and encoder.name == 'hashing-64'
    x = encoder(['red wooden car', 'red wooden car', 'blue toy', '', 'wooden car red'])
    assert x.shape == (5, 64) and x.dtype == np.float32
    assert np.allclose(np.linalg.norm(x, axis=1), [1, 1, 1, 0, 1])
    assert (x[0] == x[1]).all() and x[0] @ x[4] > 0.5 > x[0] @ x[2]
    with pytest.raises(ValueError, match="'channels' needs to be positive"):
        HashingTextEncoder(0)


def refuse(folder, match, error=ValueError, table=CSV, **kwargs):
    path = csv(folder, table) if isinstance(table, (str, bytes)) else table
    out = folder / 'never'
    with pytest.raises(error, match=match):
        prepare_table(path, out, **{**NAMES, **kwargs})
    assert not out.exists() and not list(folder.glob('.never*'))


def test_refused_settings(tmp_path):
    refuse(tmp_path, "has no column 'who'; its columns are user, item", user='who')
    refuse(tmp_path, "more than one column 'user'", table='user,item,user\n1,2,3\n')
    refuse(tmp_path, 'has two uses', item='user')
    refuse(tmp_path, "'min_rating' 3 needs the column", min_rating=3)
    refuse(tmp_path, "'k_core' needs to be at least 1", k_core=0)
    refuse(tmp_path, "'split' needs to be one of", split='newest')
    refuse(tmp_path, 'orders interactions by time', split='temporal')
    refuse(tmp_path, "'fill' needs to be 'mask' or 'mean'", fill='zero')
    refuse(tmp_path, "modality '../x'", features={'../x': np.ones((3, 2))})
    refuse(tmp_path, 'exclude each other', text='item', features={'text': np.ones((3, 2))})
    refuse(tmp_path, "'items' is only read for texts", items='x.csv')
    refuse(tmp_path, "'name' needs to be letters", name='../x')
    refuse(tmp_path, 'no interaction .* is left: 8 rows were read.*smaller', k_core=9)
    refuse(tmp_path, 'no interaction .* is left', table=HEADER)
    refuse(
        tmp_path, 'none of the items has a text', text='note', table='user,item,note\n1,2,\n',
        text_encoder='hashing',
    )  # fmt: skip
    for returned, message in (
        ([1, 2], r'shape \[2\] for 2 texts'), (np.full((2, 3), np.nan), 'finite'),
        (np.ones((3, 3)), r'shape \[3, 3\]'), (np.array([['a'], ['b']]), 'finite real numbers'),
    ):  # fmt: skip
        refuse(
            tmp_path, message, text='note', table='user,item,note\n1,2,x\n1,3,y\n',
            text_encoder=lambda texts, returned=returned: returned,
        )  # fmt: skip


def test_refused_files(tmp_path, monkeypatch):
    refuse(tmp_path, 'there is no table', FileNotFoundError, table=tmp_path / 'none.csv')
    refuse(tmp_path, "does not tell what separates.*pass 'sep'", table=csv(tmp_path, name='t.dat'))
    refuse(tmp_path, 'is empty', table='')
    refuse(tmp_path, 'UTF-8 text', table=HEADER.encode() + b'\xff\xfe,1,1,1\n')
    refuse(tmp_path, 'no row of names', table=b'\xff\xfe,1,1,1\n')
    torn = gzip.compress(CSV.encode() * 50)[:-9]
    refuse(tmp_path, 'cut short or damaged', table=csv(tmp_path, torn, 't.csv.gz'))
    refuse(tmp_path, 'cut short or damaged', table=csv(tmp_path, CSV, 'u.csv.gz'))
    refuse(tmp_path, 'pass quote=False', table='user,item\n"a,1\nb,2\n')
    prepare_table(csv(tmp_path, 'user,item\n"a,1\nb,2\n'), tmp_path / 'ok', **NAMES, quote=False)
    assert IdMap.load(tmp_path / 'ok', 'user').ids == ['"a', 'b']
    monkeypatch.setattr(_chunks, 'BLOCK', 64)
    refuse(tmp_path, 'a row of more than', table='user,item\n"' + 'a,1\n' * 100)
    pytest.importorskip('pyarrow')
    refuse(tmp_path, 'not a Parquet file', table=csv(tmp_path, b'PAR1' * 9, 't.parquet'))


def test_refused_features(tmp_path):
    def wrong(match, value, error=ValueError, **kwargs):
        refuse(tmp_path, match, error, features={'a': value}, **kwargs)

    wrong('no file', tmp_path / 'none.npy', FileNotFoundError)
    wrong('needs to be .npy, .npz or .safetensors', csv(tmp_path, name='f.txt'))
    wrong('expected .rows, F.', np.ones(3))
    wrong('expected real numbers', np.ones((3, 2), 'c8'))
    wrong("'item_order' names 2 items", np.ones((3, 2)), item_order=['a', 'b'])
    wrong('a row for none of the items', np.ones((1, 2)), item_order=['a'])
    wrong('a vector for none of the items.*such as', {'a': [1]})
    wrong('3 numbers for the item', {'007': [1, 2], '12': [1, 2, 3]})
    wrong('an empty vector', {'007': []})
    wrong('no file', np.ones((1, 2)), FileNotFoundError, item_order=tmp_path / 'none.txt')
    wrong('no text file of ids', np.ones((1, 2)), item_order=csv(tmp_path, b'\xff\xfe', 'o.txt'))
    np.savez(tmp_path / 'object.npz', **{'007': np.array([None])})
    wrong('Python objects', tmp_path / 'object.npz')
    np.savez(tmp_path / 'pair.npz', ids=np.arange(3), x=np.ones((3, 2)))
    wrong("^'.*pair.npz' has a vector for none.*savez.file, .*vectors", tmp_path / 'pair.npz')
    wrong('no complete .npz', csv(tmp_path, b'PK\x03\x04', 'f.npz'))
    np.save(tmp_path / 'single.npy', np.ones((3, 2)))
    (tmp_path / 'single.npy').rename(tmp_path / 'single.npz')
    wrong('no complete .npz', tmp_path / 'single.npz')
    pytest.importorskip('safetensors')
    wrong('no safetensors file', csv(tmp_path, b'\xff' * 64, 'f.safetensors'))


def test_an_archive_that_claims_more_than_it_holds(tmp_path):
    np.savez_compressed(tmp_path / 'f.npz', **{'007': np.zeros(2, 'f4')})
    content = (tmp_path / 'f.npz').read_bytes()
    import zipfile

    with zipfile.ZipFile(tmp_path / 'g.npz', 'w', zipfile.ZIP_DEFLATED) as archive:
        with zipfile.ZipFile(tmp_path / 'f.npz') as old:
            raw = old.read('007.npy').replace(b'(2,), }' + b' ' * 11, b'(2000000000000,), }')
        archive.writestr('007.npy', raw)
    assert content != (tmp_path / 'g.npz').read_bytes()
    refuse(tmp_path, 'claims .* bytes', features={'a': tmp_path / 'g.npz'})


def test_nothing_is_left_by_a_failure_while_writing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mrdib_pyg.datasets._prepare.write_table', full)
    with pytest.raises(OSError, match='No space left'):
        prepare_table(csv(tmp_path), tmp_path / 'out', **NAMES)
    assert [p.name for p in tmp_path.iterdir()] == ['t.csv']


def test_interaction_table(tmp_path):
    root = tmp_path / 'shop'
    arguments = {**NAMES, 'features': {'image': VECTORS}, 'seed': 3}
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # the report says what is missing
        dataset = InteractionTable(root, csv(tmp_path), **arguments)
        assert str(dataset) == 'InteractionTable(shop)' and len(dataset) == 1
        assert dataset[0]['item'].x_image.tolist() == [[1, 2], [0, 0], [3, 4]]
        assert dataset.item_ids.index('x y') == 2 and dataset.user_ids[0] == 'ann'
        assert dataset.report.kept['items'] == 3
        # It is read from then on: the table may be gone.
        (tmp_path / 't.csv').unlink()
        again = InteractionTable(root, tmp_path / 't.csv', **arguments)
        assert again.report.to_dict() == dataset.report.to_dict()
        with pytest.raises(ValueError, match='by other settings'):
            InteractionTable(root, tmp_path / 't.csv', **{**arguments, 'seed': 4})
        with pytest.raises(ValueError, match='from another table'):
            InteractionTable(root, tmp_path / 'u.csv', **arguments)
        csv(tmp_path, CSV + 'dan,12,4,90\n')
        new = InteractionTable(
            root, tmp_path / 't.csv', force_reload=True, **{**arguments, 'seed': 4}
        )
    assert new[0]['user'].num_nodes == 4


def test_interaction_table_with_timestamps(tmp_path):
    table = frame(at='float64')
    data = InteractionTable(tmp_path / 'shop', table, **NAMES, time='at', timestamps=True)[0]
    time = torch.cat([store.time for store in data.edge_stores]).tolist()
    assert sorted(time) == [5, 10, 20, 30, 40, 50, 70]


def test_interaction_table_of_other_inputs(tmp_path):
    """What was prepared from one input is not served for another one."""
    root, x = tmp_path / 'shop', np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / 'x.npy', x)
    items = pd.DataFrame({'sku': ['007', '12'], 'title': ['car', 'boat']})
    arguments = {
        **NAMES, 'features': {'a': x, 'b': VECTORS, 'c': str(tmp_path / 'x.npy')},
        'item_order': ['007', '12', 'x y'], 'items': items, 'item_id': 'sku', 'text': 'title',
        'text_encoder': 'hashing',
    }  # fmt: skip
    table = frame()
    first = InteractionTable(root, table, **arguments)
    before = {p.name: p.read_bytes() for p in root.iterdir()}
    other = table.copy()
    other.loc[3, 'item'] = 'new'
    changes = {
        'table': ({}, other),
        'features a': ({'features': {**arguments['features'], 'a': x + 1}}, table),
        'features b': ({'features': {**arguments['features'], 'b': {**VECTORS, '12': [0, 0]}}},
                       table),
        'item_order': ({'item_order': ['12', '007', 'x y']}, table),
        'items': ({'items': items.assign(title=['car', 'ship'])}, table),
    }  # fmt: skip
    for name, (change, data) in changes.items():
        with pytest.raises(ValueError, match=f'from another content of {name} .*force_reload'):
            InteractionTable(root, data, **{**arguments, **change})
    for change in ({'name': 'other'}, {'quote': False}, {'sep': ';'}, {'item_id': 'id'}):
        with pytest.raises(ValueError, match='by other settings'):
            InteractionTable(root, table, **{**arguments, **change})
    # Equal content is enough: other objects, columns that are not read, another time of a file.
    os.utime(tmp_path / 'x.npy', ns=(0, 0))
    features = {'c': str(tmp_path / 'x.npy'), 'b': dict(reversed(VECTORS.items())), 'a': x.copy()}
    features = {name: features[name] for name in 'abc'}
    again = InteractionTable(
        root, table.copy().assign(note=1), **{**arguments, 'features': features}
    )
    assert again.report.to_dict() == first.report.to_dict()
    np.save(tmp_path / 'x.npy', x + 1)
    with pytest.raises(ValueError, match='from another content of features c'):
        InteractionTable(root, table, **arguments)
    assert {p.name: p.read_bytes() for p in root.iterdir()} == before
    new = InteractionTable(root, table, force_reload=True, **arguments)
    assert new[0]['item'].x_c.tolist() == (x + 1).tolist()


def test_text_encoders_without_a_name(tmp_path):
    """A function cannot be told from another one: it is called again."""
    table = pd.DataFrame({'user': [1, 2], 'item': [1, 2], 'title': ['car', 'boat']})

    def data(encoder, root='root'):
        return InteractionTable(
            tmp_path / root, table, **NAMES, text='title', text_encoder=encoder
        )[0]['item'].x_text.tolist()  # fmt: skip

    assert data(lambda texts: [[1.0]] * len(texts)) == [[1], [1]]
    with pytest.warns(UserWarning, match="prepared anew.*an attribute 'name'"):
        assert data(lambda texts: [[2.0]] * len(texts)) == [[2], [2]]

    def named(texts):
        return [[3.0]] * len(texts)

    # What is replaced then is what `force` would replace.
    np.save(tmp_path / 'root' / 'mine_feat.npy', np.ones((2, 1)))
    with pytest.warns(UserWarning, match='prepared anew'):
        with pytest.raises(ValueError, match='holds mine_feat.npy, whose rows belong to'):
            data(lambda texts: [[2.0]] * len(texts))
    (tmp_path / 'root' / 'report.json').write_text(
        '{"source": "", "settings": [], "rows": 0, "dropped": {}, "kept": {}, "split": {}, '
        '"modalities": {}, "notes": {}}'
    )
    with pytest.raises(ValueError, match='from another table or by other settings'):
        data(lambda texts: [[2.0]] * len(texts))
    named.name = 'three'
    assert data(named, 'named') == data(named, 'named') == [[3], [3]]
    named.name = 'four'
    with pytest.raises(ValueError, match='by other settings'):
        data(named, 'named')


def test_cold_users_and_items_are_noted(tmp_path):
    table = pd.DataFrame(
        {'user': list('aaabc'), 'item': [1, 2, 3, 1, 9], 'at': [1, 2, 3, 4, 5]}
    )  # fmt: skip
    report = prepare_table(
        table, tmp_path / 'out', **NAMES, time='at', split='temporal', ratios=(0.6, 0.2, 0.2)
    )
    assert report.notes == {
        'users have no training interaction': 2, 'items have no training interaction': 1
    }  # fmt: skip


def test_a_large_random_table_against_pandas(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {'user': rng.integers(0, 60, 3000), 'item': rng.integers(0, 80, 3000) ** 2,
         'stars': rng.integers(1, 6, 3000), 'at': rng.integers(0, 50, 3000)}
    )  # fmt: skip
    report = prepare_table(
        table, tmp_path / 'o', **NAMES, rating='stars', time='at', min_rating=3, k_core=15
    )
    left = table[table['stars'] >= 3].sort_values('at', kind='stable')
    left = left.drop_duplicates(['user', 'item']).sort_index()
    while True:
        users, items = Counter(left['user']), Counter(left['item'])
        stays = [
            users[u] >= 15 and items[i] >= 15 for u, i in zip(left['user'], left['item'])
        ]  # fmt: skip
        if all(stays):
            break
        left = left[stays]
    written = read_back(tmp_path / 'o')
    assert 0 < len(left) < 1500
    for name, column in (('userID', 'user'), ('itemID', 'item'), ('rating', 'stars'),
                         ('timestamp', 'at')):  # fmt: skip
        assert written[name].astype(int).tolist() == left[column].tolist()
    ids = IdMap.load(tmp_path / 'o', 'item').ids
    assert ids == [str(i) for i in dict.fromkeys(left['item'])]
    assert report.kept['interactions'] == len(left)


def test_ids_that_were_read_as_floats_are_told_of(tmp_path):
    text = 'user,item\na,0\nb,1\n,\n'
    refuse(
        tmp_path, r"\(got '0.0', as ids are read where some", features={'a': np.ones((2, 3))},
        table=csv(tmp_path, text.replace(',0', ',0.0').replace(',1', ',1.0')),
    )  # fmt: skip
