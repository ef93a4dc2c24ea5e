"""Permissions and durability; what a failure leaves is tested with the checkpoints."""

import os
import stat

import pytest
import torch

from mrdib_pyg.training import atomic_file, atomic_folder, save_checkpoint, write_atomic

posix = pytest.mark.skipif(os.name != 'posix', reason='permissions of POSIX')


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """Sets the umask, until the end of the test."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


@posix
@pytest.mark.parametrize('mask', [0o022, 0o077, 0o002, 0o027])
def test_new_files_and_folders_heed_the_umask(tmp_path, umask, mask):
    umask(mask)
    write_atomic(tmp_path / 'a', b'new')
    save_checkpoint(tmp_path / 'b', {'x': torch.ones(2)})
    with atomic_folder(tmp_path / 'c') as part:
        (part / 'file').write_bytes(b'new')
        (part / 'folder').mkdir()
    with open(tmp_path / 'plain', 'wb'):
        pass
    (tmp_path / 'plain_folder').mkdir()
    for name in ('a', 'b', 'c/file'):
        assert mode(tmp_path / name) == mode(tmp_path / 'plain') == 0o666 & ~mask
    for name in ('c', 'c/folder'):
        assert mode(tmp_path / name) == mode(tmp_path / 'plain_folder') == 0o777 & ~mask


@posix
@pytest.mark.parametrize('old', [0o600, 0o640, 0o664, 0o444])
def test_a_file_keeps_its_permissions(tmp_path, umask, old):
    umask(0o022)
    path = tmp_path / 'a'
    path.write_bytes(b'old')
    path.chmod(old)
    with atomic_file(path) as part:
        assert mode(part) == 0o600  # nobody else reads what is not there yet
        part.write_bytes(b'new')
    assert path.read_bytes() == b'new' and mode(path) == old


@posix
def test_an_empty_folder_keeps_its_permissions(tmp_path):
    folder = tmp_path / 'a'
    folder.mkdir()
    folder.chmod(0o750)
    with atomic_folder(folder) as part:
        assert mode(part) == 0o700
        (part / 'file').write_bytes(b'new')
    assert mode(folder) == 0o750 and (folder / 'file').read_bytes() == b'new'


@posix
def test_names_are_synced_after_they_are_in_place(tmp_path, monkeypatch):
    synced = []

    def fsync(fd):
        folder = os.readlink(f'/proc/self/fd/{fd}')
        synced.append((os.path.relpath(folder, tmp_path), sorted(os.listdir(tmp_path))))

    if not os.path.isdir('/proc/self/fd'):
        pytest.skip('no /proc')
    monkeypatch.setattr(os, 'fsync', fsync)
    write_atomic(tmp_path / 'a', b'new')
    assert synced[-1] == ('.', ['a'])
    with atomic_folder(tmp_path / 'b') as part:
        (part / 'c').mkdir()
        (part / 'c' / 'file').write_bytes(b'new')
    assert synced[-1] == ('.', ['a', 'b'])
    inner = {name.partition('/')[2] for name, _ in synced[2:-1]}
    assert inner == {'', 'c', 'c/file'}


@posix
def test_a_system_that_cannot_sync_folders(tmp_path, monkeypatch):
    """What is in place is not reported as failed."""
    fsync = os.fsync

    def refuse(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError('Invalid argument')
        fsync(fd)

    monkeypatch.setattr(os, 'fsync', refuse)
    write_atomic(tmp_path / 'a', b'new')
    with atomic_folder(tmp_path / 'b'):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b']


def test_names_that_are_taken(tmp_path, monkeypatch):
    (tmp_path / '.a.0.tmp').write_bytes(b'of another')
    names = iter(['0', '0', '1'])
    monkeypatch.setattr('secrets.token_hex', lambda n: next(names))
    write_atomic(tmp_path / 'a', b'new')
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        '.a.0.tmp': b'of another', 'a': b'new',
    }  # fmt: skip


@posix
def test_links_stay_and_what_they_name_is_replaced(tmp_path):
    (tmp_path / 'target').write_bytes(b'old')
    (tmp_path / 'link').symlink_to('target')
    write_atomic(tmp_path / 'link', b'new')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'target').read_bytes() == b'new'
    (tmp_path / 'empty').mkdir()
    for name, target in (('to_empty', 'empty'), ('to_none', 'none')):
        (tmp_path / name).symlink_to(target)
        with atomic_folder(tmp_path / name) as part:
            (part / 'file').write_bytes(b'new')
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target / 'file').read_bytes() == b'new'
