import gzip
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from tables import CSV, NAMES, ROWS, csv, frame, load, read_back

from mrdib_pyg.datasets import IdMap, PrepareReport, _chunks, prepare_table, random_split


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
    assert report.examples == {
        'whose rating (stars) is no number': 'good', 'whose time (at) is no time': 'today'
    }  # fmt: skip
    assert "is no time, such as 'today'" in str(report)
    assert str(PrepareReport.load(tmp_path / 'out')) == str(report)
    table = read_back(tmp_path / 'out')
    assert table['weight'].tolist() == [3.5, 1, 1, 1]  # weights of repeated pairs add up
    assert report.kept['interactions'] + sum(report.dropped.values()) == report.num_rows


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
