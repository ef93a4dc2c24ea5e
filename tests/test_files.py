"""Permissions, durability, links and special files, locks, and writers that run at once."""

import errno
import multiprocessing
import os
import socket
import stat
import threading

import numpy as np
import pytest
import torch

from mrdib_pyg.files import (
    append_line,
    atomic_file,
    atomic_folder,
    is_there,
    lock_folder,
    remove_leftovers,
    replacing_folder,
    write_array,
    write_atomic,
)
from mrdib_pyg.training.checkpoint import save_checkpoint

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
def test_a_writer_that_replaces_the_part_heeds_the_umask_too(tmp_path, umask):
    """As that of safetensors does, whose files nobody else may read."""
    umask(0o022)

    def write(path):
        (tmp_path / 'own').write_bytes(b'new')
        (tmp_path / 'own').chmod(0o600)
        os.replace(tmp_path / 'own', path)

    with atomic_file(tmp_path / 'a') as part:
        write(part)
    with atomic_folder(tmp_path / 'b') as part:
        write(part / 'file')
    with replacing_folder(tmp_path / 'c', ()) as part:
        write(part / 'file')
    for name in ('a', 'b/file', 'c/file'):
        assert mode(tmp_path / name) == 0o644


WRITERS = {
    'write_atomic': lambda path: write_atomic(path, b'new'),
    'write_array': lambda path: write_array(path, np.ones(2)),
    'save_checkpoint': lambda path: save_checkpoint(path, {'x': 1}),
}


@posix
@pytest.mark.parametrize('name', WRITERS)
def test_links_are_replaced_and_never_followed(tmp_path, name):
    victim = tmp_path / 'victim'
    victim.write_bytes(b'precious')
    for target in ('victim', 'none'):
        link = tmp_path / f'to_{target}'
        link.symlink_to(tmp_path / target)
        WRITERS[name](link)
        assert link.is_file() and not link.is_symlink()
    assert victim.read_bytes() == b'precious' and not (tmp_path / 'none').exists()


@posix
def test_a_line_is_not_added_through_a_link(tmp_path):
    (tmp_path / 'victim').write_text('precious\n')
    (tmp_path / 'link').symlink_to('victim')
    with pytest.raises(OSError, match='link'):
        append_line(tmp_path / 'link', 'new')
    assert (tmp_path / 'victim').read_text() == 'precious\n'
    append_line(tmp_path / 'a', 'one')
    append_line(tmp_path / 'a', 'two')
    assert (tmp_path / 'a').read_text() == 'one\ntwo\n'


def special(path, kind):
    if kind == 'a folder':
        path.mkdir()
    elif kind == 'a FIFO':
        os.mkfifo(path)
    elif kind == 'a socket':
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    elif kind == 'a link to nothing':
        path.symlink_to('nothing')


@posix
@pytest.mark.parametrize('kind', ['a folder', 'a FIFO', 'a socket', 'a link to nothing'])
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = tmp_path / 'a'
    special(path if kind != 'a socket' else type(path)('a'), kind)
    with pytest.raises(ValueError, match=f"a' must be a file .got {kind}"):
        is_there(path)
    if kind == 'a link to nothing':
        return
    (tmp_path / 'link').symlink_to(path)
    for name in ('a', 'link'):
        for write in WRITERS.values():
            with pytest.raises(ValueError, match=f"{name}' must be a file .* .got {kind}"):
                write(tmp_path / name)
    (tmp_path / 'folder').mkdir()
    path.rename(tmp_path / 'folder' / '.lock')
    with pytest.raises(ValueError, match=f"lock' must be a file .got {kind}"):
        with lock_folder(tmp_path / 'folder'):
            raise AssertionError
    assert sorted(p.name for p in tmp_path.iterdir()) == ['folder', 'link']


def test_what_is_there(tmp_path):
    assert not is_there(tmp_path / 'a')
    (tmp_path / 'a').touch()
    assert is_there(tmp_path / 'a')
    if os.name == 'posix':
        (tmp_path / 'link').symlink_to('a')
        assert is_there(tmp_path / 'link')
        with pytest.raises(ValueError, match='/dev/null'):
            is_there('/dev/null')
        for path in ('/dev/stdout', '/dev/null'):
            with pytest.raises(ValueError, match=f"'{path}' must be a file"):
                write_atomic(path, b'')


