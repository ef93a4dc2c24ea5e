import pandas as pd
import pytest

from mrdib_pyg.commands.arguments import Usage, read_id, read_id_file, read_ids
from mrdib_pyg.datasets import IdMap, prepare_table
from mrdib_pyg.datasets.features import read_order

RAW = ['a', ' a', 'b ', 'x\u2028y', 'p\x0bq', 'c,d', '7', 'e\x85f', 'g\rh', '\ta']


@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('start', ['', '\ufeff'])
def test_every_id_that_data_hold_can_be_named(tmp_path, start, end):
    """As they are prepared, so they are read: in a file, in any order, and one by one."""
    table = pd.DataFrame({'user': RAW, 'item': range(len(RAW))})
    prepare_table(table, tmp_path / 'out', user='user', item='item')
    ids = IdMap.load(tmp_path / 'out', 'user')
    assert ids.ids == RAW
    path = tmp_path / 'ids.txt'
    path.write_bytes((start + end.join(RAW[::-1]) + end).encode())
    expected = list(range(len(RAW)))[::-1]
    assert read_id_file('--allow', str(path), ids, len(RAW)) == expected
    assert read_ids('--users', str(path), ids, len(RAW)) == expected
    assert read_order(path) == RAW[::-1]
    assert [read_id('--user', raw, ids, len(RAW)) for raw in RAW[::-1]] == expected
    assert read_ids('--users', ' a,b ,a,7', ids, len(RAW)) == [1, 2, 0, 6]


def test_spaces_around_ids_that_have_none(tmp_path):
    ids = IdMap(['a', 'b c', 'd'])
    assert read_ids('--users', ' a, b c ,d', ids, 3) == [0, 1, 2]
    (tmp_path / 'ids').write_text(' a\n\nb c\t\n  \n')
    assert read_id_file('--deny', str(tmp_path / 'ids'), ids, 3) == [0, 1]
    # A blank line is none, also where the data have an id without characters.
    assert read_id_file('--deny', str(tmp_path / 'ids'), IdMap(['', 'a', 'b c']), 3) == [1, 2]
    for text in ('', ' ', ' , '):
        with pytest.raises(Usage, match='--users names nothing'):
            read_ids('--users', text, ids, 3)
    with pytest.raises(
        Usage, match=r"no 'e' in the data \(ids are 'a' and 'b c'...\); ids that hold"
    ):
        read_ids('--users', 'a, e', ids, 3)
    with pytest.raises(Usage, match=r"'b c'...\), and there is no such file"):
        read_ids('--users', 'e', ids, 3)
    assert read_ids('--users', 'Zoë, "Z"', IdMap(['a', 'Zoë, "Z"']), 2) == [1]


def test_indices(tmp_path):
    (tmp_path / 'ids').write_text('0 1,2\r\n1\n')
    assert read_id_file('--deny', str(tmp_path / 'ids'), None, 3) == [0, 1, 2, 1]
    with pytest.raises(Usage, match='must be ids from 0 to 2'):
        read_ids('--users', '3', None, 3)
