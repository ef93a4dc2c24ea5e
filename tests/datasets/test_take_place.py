import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tables import NAMES, csv, load

from mrdib_pyg import files
from mrdib_pyg.datasets import IdMap, prepare_table


def test_the_folder_is_replaced_only_if_asked(tmp_path):
    out, path = tmp_path / 'out', csv(tmp_path)
    prepare_table(path, out, **NAMES, features={'a': {'12': [1]}}, seed=1)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(ValueError, match='holds prepared data already'):
        prepare_table(path, out, **NAMES)
    with pytest.raises(ValueError, match='no interaction'):
        prepare_table(path, out, **NAMES, k_core=50, force=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    (out / 'notes.txt').write_text('mine')
    prepare_table(path, out, **NAMES, force=True, name='other')
    assert sorted(p.name for p in out.iterdir()) == [
        'item_ids.csv', 'notes.txt', 'other.inter', 'report.json', 'user_ids.csv',
    ]  # fmt: skip
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('x')
    with pytest.raises(ValueError, match='was not prepared by this package'):
        prepare_table(path, tmp_path / 'mine', **NAMES, force=True)
    with pytest.raises(ValueError, match='is a file'):
        prepare_table(path, tmp_path / 'mine' / 'thesis.tex', **NAMES)
    (tmp_path / 'empty').mkdir()
    prepare_table(path, tmp_path / 'empty', **NAMES)
    assert (tmp_path / 'empty' / 'empty.inter').is_file()


def cannot(*args):
    raise OSError(18, 'Invalid cross-device link')


HOWS = ('exchange', 'file by file', 'mounted', 'across devices', 'working directory', 'link')


@pytest.mark.parametrize('how', HOWS)
def test_what_is_replaced_and_what_stays(tmp_path, monkeypatch, how):
    out, path = tmp_path / 'out', csv(tmp_path)
    prepare_table(path, out, **NAMES, features={'a': {'12': [1]}}, name='old')
    (out / 'plots').mkdir()
    (out / 'plots' / 'a.png').write_text('mine')
    (out / 'latest').symlink_to('plots')
    (out / 'user_ids.csv').write_text('damaged')
    inode = (out / 'plots' / 'a.png').stat().st_ino
    out.chmod(0o750)
    target = out
    if how == 'file by file':
        monkeypatch.setattr(files, '_exchange', cannot)
    elif how == 'mounted':
        monkeypatch.setattr(files, '_devices', lambda folder: {hash(folder)})
    elif how == 'across devices':
        monkeypatch.setattr(files, '_exchange', cannot)
        monkeypatch.setattr(files.os, 'replace', lambda a, b: Path(b).parent == out and (
            cannot()) or os.rename(a, b))  # fmt: skip
    elif how == 'working directory':
        monkeypatch.chdir(out)
        target = '.'
    elif how == 'link':
        target = tmp_path / 'link'
        target.symlink_to(out)
    prepare_table(path, target, **NAMES, features={'b': {'12': [1]}}, force=True, name='new')
    assert sorted(str(p.relative_to(out)) for p in out.rglob('*')) == [
        'b_feat.npy', 'b_mask.npy', 'item_ids.csv', 'latest', 'new.inter', 'plots', 'plots/a.png',
        'report.json', 'user_ids.csv',
    ]  # fmt: skip
    assert out.stat().st_mode & 0o777 == 0o750
    assert (out / 'plots' / 'a.png').stat().st_ino == inode  # the same file, not a copy
    assert (out / 'latest').is_symlink() and len(IdMap.load(out, 'user')) == 3
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != 'link') == ['out', 't.csv']
    if how == 'working directory':
        assert os.path.exists('new.inter')


