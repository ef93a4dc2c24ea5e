import pytest

from mrdib_pyg.cli import main


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--ratios', '0.5,0.3,0.2'], '--ratios are those of --split temporal'),
        (['--split', 'temporal'], 'add --time COLUMN'),
        (['--min-rating', '3'], 'add --rating COLUMN'),
        (['--item-id', 'sku'], 'add --items FILE'),
        (['--item-order', 'order.txt'], 'add --features NAME=FILE'),
        (['--text-encoder', 'hashing'], 'add --text COLUMN'),
        (['--cache', 'vectors'], 'add --text COLUMN'),
    ],
)
def test_options_without_what_they_are_of_are_refused(capsys, tmp_path, argv, message):
    table, out = tmp_path / 'table.csv', tmp_path / 'out'
    table.write_text('user,item\na,x\n')
    argv = ['prepare', 'table', str(table), '--user', 'user', '--item', 'item', *argv]
    assert main([*argv, '--out', str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
