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


ONES = 'user,item\na,x\nb,x\nc,y\n'


@pytest.mark.parametrize(
    ('text', 'argv', 'message'),
    [
        ('user;item\na;x\n', ['--sep', ','], "separated by ','? If not, pass --sep"),
        ('1\t2\t3\n4\t5\t6\n', [], 'looks like data'),
        ('1\t2\t3\n4\t5\t6\n', [], 'its 3 columns: --header none --names'),
        ('user,item\n1,2\n', ['--names', 'a,b,c'], '--names has 3 names'),
        ('user,item\n1,2\n', ['--header', 'none'], 'add --names NAME,...'),
        (b'user,item\n\xfcber,x\n', [], 'or convert it to UTF-8'),
        (ONES, ['--k-core', '9'], 'Please choose a smaller --k-core'),
        (ONES, ['--k-core', '-1'], '--k-core needs to be at least'),
        (ONES, ['--time-format', '%d'], '--time-format is that of the column of times'),
        ('user,item,at\na,x,05/03/2023\n', ['--time', 'at'], "give their form as --time-format, "
                                                             "'%d/%m/%Y' or '%m/%d/%Y'"),
    ],
)  # fmt: skip
def test_messages_name_options(capsys, tmp_path, text, argv, message):
    table, out = tmp_path / 'table.csv', tmp_path / 'out'
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    argv = ['prepare', 'table', str(table), '--user', 'user', '--item', 'item', *argv]
    assert main([*argv, '--out', str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_tables_without_a_header(tmp_path, capsys):
    table, out = tmp_path / 'ratings.dat', tmp_path / 'out'
    table.write_text('1::1193::5::978300760\n2::1193::4::978300761\n1::914::3::978300762\n')
    argv = ['prepare', 'table', str(table), '--user', 'u', '--item', 'i', '--out', str(out)]
    assert main([*argv, '--names', 'u,i,r,t', '--header', 'none', '--time', 't']) == 0
    shown = capsys.readouterr().out
    assert '3 rows of' in shown and '2 users with 2 items' in shown
    assert 'the split is by time' in shown and '--split random' in shown


def test_the_parser_of_a_source_has_its_name(capsys):
    with pytest.raises(SystemExit):
        main(['prepare', 'table', 'x.csv', '--out', 'x'])
    assert 'mrdib prepare table: the following' in capsys.readouterr().err


def test_data_without_validation_are_told_of(capsys, tmp_path):
    table, out = tmp_path / 'table.csv', tmp_path / 'out'
    table.write_text(ONES)
    argv = ['prepare', 'table', str(table), '--user', 'user', '--item', 'item', '--out', str(out)]
    assert main(argv) == 0
    assert 'no interaction is for validation' in capsys.readouterr().err
    argv = ['train', '--dataset', str(out), '--model', 'LightGCN', '--epochs', '1', '--quiet']
    assert main([*argv, '--out', str(tmp_path / 'run')]) == 0
    captured = capsys.readouterr()
    assert 'there are no validation edges to select by' in captured.err
    assert 'best epoch 1 of 1' in captured.out
