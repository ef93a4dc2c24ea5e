import pytest

from benchmarks.markdown import insert, make_table


def test_table_is_inserted_between_its_marks(tmp_path):
    readme = tmp_path / 'README.md'
    readme.write_text('a\n<!-- table: toy -->\nold\n<!-- end of table: toy -->\nb\n')
    insert(readme, 'toy', 'new')
    assert readme.read_text() == 'a\n<!-- table: toy -->\nnew\n<!-- end of table: toy -->\nb\n'
    with pytest.raises(SystemExit, match='no marks'):
        insert(readme, 'other', 'new')


def test_rows_and_header_of_a_table():
    assert make_table(['a', 'b'], [['1', '2']]) == '| a | b |\n|---|---|\n| 1 | 2 |'
