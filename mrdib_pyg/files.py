"""The one writer of files and folders.

What it writes appears whole or not at all, and with the permissions that the umask leaves. A link
in the place of a file is replaced, never followed: a folder may come from somebody else. FIFOs,
sockets and folders in the place of files are refused at once, since to open one may wait forever.
"""

import ctypes
import errno
import itertools
import os
import re
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np


def is_there(path: str | Path) -> bool:
    r"""Returns whether there is a file to read. A link to a file counts as one.

    Args:
        path (str or Path): The file.

    Raises:
        ValueError: If there is something else: a folder, a FIFO, or a link to nothing.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            raise ValueError(
                f"'{path}' must be a file (got a link to nothing); mend or remove it"
            ) from None
        return False
    if not stat.S_ISREG(mode):
        raise ValueError(f"'{path}' must be a file (got {_kind(mode)}); remove it")
    return True


def remove_special(path: str | Path) -> None:
    r"""Removes a FIFO or a socket that stands where a cache keeps a file."""
    with suppress(FileNotFoundError):
        mode = Path(path).lstat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            Path(path).unlink()


def write_atomic(path: str | Path, content: bytes) -> None:
    r"""Writes a file so that a reader, or a crash at any moment, finds the old content or the new,
    never a part. A file that is there keeps its permissions.

    Args:
        path (str or Path): The file; its folder must exist.
        content (bytes): The new content.

    Raises:
        OSError: If it cannot be written, e.g. since the disk is full; the old file stays.
        ValueError: If there is a folder, a FIFO or a device.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    r"""As :func:`write_atomic`, for content that is written piece by piece: gives an open file."""
    with atomic_file(path) as part, open(part, 'wb') as file:
        yield file


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    r"""As :func:`write_atomic`, for writers that open the file themselves: gives the path of an
    empty file, which takes the place of the file at the end of the block. If an error leaves the
    block, nothing has changed.
    """
    path = Path(path)
    old = _mode_of_old(path)
    part = _make(path, _make_file, 0o666 if old is None else 0o600)
    mode = stat.S_IMODE(part.stat().st_mode) if old is None else old
    try:
        with _naming(path):
            yield part
            os.chmod(part, mode)  # some writers put a file of their own in the place of this one
            _sync(part)
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    r"""Gives the path of an empty folder to write to, which becomes the folder :obj:`path` at the
    end of the block. If an error leaves the block, or the process dies, there is no folder.

    Args:
        path (str or Path): The folder, which must not exist or must be empty; folders above it are
            made if need be.

    Raises:
        FileExistsError: If there is a file or a folder with something in it.
        OSError: If it cannot be written.
    """
    path = Path(path).resolve()
    if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
        raise FileExistsError(f"'{path}' exists already; name a folder that does not")
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    part = _make(path, os.mkdir, 0o777 if mode is None else 0o700)
    try:
        with _naming(path):
            yield part
            _finish_tree(part)
            if mode is not None:
                os.chmod(part, mode)
            os.replace(part, path)  # an empty folder gives way
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def replacing_folder(folder: str | Path, old: Collection[str]) -> Iterator[Path]:
    r"""Gives the path of a new folder beside another one, whose place it takes at the end of the
    block. If an error leaves the block, nothing has changed.

    Where the system can exchange two folders, a crash at any moment leaves the old one or the new.
    Elsewhere, and where the folder is the working directory, is mounted, or holds something that
    is, files follow one by one, the table last: there is a moment without a table, but never new
    files with the old table.

    Args:
        folder (str or Path): The folder; it need not exist. Of a link, what it leads to.
        old (Collection[str]): The names in it that are replaced, also by nothing. Everything else
            stays.

    Raises:
        OSError: If it cannot be written.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = _make(folder, os.mkdir, 0o777)
    try:
        with _naming(folder):
            yield part
            _finish_tree(part)
        if folder.is_dir():
            _like(folder, part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    new = [path.name for path in part.iterdir()]
    with _locked(folder.with_name(f'.{folder.name}.lock'), wait=True):  # of a second one at once
        if not folder.is_dir():
            os.replace(part, folder)
        elif not _exchange_with(part, folder, {*new, *old}):
            _move_files(part, folder, new, old)
    shutil.rmtree(part, ignore_errors=True)  # the old folder, or an empty one
    _sync_folder(folder.parent)


def write_array(path: str | Path, array: np.ndarray) -> None:
    r"""Writes an array as ``.npy``."""
    with replacing(path) as file:
        np.save(file, array, allow_pickle=False)


def write_table(path: str | Path, columns: dict[str, np.ndarray]) -> None:
    r"""Writes columns of numbers as a tab separated table with a header."""
    pattern = '\t'.join('%s' if array.dtype.kind == 'f' else '%d' for array in columns.values())
    num_rows, step = len(next(iter(columns.values()))), 1_000_000
    with replacing(path) as file:
        file.write(('\t'.join(columns) + '\n').encode())
        for begin in range(0, num_rows, step):
            lists = [_plain(array[begin : begin + step]) for array in columns.values()]
            file.write('\n'.join(map(pattern.__mod__, zip(*lists))).encode() + b'\n')


def append_line(path: str | Path, text: str) -> None:
    r"""Adds a line to a file, which is made if need be, and waits until it is on the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _SAFE
    with _naming(Path(path)), open(os.open(path, flags, 0o666), 'a', encoding='utf-8') as file:
        file.write(text + '\n')
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[Path]:
    r"""Keeps all other processes that lock a folder out of it until the end of the block.

    The folder is made if need be, and taken away again if nothing was written into it. The lock
    ends with the process, in whatever way that ends. A thread that has it may take it again.

    Args:
        folder (str or Path): The folder.

    Raises:
        ValueError: If another process, or another thread, is at work in the folder.
    """
    folder = Path(folder)
    key = (os.path.realpath(folder), threading.get_ident())
    if key in _HELD:
        yield folder
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' must be a folder (got a file); name another")
    made = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(_locked(folder / '.lock'))
            except BlockingIOError:
                raise ValueError(
                    f"another process is at work in '{folder}'; wait until it has ended, or name "
                    f'another folder'
                ) from None
            _HELD.add(key)
            stack.callback(_HELD.discard, key)
            yield folder
    finally:
        with suppress(OSError):  # something was written into it
            for path in made:
                path.rmdir()


