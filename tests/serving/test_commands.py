"""`mrdib recommend` and `mrdib export` with the ids of a data folder, lists and files."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
import torch

from mrdib_pyg.cli import main
from mrdib_pyg.commands import recommend as recommend_command
from mrdib_pyg.commands.arguments import Usage
from mrdib_pyg.datasets import InteractionFolder, write_folder
from mrdib_pyg.serving import ItemIndex, known_pairs, load_export, make_app
from mrdib_pyg.serving.server import allowed_hosts, listen
from mrdib_pyg.training import load_model


@pytest.fixture(scope='module')
def folder(tmp_path_factory, data, ids):
    folder = tmp_path_factory.mktemp('commands') / 'named'
    write_folder(data, folder)
    ids[0].save(folder, 'user')
    ids[1].save(folder, 'item')
    return folder


@pytest.fixture(scope='module')
def run(folder):
    out = folder.parent / 'run'
    argv = ['train', '--dataset', folder, '--out', out, '--set', 'channels=8', '--epochs', '1']
    assert main([*map(str, argv), '--quiet']) == 0
    return out


@pytest.fixture(scope='module')
def trained(run, folder):
    return load_model(run / 'best.pt', InteractionFolder(folder)[0])[0]


def call(*argv):
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as e:
        return e.code


def refused(capsys, argv, message):
    assert call(*argv) == 2
    out, err = capsys.readouterr()
    assert out == '' and message in err and len(err.splitlines()) <= 3


def rows(text):
    return [tuple(row[n] for n in (0, 2)) for row in csv.reader(text.splitlines()[1:])]


def expected(trained, ids, users, k, known):
    """The best items of the users that are not among the known pairs."""
    item = trained.recommend(torch.tensor(users), k=50, exclude_seen=False)[1]
    known = set(map(tuple, known.t().tolist()))
    rows = [[i for i in row if (u, i) not in known][:k] for u, row in zip(users, item.tolist())]
    return [(ids[0][u], ids[1][i]) for u, row in zip(users, rows) for i in row]


@pytest.fixture(scope='module')
def known(folder):
    return known_pairs(InteractionFolder(folder)[0])


def test_recommend_speaks_raw_ids(capsys, tmp_path, run, trained, ids, known):
    assert call('recommend', run, '--k', 3) == 0
    assert rows(capsys.readouterr().out) == expected(trained, ids, list(range(40)), 3, known)
    assert call('recommend', run, '--k', 2, '--users', 'u5,u0') == 0
    assert rows(capsys.readouterr().out) == expected(trained, ids, [5, 0], 2, known)
    users = tmp_path / 'users.txt'
    users.write_text('\ufeffu5\n\nJosé, "J"\n', encoding='utf-8')
    assert call('recommend', run, '--k', 2, '--users', users, '--json') == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line['user'] for line in lines] == ['u5', 'José, "J"']
    pairs = [(line['user'], item) for line in lines for item in line['item']]
    assert pairs == expected(trained, ids, [5, 3], 2, known)


@pytest.mark.parametrize(
    ('argv', 'kind'),
    [
        ([], 'all'), (['--exclude', 'all'], 'all'), (['--exclude', 'train'], 'train'),
        (['--exclude', 'none'], 'none'), (['--include-seen'], 'none'),
        (['--include-seen', '--exclude', 'none'], 'none'),
    ],
)  # fmt: skip
def test_recommend_excludes(capsys, run, trained, ids, known, argv, kind):
    train = trained.train_edge_index
    assert known.size(1) == 400 and train.size(1) == 240
    pairs = {'all': known, 'train': train, 'none': known[:, :0]}[kind]
    assert call('recommend', run, '--k', 50, *argv) == 0
    found = rows(capsys.readouterr().out)
    assert found == expected(trained, ids, list(range(40)), 50, pairs)
    assert len(found) == 40 * 50 - pairs.size(1)


@pytest.mark.parametrize(
    'host',
    [
        '127.0.0.1',
        'localhost',
        'LOCALHOST',
        '127.1',
        '127.0.0.2',
        '::1',
        '0:0::1',
        '::ffff:127.1.2.3',
    ],
)
def test_on_the_loopback_only_its_names_are_answered(connect, model, host):
    try:
        listener = listen(host, 0)
    except Usage as e:
        pytest.skip(str(e))  # e.g. no IPv6
    with listener:
        hosts = allowed_hosts(host, listener)
        bound = listener.getsockname()[0]
    bound = f'[{bound}]' if ':' in bound else bound
    with connect(make_app(model, hosts=hosts)) as client:
        for name, status in (
            ('localhost', 200), ('127.0.0.1', 200), (bound, 200), ('elsewhere.test', 400),
        ):  # fmt: skip
            assert client.get('/health', headers={'Host': f'{name}:8000'}).status_code == status


def test_elsewhere_any_name_is_answered():
    for host in ('0.0.0.0', ''):
        with listen(host, 0) as listener:
            assert allowed_hosts(host, listener) is None


def test_a_name_of_the_loopback():
    """A name that resolves to it, as in /etc/hosts."""

    class Listener:
        def getsockname(self):
            return ('127.0.1.1', 8000)

    assert 'this-machine' in allowed_hosts('this-machine', Listener())


@pytest.mark.parametrize('argv', [[], ['--exclude', 'train']])
def test_serve_excludes(run, known, monkeypatch, argv):
    pytest.importorskip('fastapi')
    pytest.importorskip('uvicorn')
    made = []
    monkeypatch.setattr('mrdib_pyg.serving.make_app', lambda *a, **kwargs: made.append(kwargs))
    monkeypatch.setattr('mrdib_pyg.serving.server.serve', lambda *a: None)
    monkeypatch.setattr('torch.set_num_threads', lambda n: None)
    assert call('serve', run, '--port', 0, *argv) == 0
    exclude = made[0]['exclude']
    assert exclude is None if argv else torch.equal(exclude, known)


def test_recommend_lists(capsys, tmp_path, run, ids):
    (tmp_path / 'allow').write_text('i1\na b\n<b>7</b>\ni9\n')
    (tmp_path / 'deny').write_text('i9\n')
    argv = ['recommend', run, '--include-seen', '--users', 'u1', '--allow', tmp_path / 'allow']
    assert call(*argv) == 0
    assert sorted(i for _, i in rows(capsys.readouterr().out)) == ['<b>7</b>', 'a b', 'i1', 'i9']
    assert call(*argv, '--deny', tmp_path / 'deny') == 0
    assert sorted(i for _, i in rows(capsys.readouterr().out)) == ['<b>7</b>', 'a b', 'i1']


@pytest.mark.parametrize('name', ['recs.csv', 'recs.jsonl', 'recs.parquet', 'recs'])
def test_recommend_files(capsys, tmp_path, run, trained, ids, known, name):
    out = tmp_path / name
    if name.endswith('parquet'):
        pytest.importorskip('pyarrow')
    assert call('recommend', run, '--k', 4, '--out', out) == 0
    assert capsys.readouterr() == ('', '')
    if name.endswith('parquet'):
        from pyarrow import parquet

        table = parquet.read_table(out).to_pydict()
        found = list(zip(table['userID'], table['itemID']))
    elif name.endswith('jsonl'):
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        found = [(line['user'], item) for line in lines for item in line['item']]
    else:
        found = rows(out.read_text())
    assert found == expected(trained, ids, list(range(40)), 4, known)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_export(capsys, tmp_path, run, trained, ids, folder):
    pytest.importorskip('pyarrow')
    pytest.importorskip('safetensors')
    out = tmp_path / 'out'
    assert call('export', run, '--out', out) == 0
    assert capsys.readouterr() == (f'wrote {out}\n', '')
    loaded = load_export(out)
    assert torch.equal(loaded.user, trained.embed().user)
    assert torch.equal(loaded.item, trained.embed().item)
    assert loaded.user_ids.ids == ids[0].ids and loaded.item_ids.ids == ids[1].ids
    assert loaded.info['dataset'] == 'named'
    refused(capsys, ['export', run, '--out', out], '--out must be a new or empty folder')
    assert call('export', run, '--out', tmp_path / 'ogb', '--format', 'ogb') == 0
    assert (tmp_path / 'ogb' / 'mrdib' / 'mapping' / 'item_ids.csv').is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['ogb', 'out']


def test_refusals(capsys, tmp_path, run):
    (tmp_path / 'items').write_text('i1\nnothing\n')
    (tmp_path / 'empty').write_text('\n')
    (tmp_path / 'binary').write_bytes(b'\xff\xfe')
    every = '\n'.join(f'i{i}' for i in range(50) if i not in (7, 8)) + '\n<b>7</b>\na b\n'
    (tmp_path / 'every').write_text(every)
    recommend = ['recommend', run]
    for argv, message in (
        (['--users', 'u1,x'], "--users: there is no 'x' in the data"),
        (['--users', '3'], 'and there is no such file'),  # an index is no id here
        (['--users', tmp_path / 'empty'], 'names nothing'),
        (['--allow', tmp_path / 'items'], "there is no 'nothing' in the data"),
        (['--allow', tmp_path / 'none'], 'there is no such file'),
        (['--deny', tmp_path / 'binary'], 'is not a text file of ids'),
        (['--deny', tmp_path], 'is not a text file of ids'),
        (['--deny', tmp_path / 'every'], 'leave none of the 50 items'),
        (['--k', 51], '--k must be between 1 and the 50 items'),
        (['--include-seen', '--exclude', 'all'], '--include-seen and --exclude all exclude each'),
        (['--exclude', 'some'], 'invalid choice'),
        (['--out', tmp_path / 'a.xlsx'], 'are written as .csv, .jsonl'),
        (['--out', '/dev/null'], '--out must be a file in a folder that exists'),
        (['--out', tmp_path / 'a.csv', '--json'], 'exclude each other'),
        (['--out', tmp_path], '--out must be a file in a folder that exists'),
    ):
        refused(capsys, [*recommend, *argv], message)
    for argv, message in (
        (['--port', 70000], '--port must lie between 0 and 65535'),
        (['--threads', 0], '--threads must lie between 1 and 256'),
        (['--max-k', 0], '--max-k must lie between 1'),
        (['--host', 'no-such-host.invalid'], 'cannot listen at no-such-host.invalid'),
    ):
        pytest.importorskip('fastapi')
        pytest.importorskip('uvicorn')
        refused(capsys, ['serve', run, *argv], message)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {'items', 'empty', 'binary', 'every'}


def test_ids_that_do_not_fit(capsys, tmp_path, data, run):
    write_folder(data, tmp_path / 'data')
    (tmp_path / 'data' / 'user_ids.csv').write_text('userID,raw_id\n0,a\n')
    argv = ['recommend', run, '--dataset', tmp_path / 'data']
    refused(capsys, argv, 'has user_ids.csv with 1 ids, but 40 users')


@pytest.mark.parametrize('package', ['pyarrow', 'fastapi'])
def test_missing_packages(capsys, tmp_path, run, monkeypatch, package):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *a: None if name == package else find(name, *a)
    )
    commands = [['serve', run]]
    if package == 'pyarrow':
        commands = [
            ['recommend', run, '--out', tmp_path / 'a.parquet'],
            ['export', run, '--out', tmp_path / 'out'],
        ]
    for argv in commands:
        refused(capsys, argv, f"needs {package}: pip install 'mrdib_pyg[serve]'")
    assert list(tmp_path.iterdir()) == []


def test_terminals_are_not_obeyed():
    class Shown(io.StringIO):
        encoding = 'ascii'

    shown = Shown()
    terminal = recommend_command._Terminal(shown)
    terminal.write('id\x1b[2J,José\x07\r,\x9b31m,tab\there\n')
    assert shown.getvalue() == 'id\\x1b[2J,Jos\\xe9\\x07\\r,\\x9b31m,tab\there\n'


def test_ids_outside_of_the_locale(run, tmp_path):
    """Of ASCII output, too, every id arrives, as UTF-8."""
    env = {**os.environ, 'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0'}
    command = [sys.executable, '-m', 'mrdib_pyg.cli', 'recommend', str(run), '--k', '2']
    done = subprocess.run(command, env=env, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.decode('utf-8').splitlines()) == 1 + 2 * 40


def test_an_index_in_a_new_process(tmp_path):
    pytest.importorskip('faiss')
    pytest.importorskip('safetensors')
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    index = ItemIndex(x, approximate=True)
    index.save(tmp_path / 'index')
    code = (
        'import sys, torch; from mrdib_pyg.serving import ItemIndex; '
        'print(ItemIndex.load(sys.argv[1]).search(torch.ones(1, 8), 3)[1].tolist())'
    )
    command = [sys.executable, '-c', code, str(tmp_path / 'index')]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == index.search(torch.ones(1, 8), 3)[1].tolist()
