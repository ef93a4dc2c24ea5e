import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_folder import special

from mrdib_pyg.datasets import IdMap


def test_id_map():
    ids = IdMap(['b', 7, 'a'])
    assert str(ids) == 'IdMap(3)'
    assert len(ids) == 3
    assert [ids[i] for i in range(3)] == ['b', '7', 'a']
    assert ids.index('a') == 2 and ids.index(7) == ids.index('7') == 1
    assert 'b' in ids and 7 in ids and 'c' not in ids
    with pytest.raises(KeyError):
        ids.index('c')
    assert len(IdMap([])) == 0


def test_an_id_twice():
    with pytest.raises(ValueError, match="'ids' must be all different .got 'b' twice"):
        IdMap(['a', 'b', 'c', 'b'])


text = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'))


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(text, unique=True))
@pytest.mark.parametrize('kind', ['user', 'item'])
def test_round_trip(tmp_path_factory, kind, ids):
    folder = tmp_path_factory.mktemp('ids')
    IdMap(ids).save(folder, kind)
    assert [path.name for path in folder.iterdir()] == [f'{kind}_ids.csv']
    out = IdMap.load(folder, kind)
    assert out is not None and list(out.ids) == ids


def test_without_a_file(tmp_path):
    assert IdMap.load(tmp_path, 'user') is None
    assert IdMap.load('planted', 'item') is None


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs named pipes')
@pytest.mark.parametrize('kind', ['pipe', 'folder', 'socket', 'device', 'link'])
def test_what_is_there_is_not_absent(tmp_path, kind):
    special(kind, tmp_path / 'item_ids.csv')
    error = FileNotFoundError if kind == 'link' else ValueError
    with pytest.raises(error, match=r"item_ids\.csv' (must be a regular file|is a link)"):
        IdMap.load(tmp_path, 'item')


def test_messages_are_printable(tmp_path):
    folder = tmp_path / '\x1b]0;x\x07'
    folder.mkdir()
    (folder / 'user_ids.csv').write_text('userID,raw_id\n0,"\x1b[2J"\n1,"\x1b[2J"\n')
    with pytest.raises(ValueError) as info:
        IdMap.load(folder, 'user')
    assert str(info.value).isprintable()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'expected the header userID,raw_id'),
        (b'itemID,raw_id\n0,a\n', 'expected the header userID,raw_id'),
        (b'userID,raw_id\n1,a\n', 'line 2 is not 0,<raw id>'),
        (b'userID,raw_id\n0,a\n0,b\n', 'line 3 is not 1,<raw id>'),
        (b'userID,raw_id\n0,a,b\n', 'line 2 is not 0,<raw id>'),
        (b'userID,raw_id\n0,a\n1,a\n', "'ids' must be all different (got 'a' twice"),
        (b'userID,raw_id\n0,"a\n', 'unexpected end of data'),
        (b'userID,raw_id\n0,\xff\n', 'utf-8'),
    ],
)
def test_refused_files(tmp_path, content, message):
    path = tmp_path / 'user_ids.csv'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='cannot be read') as e:
        IdMap.load(tmp_path, 'user')
    assert str(path) in str(e.value) and message in str(e.value)


def test_the_files_of_mmrec(tmp_path):
    (tmp_path / 'u_id_mapping.csv').write_text('user_id\tuserID\nA1\t0\n"x\t2\nA3\t1\n')
    (tmp_path / 'i_id_mapping.csv').write_text('asin\titemID\nB0\t0\n')
    assert IdMap.load(tmp_path, 'user').ids == ['A1', 'A3', '"x']
    assert IdMap.load(tmp_path, 'item').ids == ['B0']
    IdMap(['b']).save(tmp_path, 'item')  # its own come first
    assert IdMap.load(tmp_path, 'item').ids == ['b']
    for content, message in (
        ('', 'u_id_mapping.csv'), ('user_id,item\nA1,0\n', 'userID'),
        ('user_id\tuserID\nA1\n', 'two columns'),
        ('user_id\tuserID\nA1\t1\n', 'userID 0 is missing'),
        ('user_id\tuserID\nA1\t0\nA2\t0\n', 'userID 1 is missing'),
        ('user_id\tuserID\nA1\t0\nA1\t1\n', "got 'A1' twice"),
    ):  # fmt: skip
        (tmp_path / 'u_id_mapping.csv').write_text(content)
        with pytest.raises(ValueError, match=message):
            IdMap.load(tmp_path, 'user')
