import bz2
import gzip
import json
import lzma
import warnings
import zipfile
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tables import CSV, HEADER, NAMES, ROWS, csv, frame, load, read_back

from mrdib_pyg.datasets import IdMap, prepare_table
from mrdib_pyg.datasets.missing import is_missing
from mrdib_pyg.datasets.prepare_report import PrepareReport
from mrdib_pyg.datasets.splits import random_split


def test_prepare_table(tmp_path):
    out = tmp_path / 'a' / 'shop'
    report = prepare_table(
        csv(tmp_path), out, **NAMES, rating='stars', time='at', min_rating=2, split='random'
    )
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
        'tabs by the content': CSV.replace(',', '\t'),
        'mixed line ends': CSV.replace('\n', '\r\n', 3),
        'mixed line ends and quotes': CSV.replace('\n', '\r\n', 3).replace('ann', '"ann"'),
        'two colons': CSV.replace(',', '::'),
        'blanks in names': CSV.replace('user,item', 'user, item '),
        'of RecBole': CSV.replace(HEADER, 'user:token,item:token,stars:float,at:float\n'),
        'other columns': 'note,' + CSV.replace('\n', '\n"é\n",', len(ROWS)),
    }.get(kind, CSV)
    packed = {
        'gzip': ('t.csv.gz', gzip.compress), 'bz2': ('t.csv.bz2', bz2.compress),
        'xz': ('t.csv.xz', lzma.compress), 'gzip by its content': ('t.csv', gzip.compress),
    }  # fmt: skip
    if kind in packed:
        name, pack = packed[kind]
        return csv(folder, pack(CSV.encode()), name)
    if kind == 'zip':
        with zipfile.ZipFile(folder / 't.csv.zip', 'w') as archive:
            archive.writestr('t.csv', CSV)
        return folder / 't.csv.zip'
    if kind == 'zstd':
        pa = pytest.importorskip('pyarrow')
        content = pa.compress(CSV.encode(), codec='zstd', asbytes=True)
        return csv(folder, content, 't.csv.zst')
    if kind == 'json lines':
        return csv(folder, frame().to_json(orient='records', lines=True), 't.jsonl')
    if kind == 'json':
        return csv(folder, frame().to_json(orient='records'), 't.json')
    if kind == 'dict':
        return {name: column.tolist() for name, column in frame().items()}
    if kind == 'arrow':
        return pytest.importorskip('pyarrow').Table.from_pandas(frame())
    return csv(folder, text, 't.tsv' if kind == 'tsv' else 't.csv')