def remove_leftovers(folder: str | Path) -> None:
    r"""Removes what a process leaves in a folder that is killed while it writes a file there."""
    for path in Path(folder).glob('.*.tmp'):
        if re.fullmatch(r'\..+\.[0-9a-f]{8}\.tmp', path.name) and path.is_file():
            path.unlink(missing_ok=True)


_HELD: set[tuple[str, int]] = set()

# A link is not followed, and a FIFO is not waited for.
_SAFE = getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_CLOEXEC', 0)


@contextmanager
def _locked(path: Path, wait: bool = False) -> Iterator[None]:
    if sys.platform == 'win32':
        yield
        return
    import fcntl

    while True:
        if path.is_symlink():
            path.unlink(missing_ok=True)
        if path.exists() and not path.is_file():
            raise ValueError(f"'{path}' must be a file (got {_kind(path.stat().st_mode)})")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not _is_at(path, fd):  # whoever had it before has taken its name away
                continue
            try:
                yield
                return
            finally:
                path.unlink(missing_ok=True)
        finally:
            os.close(fd)


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: 'a folder', stat.S_ISFIFO: 'a FIFO', stat.S_ISSOCK: 'a socket'}
    return next((word for is_kind, word in kinds.items() if is_kind(mode)), 'a device')


def _mode_of_old(path: Path) -> int | None:
    r"""Returns the permissions of a file that is to be replaced, if there is one."""
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            found = mode
        else:
            if os.path.realpath(path.parent) in ('/dev', '/dev/fd') or path.is_relative_to('/proc'):
                raise ValueError(f"'{path}' must be a file to be replaced (got a device)")
            found = path.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise ValueError(
            f"'{path}' must be a file to be replaced (got {_kind(found)}); name another"
        )
    return stat.S_IMODE(mode) if stat.S_ISREG(mode) else None


def _make(path: Path, make: Callable[[str, int], None], mode: int) -> Path:
    r"""Makes something beside :obj:`path` under a free name, which is returned. The system takes
    the umask out of the permissions: no thread can read it without setting it for all.
    """
    while True:
        part = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
        try:
            make(str(part), mode)
            return part
        except FileExistsError:
            continue
        except OSError as e:
            raise OSError(e.errno, e.strerror, str(path)) from None