def test_features_of_other_hands_are_not_left_beside_other_items(tmp_path):
    out, path = tmp_path / 'out', csv(tmp_path)
    prepare_table(path, out, **NAMES, features={'a': {'12': [1]}})
    np.save(out / 'mine_feat.npy', np.zeros((3, 2), 'f4'))
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(ValueError, match='holds mine_feat.npy, whose rows .* move them away'):
        prepare_table(path, out, **NAMES, force=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_report_names_no_file_outside_of_its_folder(tmp_path):
    out, path = tmp_path / 'out', csv(tmp_path)
    prepare_table(path, out, **NAMES)
    report = json.loads((out / 'report.json').read_text())
    report['modalities'] = {'../other': {'items': 0, 'channels': 1}}
    (out / 'report.json').write_text(json.dumps(report))
    (tmp_path / 'other_feat.npy').write_text('mine')
    prepare_table(path, out, **NAMES, force=True)
    assert (tmp_path / 'other_feat.npy').exists()


def test_a_failure_while_files_follow_one_by_one(tmp_path, monkeypatch):
    out, path = tmp_path / 'out', csv(tmp_path)
    prepare_table(path, out, **NAMES, name='data')
    monkeypatch.setattr(files, '_exchange', cannot)

    def full(source, target):
        if source.name == 'user_ids.csv':
            raise OSError(28, 'No space left on device')
        os.replace(source, target)

    monkeypatch.setattr(files, '_move', full)
    with pytest.raises(OSError, match='No space left.* has no table now; the files .*tmp'):
        prepare_table(path, out, **NAMES, force=True, name='data')
    (part,) = tmp_path.glob('.out.*.tmp')
    names = {p.name for p in part.iterdir()}
    assert {'user_ids.csv', 'data.inter'} <= names and not (out / 'data.inter').exists()
    monkeypatch.undo()
    prepare_table(path, out, **NAMES, force=True, name='data')  # which mends it
    assert (out / 'data.inter').exists() and len(load(out)['user', 'rates', 'item'].edge_index) == 2


KILLER = """
import os, shutil, sys
from pathlib import Path
from killing import die_at_call, fork
from mrdib_pyg import files
from mrdib_pyg.datasets import prepare_table

folder, num_kills, exchanges = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == 'exchange'
out, features = folder / 'out', {'a': folder / 'a.npz'}
if not exchanges:
    def cannot(*args):
        raise OSError('the system cannot exchange two folders')
    files._exchange = cannot
calls = [(os, 'replace'), (os, 'link'), (files, '_exchange'), (os, 'unlink')]

def write(seed, *die):
    if die:
        die_at_call(die[0], *calls)
    names = dict(user='user', item='item')
    prepare_table(folder / f'{seed}.csv', out, **names, features=features, force=True, seed=seed)

def read():
    assert (out / 'mine.txt').read_text() == 'mine'
    return {p.name: p.read_bytes() for p in out.iterdir()}

wanted = []
for seed in (0, 1):
    os.waitpid(fork(lambda: write(seed)), 0)
    (out / 'mine.txt').write_text('mine')
    wanted.append(read())
assert wanted[0] != wanted[1] and any(name.endswith('.inter') for name in wanted[0])
killed, seen = 0, set()
for i in range(num_kills):
    seed, at = i % 2, 1 + i
    _, status = os.waitpid(fork(lambda: write(seed, at)), 0)
    killed += os.WIFSIGNALED(status)
    assert os.WIFSIGNALED(status) or status == 0
    found = read()
    if exchanges or any(name.endswith('.inter') for name in found):
        assert found in wanted, i
        seen.add(wanted.index(found))
    for path in folder.glob('.out.*.tmp'):
        shutil.rmtree(path)
print(killed, len(seen))
"""


@pytest.mark.slow
@pytest.mark.parametrize('how', ['exchange', 'file by file'])
def test_kill_while_a_folder_is_replaced(tmp_path, how):
    rng = np.random.default_rng(0)
    for seed in (0, 1):
        rows = [f'u{u},i{i}' for u, i in rng.integers(0, 40, (400, 2))]
        csv(tmp_path, 'user,item\n' + '\n'.join(rows) + '\n', f'{seed}.csv')
    np.savez(tmp_path / 'a.npz', **{f'i{i}': np.full(3, i, 'f4') for i in range(40)})
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / 'tests')])  # of killing.py
    out = subprocess.run(
        [sys.executable, '-c', KILLER, str(tmp_path), '60', how], capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': paths}, timeout=600,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    killed, versions = map(int, out.stdout.split())
    assert killed > 20 and versions == 2
