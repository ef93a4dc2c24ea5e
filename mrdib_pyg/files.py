"""Files and folders that appear whole or not at all."""

import contextlib
import ctypes
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np


def write_atomic(path: str | Path, content: bytes) -> None:
    r"""Writes a file so that a reader, or a crash at any moment, finds the old content or the new,
    never a part. A file that is there keeps its permissions; a new one has those that the umask
    leaves.

    Args:
        path (str or Path): The file; its folder must exist.
        content (bytes): The new content.

    Raises:
        OSError: If it cannot be written, e.g. since the disk is full; the old file stays.
    """
    with atomic_file(path) as part:
        part.write_bytes(content)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    r"""As :func:`write_atomic`, for content that does not fit into memory: gives the path of an
    empty file to write to, which takes the place of the file at the end of the block. If the block
    is left by an error, it is removed.

    Args:
        path (str or Path): The file; its folder must exist.

    Raises:
        OSError: If it cannot be written; the old file stays.
    """
    path = Path(path).resolve()  # a link stays, and what it names is replaced
    if path.exists() and not path.is_file():
        raise OSError(f"'{path}' is no regular file, and cannot be replaced; name another")
    mode = _mode(path)
    name = _make(path, _make_file, 0o666 if mode is None else 0o600)
    try:
        yield Path(name)
        _sync(name)
        if mode is not None:
            os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    r"""Gives the path of an empty folder to write to, which becomes the folder :obj:`path` at the
    end of the block: it appears whole or, if the block is left by an error or the process dies, not
    at all. Permissions are as those of :func:`write_atomic`.

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
    mode = _mode(path)
    name = _make(path, os.mkdir, 0o777 if mode is None else 0o700)
    try:
        yield Path(name)
        for root, _, files in os.walk(name):
            for file in files:
                _sync(os.path.join(root, file))
            _sync_folder(root)
        if mode is not None:
            os.chmod(name, mode)
        os.replace(name, path)  # an empty folder gives way
    except BaseException:
        shutil.rmtree(name, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def _mode(path: Path) -> int | None:
    r"""Returns the permissions of what is there, if anything is."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None


def _make(path: Path, make: Callable[[str, int], None], mode: int) -> str:
    r"""Makes something beside :obj:`path`, under a name that is free, and returns the name. It has
    the permissions :obj:`mode` less the umask, which the system takes out: no thread can read it
    without setting it for all.
    """
    while True:
        name = str(path.parent / f'.{path.name}.{secrets.token_hex(4)}.tmp')
        with suppress(FileExistsError):
            make(name, mode)
            return name


def _make_file(name: str, mode: int) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))


def _sync(name: str) -> None:
    with open(name, 'rb') as file:
        os.fsync(file.fileno())


def _sync_folder(name: str | Path) -> None:
    r"""Makes the names in a folder outlive a loss of power, where the system can do that."""
    if os.name == 'posix':
        with suppress(OSError):  # what they name is whole either way
            fd = os.open(name, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


_ROWS = 1_000_000


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    r"""Opens a file beside :obj:`path` that takes its place once it is complete."""
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        with open(part, 'wb') as f:
            yield f
            f.flush()
            os.fsync(f.fileno())  # its name must not outlive its content
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_array(path: Path, array: np.ndarray) -> None:
    r"""Writes an array as ``.npy``."""
    with replacing(path) as f:
        np.save(f, array, allow_pickle=False)


def write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    r"""Writes columns of numbers as a tab separated table with a header."""
    pattern = '\t'.join('%s' if array.dtype.kind == 'f' else '%d' for array in columns.values())
    num_rows = len(next(iter(columns.values())))
    with replacing(path) as f:
        f.write(('\t'.join(columns) + '\n').encode())
        for begin in range(0, num_rows, _ROWS):
            lists = [_plain(array[begin : begin + _ROWS]) for array in columns.values()]
            text = '\n'.join(map(pattern.__mod__, zip(*lists)))
            f.write(text.encode() + b'\n')


def _plain(array: np.ndarray) -> list[int] | list[float] | list[str]:
    if array.dtype.kind != 'f':
        return array.tolist()
    if array.dtype == np.float32:  # its own shortest form: 0.1, not 0.10000000149011612
        values, places = np.unique(array, return_inverse=True)
        text = np.array([_short(str(value)) for value in values], dtype=object)
        return text[places].tolist()
    return [_short(repr(value)) for value in array.tolist()]


def _short(text: str) -> str:
    return text[:-2] if text.endswith('.0') else text


@contextlib.contextmanager
def replacing_folder(folder: Path, old: Collection[str]) -> Iterator[Path]:
    r"""Gives the path of a new folder beside another one, whose place it takes at the end of the
    block. If the block is left by an error, nothing has changed.

    Where the system can exchange two folders, a crash at any moment leaves the old one or the new.
    Elsewhere, and where the folder is the working directory, is mounted, or holds something that
    is, files follow one by one, the table last: there is a moment without a table, but never new
    files with the old table.

    Args:
        folder (Path): The folder; it need not exist. Of a link, what it leads to.
        old (Collection[str]): The names in it that are replaced, also by nothing. Everything else
            stays.

    Raises:
        OSError: If it cannot be written.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f'.{folder.name}.{secrets.token_hex(4)}.part')
    part.mkdir()
    try:
        yield part
        if folder.is_dir():
            _like(folder, part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    new = [path.name for path in part.iterdir()]
    _sync_names(part)
    if not folder.is_dir():
        os.replace(part, folder)
    elif not _exchange_with(part, folder, {*new, *old}):
        _move_files(part, folder, new, old)
    # What is left by this name: the old folder, or an empty one.
    shutil.rmtree(part, ignore_errors=True)
    _sync_names(folder.parent)


def _like(folder: Path, part: Path) -> None:
    shutil.copymode(folder, part)
    wanted, found = folder.stat(), part.stat()
    if (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid):
        with contextlib.suppress(OSError, AttributeError):  # not everyone may give a file away
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
            _remove(part / path.name)
        return False
    return True


def _devices(folder: Path) -> set[int]:
    return {path.lstat().st_dev for path in [folder, *folder.rglob('*')]}


def _link_tree(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=_link)
    else:
        _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    os.link(source, target, follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
        with open(source, 'rb') as a, open(target, 'wb') as b:
            shutil.copyfileobj(a, b)
        source.unlink()


def _sync_names(folder: Path) -> None:
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