@pytest.mark.parametrize(
    'kind',
    ['frame', 'categorical', 'parquet', 'tsv', 'semicolon', 'crlf', 'bom', 'last line',
     'blank lines', 'quoted', 'other columns', 'gzip', 'bz2', 'xz', 'gzip by its content', 'zip',
     'zstd', 'json lines', 'json', 'dict', 'arrow', 'tabs by the content', 'mixed line ends',
     'mixed line ends and quotes', 'two colons', 'blanks in names', 'of RecBole'],
)  # fmt: skip
def test_equivalent_tables(tmp_path, kind):
    """Whatever the table, the folder is the same."""
    prepare_table(csv(tmp_path), tmp_path / 'a', **NAMES, rating='stars', time='at', name='n')
    prepare_table(
        write(kind, tmp_path), tmp_path / 'b', **NAMES, rating='stars', time='at', name='n'
    )
    for name in ('n.inter', 'user_ids.csv', 'item_ids.csv'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def test_ids_of_any_type(tmp_path):
    values = {
        'int': ([5, 10**18, 5], ['5', '1000000000000000000']),
        'float': ([5.0, None, 7.5], ['5', '7.5']),
        'text': (['007', '', 'NA'], ['007']),
        'mixed': ([5, '5', 'ü'], ['5', 'ü']),
        'number and truth': (pd.Series([1, True, 'True'], dtype=object), ['1', 'True']),
        'nullable': (pd.array([1, None, 2], dtype='Int64'), ['1', '2']),
        'bytes': ([b'a', None, 'b'], ['a', 'b']),
        'half': (pd.Series(['\ud800', None, 'a\nb'], dtype=object), ['eda080', 'a\nb']),
        'bool': ([True, False, True], ['True', 'False']),
        'date': (pd.to_datetime(['2024-01-01', None, '2024-01-02 03:00:00.000000001'],
                                format='ISO8601'),
                 ['2024-01-01 00:00:00', '2024-01-02 03:00:00.000000001']),
        'category': (pd.Categorical([7, 8, 7]), ['7', '8']),
    }  # fmt: skip
    for name, (column, expected) in values.items():
        table = pd.DataFrame({'user': column, 'item': [1, 2, 3]})
        report = prepare_table(table, tmp_path / name, **NAMES)
        assert IdMap.load(tmp_path / name, 'user').ids == expected, name
        assert sum(report.dropped.values()) == 3 - report.kept['interactions']
    for column in ([[1], [2]], [{'a': 1}, None], [(1, 2), 'x']):
        with pytest.raises(ValueError, match='ids .*neither numbers nor text'):
            prepare_table({'user': column, 'item': [1, 2]}, tmp_path / 'x', **NAMES)
    with pytest.raises(ValueError, match='an id has 5000 characters'):
        prepare_table(csv(tmp_path, 'user,item\n' + 'a' * 5000 + ',1\n'), tmp_path / 'x', **NAMES)


PLAIN = st.text(st.characters(exclude_categories=['Cs']), max_size=5)
KEYS = {
    'text': PLAIN,
    'unicode forms': st.sampled_from(
        ['\u00e9', 'e\u0301', '\u212b', '\u00c5', 'A\u030a', '\ufb01', 'fi', '\u00df', 'ss']
    ),
    'bytes': st.binary(max_size=3) | st.sampled_from([b'\xff', b'ff', b'\0', 'é'.encode()]),
    'fixed-size bytes': st.binary(min_size=4, max_size=4),
    'uuid': st.uuids(),
    'uint64': st.integers(0, 2**64 - 1) | st.integers(2**63, 2**63 + 9),
    'decimal': st.decimals(-(10**9), 10**9, places=3),
    'float': st.floats(allow_nan=False) | st.sampled_from([1.0, 0.1, 2.0**53, 2.0**53 + 2]),
    'numbers': st.integers(-(2**70), 2**70) | st.floats(allow_nan=False),
}  # fmt: skip


def as_column(kind, keys):
    pa = pytest.importorskip('pyarrow')
    if kind == 'fixed-size bytes':
        return pa.array(keys, pa.binary(4))
    if kind == 'uint64':
        return pa.array(keys, pa.uint64())
    if kind == 'decimal':
        return pa.array(keys, pa.decimal128(20, 3))
    return keys


@pytest.mark.parametrize('kind', KEYS)
@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_no_two_ids_become_one(tmp_path_factory, kind, data):
    """Every kind of key, as a column and (where files have the type) as Parquet."""
    pa, parquet = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    keys = data.draw(st.lists(KEYS[kind], min_size=1, max_size=20, unique=True))
    keys = [key for key in keys if not is_missing(key) and not (key == 0 and keys.count(0) > 1)]
    assume(keys)
    folder = tmp_path_factory.mktemp('keys')
    column = as_column(kind, keys)
    tables = [{'user': column, 'item': list(range(len(keys)))}]
    if kind not in ('uuid', 'numbers'):
        table = pa.table({'user': pa.array(column), 'item': list(range(len(keys)))})
        parquet.write_table(table, folder / 't.parquet')
        tables += [table, folder / 't.parquet']
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = []
        for place, table in enumerate(tables):
            prepare_table(table, folder / f'{place}', **NAMES)
            found.append(IdMap.load(folder / f'{place}', 'user').ids)
    assert len(set(found[0])) == len(keys)
    assert all(ids == found[0] for ids in found)


def test_bytes_that_are_text_stay_text(tmp_path):
    pa = pytest.importorskip('pyarrow')
    ids = [b'abc', 'é'.encode(), b'\xc8\x01', b'a\0']
    prepare_table(pa.table({'user': ids, 'item': [1] * 4}), tmp_path / 'out', **NAMES)
    assert IdMap.load(tmp_path / 'out', 'user').ids == ['abc', 'é', 'c801', '6100']


def test_words_for_missing_values(tmp_path):
    words = ['NULL', 'NA', 'N/A', 'None', 'nan', '\\N', '  ', '\t']
    text = 'user,item,stars\n' + ''.join(f'{word},i,1\n' for word in words) + 'a,i,1\na,j,NULL\n'
    report = prepare_table(csv(tmp_path, text), tmp_path / 'a', **NAMES, rating='stars')
    assert report.dropped == {
        'without a user id (user)': 8, 'whose rating (stars) is no number': 1
    }  # fmt: skip
    assert report.examples == {'without a user id (user)': 'NULL'}
    report = prepare_table(csv(tmp_path, text), tmp_path / 'b', **NAMES, keep_null_words=True)
    assert IdMap.load(tmp_path / 'b', 'user').ids == [*words[:6], 'a']
    assert report.dropped == {'without a user id (user)': 2}


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
        min_rating=2, k_core=2, split='random',
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
    assert report.examples == {
        'whose rating (stars) is no number': 'good', 'whose time (at) is no time': 'today'
    }  # fmt: skip
    assert "is no time, such as 'today'" in str(report)
    assert str(PrepareReport.load(tmp_path / 'out')) == str(report)
    table = read_back(tmp_path / 'out')
    assert table['weight'].tolist() == [3.5, 1, 1, 1]  # weights of repeated pairs add up
    assert report.kept['interactions'] + sum(report.dropped.values()) == report.num_rows


def test_faults_of_json_are_counted(tmp_path):
    text = (
        '{"user": "a", "item": 1, "note": [1, {"x": 2}]}\nbroken\n[1]\n{"user": "b"}\n'
        '{"user": "b", "item": 1.0}\n{"user": null, "item": 3}\n{"user": "c", "item": "18"}\n'
        '{"user": "c", "item": 184467440737095516170}\n'
    )
    report = prepare_table(csv(tmp_path, text, 't.jsonl'), tmp_path / 'out', **NAMES)
    assert report.num_rows == 8
    assert report.dropped == {
        'that are no JSON object': 2, 'without a user id (user)': 1, 'without an item id (item)': 1
    }  # fmt: skip
    assert IdMap.load(tmp_path / 'out', 'item').ids == ['1', '18', '184467440737095516170']


@pytest.mark.parametrize('quoted', ['', '"z",'])
def test_inch_marks(tmp_path, quoted):
    """In fields without quotes, with and without others in the file that have some."""
    text = 'user,item,title\na,1,Monitor 27" black\nb,2,15" and 17"\n'
    text += '"c",1,"a ""good"", one\nof two lines"\n' if quoted else 'c,1,x\n'
    report = prepare_table(
        csv(tmp_path, text), tmp_path / 'out', **NAMES, text='title', text_encoder=encode
    )
    assert report.kept['interactions'] == 3 and report.dropped == {}
    assert IdMap.load(tmp_path / 'out', 'user').ids == ['a', 'b', 'c']
    assert ENCODED == ['Monitor 27" black', '15" and 17"']


ENCODED = []


def encode(texts):
    ENCODED[:] = texts
    return np.ones((len(texts), 1))


@pytest.mark.parametrize(
    ('kwargs', 'user'),
    [
        ({'user': 'u', 'item': 'i', 'names': ['u', 'i', 'n']}, 'u'),
        ({'user': 'u', 'item': 'i', 'names': ['u', 'i', 'n'], 'header': False, 'sep': '|'}, 'u'),
    ],
)
def test_names_of_columns(tmp_path, kwargs, user):
    table = csv(tmp_path, '1|2|x\n3|2|y\n', 't.dat')
    report = prepare_table(table, tmp_path / 'out', **kwargs)
    assert report.num_rows == 2 and IdMap.load(tmp_path / 'out', 'user').ids == ['1', '3']
    with pytest.raises(ValueError, match="looks like data: '1, 2, x'.*its 3 columns"):
        prepare_table(table, tmp_path / 'x', user='1', item='2')


def test_columns_that_are_numbers(tmp_path):
    frame, file = pd.DataFrame([[5, 6], [7, 6]]), csv(tmp_path, '0,1\n5,6\n7,6\n')
    for name, table in (('frame', frame), ('csv', file)):
        prepare_table(table, tmp_path / name, user=0, item=1)
        assert IdMap.load(tmp_path / name, 'user').ids == ['5', '7']


def test_lists_in_a_field_are_told_of(tmp_path):
    text = 'user,item\n' + ''.join(f'u{k},{k} {k + 1} {k + 2}\n' for k in range(9))
    with pytest.warns(UserWarning, match='9 of 9 interactions .*write a row for each'):
        prepare_table(csv(tmp_path, text), tmp_path / 'out', **NAMES)


def test_nothing_is_left_beside_the_output(tmp_path):
    path = csv(tmp_path, gzip.compress(CSV.encode()), 't.csv.gz')
    prepare_table(path, tmp_path / 'a' / 'out', **NAMES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 't.csv.gz']
    assert [p.name for p in (tmp_path / 'a').iterdir()] == ['out']


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