def _make_file(name: str, mode: int) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    r"""Adds the name of a file to the errors of a full or broken disk, which come without one."""
    try:
        yield
    except OSError as e:
        if e.filename is None and e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise OSError(e.errno, e.strerror, str(path)) from e
        raise


def _finish_tree(folder: Path) -> None:
    r"""Gives all files of a new folder the permissions that the umask leaves, and syncs them."""
    probe = _make(folder / 'probe', _make_file, 0o666)
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for root, _, files in os.walk(folder):
        for name in files:
            path = Path(root, name)
            if not path.is_symlink():
                os.chmod(path, mode)
                _sync(path)
        _sync_folder(root)


def _sync(path: Path) -> None:
    with open(path, 'rb') as file:
        os.fsync(file.fileno())


def _sync_folder(folder: str | Path) -> None:
    r"""Makes the names in a folder outlive a loss of power, where the system can do that."""
    if os.name == 'posix':
        with suppress(OSError):  # what they name is whole either way
            fd = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _plain(array: np.ndarray) -> list[int] | list[float] | list[str]:
    if array.dtype.kind != 'f':
        return array.tolist()
    if array.dtype == np.float32:  # its own shortest form: 0.1, not 0.10000000149011612
        values, places = np.unique(array, return_inverse=True)
        text = np.array([str(value).removesuffix('.0') for value in values], dtype=object)
        return text[places].tolist()
    return [repr(value).removesuffix('.0') for value in array.tolist()]


def _like(folder: Path, part: Path) -> None:
    shutil.copymode(folder, part)
    wanted, found = folder.stat(), part.stat()
    if (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid):
        with suppress(OSError, AttributeError):  # not everyone may give a file away
            for path in [part, *part.iterdir()]:
                os.chown(path, wanted.st_uid, wanted.st_gid)


def _exchange_with(part: Path, folder: Path, replaced: Collection[str]) -> bool:
    r"""Exchanges the folders and returns whether it did; if not, nothing has changed."""
    others = [path for path in folder.iterdir() if path.name not in replaced]
    try:
        if Path.cwd().is_relative_to(folder):
            return False  # a shell in it would be left in the old one, which is removed
        if len(_devices(part) | _devices(folder)) > 1:
            return False  # what is mounted would be removed with the old one
        for path in others:
            _link_tree(path, part / path.name)
        _exchange(part, folder)
    except OSError:
        for path in others:
            if (part / path.name).is_dir() and not (part / path.name).is_symlink():
                shutil.rmtree(part / path.name, ignore_errors=True)
            else:
                (part / path.name).unlink(missing_ok=True)
        return False
    return True


def _devices(folder: Path) -> set[int]:
    return {path.lstat().st_dev for path in [folder, *folder.rglob('*')]}


def _link_tree(source: Path, target: Path) -> None:
    def link(a: str | Path, b: str | Path) -> None:
        os.link(a, b, follow_symlinks=False)

    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=link)
    else:
        link(source, target)


def _exchange(a: Path, b: Path) -> None:
    renameat2 = None
    if sys.platform.startswith('linux'):
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), 'renameat2', None)
    if renameat2 is None:
        raise OSError('the system cannot exchange two folders')
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(b))


def _move_files(part: Path, folder: Path, new: list[str], old: Collection[str]) -> None:
    tables = [name for name in new if name.endswith('.inter')]
    try:
        for name in sorted(old, key=lambda name: not name.endswith('.inter')):
            if name not in new or name in tables:
                (folder / name).unlink(missing_ok=True)
        for name in sorted(new, key=lambda name: name in tables):
            _move(part / name, folder / name)
    except OSError as e:
        raise OSError(
            f"'{folder}' could not be replaced ({e}) and has no table now; the files that have not "
            f"taken their place are in '{part}': move them there, the table last, or prepare it "
            f'again'
        ) from e


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError:  # on another device
        target.unlink(missing_ok=True)  # a link is not followed
        with open(source, 'rb') as a, open(target, 'xb') as b:
            shutil.copyfileobj(a, b)
        source.unlink()
