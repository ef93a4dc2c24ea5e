import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pytest
from tables import CSV, HEADER, NAMES, VECTORS, csv, refuse

from mrdib_pyg.datasets import (
    IdMap,
    prepare_table,
)


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
        tmp_path, "is left: 2 rows were read, 2 whose rating .stars. is no number, such as '3,5'",
        table=HEADER + 'a,b,"3,5",1\na,c,"4,0",2\n', rating='stars',
    )  # fmt: skip
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


def test_refused_files(tmp_path):
    refuse(tmp_path, 'there is no table', FileNotFoundError, table=tmp_path / 'none.csv')
    refuse(tmp_path, 'is a folder', table=tmp_path)
    refuse(tmp_path, 'is a spreadsheet.*export it as CSV', table=csv(tmp_path, name='t.xlsx'))
    refuse(tmp_path, 'is empty', table='')
    refuse(tmp_path, 'UTF-8 text', table=HEADER.encode() + b'\xff\xfe,1,1,1\n')
    refuse(tmp_path, 'no row of names', table=b'\xff,1,1,1\n')
    refuse(tmp_path, 'is UTF-16', table=CSV.encode('utf-16'))
    for kind, pack in (('gz', gzip.compress), ('bz2', bz2.compress), ('xz', lzma.compress)):
        torn = pack(CSV.encode() * 50)[:-9]
        refuse(tmp_path, 'cut short or damaged', table=csv(tmp_path, torn, f't.csv.{kind}'))
        refuse(tmp_path, 'cut short or damaged', table=csv(tmp_path, CSV, f'u.csv.{kind}'))
    with zipfile.ZipFile(tmp_path / 'two.zip', 'w') as archive:
        archive.writestr('a.csv', CSV)
        archive.writestr('b.csv', CSV)
    refuse(tmp_path, 'holds 2 files .a.csv, b.csv.', table=tmp_path / 'two.zip')
    refuse(tmp_path, 'not a Parquet|Parquet|damaged', table=csv(tmp_path, b'PAR1' * 9, 't.parquet'))
    refuse(tmp_path, "'sep' needs to be one to four", sep='"')
    refuse(tmp_path, "'names' has 2 names, but .* 4 fields", names=['user', 'item'], sep=',')
    refuse(tmp_path, "needs the names of its columns: 'names'", header=False)
    refuse(tmp_path, "neither|'table' needs to be a path", TypeError, table=5)


@pytest.mark.parametrize('rows', [2, 1_000_000])
@pytest.mark.parametrize('text', ['"a,1\n', 'a,"1\n', '"a,1\nb,"2"\n'])
def test_a_quote_that_does_not_end(tmp_path, rows, text):
    """Whatever the size of the file: no row behind it is lost in silence."""
    table = csv(tmp_path, 'user,item\na,"3"\n' + text + 'b,2\n' * rows)
    refuse(tmp_path, 'double quote that does not end .*pass quote=False', table=table)
    prepare_table(table, tmp_path / 'ok', **NAMES, quote=False)
    assert IdMap.load(tmp_path / 'ok', 'item').ids[-1].strip('"') == '2'


def test_refused_features(tmp_path):
    def wrong(match, value, error=ValueError, **kwargs):
        refuse(tmp_path, match, error, features={'a': value}, **kwargs)

    wrong('no file', tmp_path / 'none.npy', FileNotFoundError)
    wrong('must be .npy, .npz or .safetensors', csv(tmp_path, name='f.csv'))
    wrong('expected .rows, F.', np.ones(3))
    wrong('expected real numbers', np.ones((3, 2), 'c8'))
    wrong("'item_order' names 2 items", np.ones((3, 2)), item_order=['a', 'b'])
    wrong('a row for none of the items', np.ones((1, 2)), item_order=['a'])
    wrong('a vector for none of the items.*such as', {'a': [1]})
    wrong('3 numbers for the item', {'007': [1, 2], '12': [1, 2, 3]})
    wrong('an empty vector', {'007': []})
    wrong('no file', np.ones((1, 2)), FileNotFoundError, item_order=tmp_path / 'none.txt')
    wrong('must be a text file', np.ones((1, 2)), item_order=csv(tmp_path, b'\xff\xfe', 'o.txt'))
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
    with zipfile.ZipFile(tmp_path / 'g.npz', 'w', zipfile.ZIP_DEFLATED) as archive:
        with zipfile.ZipFile(tmp_path / 'f.npz') as old:
            raw = old.read('007.npy').replace(b'(2,), }' + b' ' * 11, b'(2000000000000,), }')
        archive.writestr('007.npy', raw)
    assert content != (tmp_path / 'g.npz').read_bytes()
    refuse(tmp_path, r"g\.npz' is no complete", features={'a': tmp_path / 'g.npz'})


def test_an_input_in_the_folder_is_not_replaced(tmp_path):
    """Whether it is named by its own path or by that of a link."""
    out = tmp_path / 'out'
    prepare_table(csv(tmp_path), out, **NAMES, features={'a': VECTORS})
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / 'link.inter').symlink_to(out / 'out.inter')
    table = {'user': 'userID', 'item': 'itemID'}
    for path in (out / 'out.inter', tmp_path / 'link.inter', str(out / '..' / 'out' / 'out.inter')):
        with pytest.raises(ValueError, match='is an input, and one of the files'):
            prepare_table(path, out, **table, force=True)
    for kwargs in ({'features': {'a': out / 'a_feat.npy'}}, {'item_order': out / 'item_ids.csv'}):
        with pytest.raises(ValueError, match='is an input, and one of the files'):
            prepare_table(tmp_path / 't.csv', out, **NAMES, **kwargs, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    csv(out, name='orders.csv')  # which stays
    prepare_table(out / 'orders.csv', out, **NAMES, force=True)
    assert (out / 'orders.csv').exists()


def test_nothing_is_left_by_a_failure_while_writing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mrdib_pyg.datasets._prepare.write_table', full)
    with pytest.raises(OSError, match='No space left'):
        prepare_table(csv(tmp_path), tmp_path / 'out', **NAMES)
    assert [p.name for p in tmp_path.iterdir()] == ['t.csv']


def test_ids_that_were_read_as_floats_are_told_of(tmp_path):
    text = 'user,item\na,0\nb,1\n,\n'
    refuse(
        tmp_path, r"\(got '0.0', a float", features={'a': np.ones((2, 3))},
        table=csv(tmp_path, text.replace(',0', ',0.0').replace(',1', ',1.0')),
    )  # fmt: skip