@posix
def test_folders_that_a_user_names_may_be_links(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'old').touch()
    for name in ('empty', 'full'):
        (tmp_path / f'to_{name}').symlink_to(name)
    with atomic_folder(tmp_path / 'to_empty') as part:
        (part / 'file').touch()
    with replacing_folder(tmp_path / 'to_full', ['old']) as part:
        (part / 'file').touch()
    for name in ('empty', 'full'):
        assert (tmp_path / f'to_{name}').is_symlink()
        assert [p.name for p in (tmp_path / name).iterdir()] == ['file']


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    (tmp_path / 'a').write_bytes(b'old')

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    for write in (
        lambda: write_atomic(tmp_path / 'a', b'new'),
        lambda: append_line(tmp_path / 'a', 'new'),
    ):
        with pytest.raises(OSError, match='No space') as e:
            write()
        assert e.value.filename == str(tmp_path / 'a') and e.value.errno == errno.ENOSPC
    for make in (atomic_folder, lambda path: replacing_folder(path, ())):
        with pytest.raises(OSError, match='No space') as e, make(tmp_path / 'b') as part:
            (part / 'file').touch()
        assert e.value.filename == str(tmp_path / 'b')
    assert [p.name for p in tmp_path.iterdir()] == ['a']


def test_a_folder_is_locked_once(tmp_path):
    folder = tmp_path / 'made' / 'run'
    with lock_folder(folder), lock_folder(folder):  # of one thread, as of a call within a call
        seen = []

        def other():
            try:
                with lock_folder(folder):
                    seen.append('entered')
            except ValueError as e:
                seen.append(str(e))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(seen) == 1 and f"'{folder}'" in seen[0] and 'another process' in seen[0]
    assert not (tmp_path / 'made').exists()  # nothing was written
    with pytest.raises(FileNotFoundError, match='of the body'), lock_folder(folder):
        (folder / 'a').touch()
        raise FileNotFoundError('of the body')
    assert [p.name for p in folder.iterdir()] == ['a']
    with pytest.raises(ValueError, match='a. must be a folder'), lock_folder(folder / 'a'):
        pass


@posix
def test_the_lock_of_a_killed_process_is_free_and_a_link_is_replaced(tmp_path):
    (tmp_path / 'victim').write_bytes(b'precious')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / '.lock').symlink_to(tmp_path / 'victim')
    with lock_folder(tmp_path / 'run'):
        assert not (tmp_path / 'run' / '.lock').is_symlink()
    (tmp_path / 'run' / '.lock').touch()
    with lock_folder(tmp_path / 'run'):
        pass
    assert (tmp_path / 'victim').read_bytes() == b'precious'


def write_often(folder, own, start):
    start.wait()
    for _ in range(30):
        write_atomic(folder / 'file', bytes([own]) * 100_000)
        with replacing_folder(folder / 'data', ['x.inter']) as part:
            (part / 'x.inter').write_bytes(bytes([own]) * 1000)


def test_every_writer_twice_at_once(tmp_path):
    context = multiprocessing.get_context('fork' if os.name == 'posix' else 'spawn')
    start = context.Barrier(2)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'notes.txt').write_text('mine')
    workers = [context.Process(target=write_often, args=(tmp_path, i, start)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['data', 'file']
    assert sorted(p.name for p in (tmp_path / 'data').iterdir()) == ['notes.txt', 'x.inter']
    for path, size in (('file', 100_000), ('data/x.inter', 1000)):
        content = (tmp_path / path).read_bytes()
        assert len(content) == size and len(set(content)) == 1


def test_leftovers(tmp_path):
    for name in ('.a.pt.0123abcd.tmp', '.b.tmp', 'c.0123abcd.tmp', '.d.0123abcg.tmp'):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        '.b.tmp', '.d.0123abcg.tmp', 'c.0123abcd.tmp',
    ]  # fmt: skip
    remove_leftovers(tmp_path / 'absent')
