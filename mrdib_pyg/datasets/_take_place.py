"""A finished folder in the place of another one."""

import contextlib
import ctypes
import os
import secrets
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path


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
    _sync_folder(part)
    if not folder.is_dir():
        os.replace(part, folder)
    elif not _exchange_with(part, folder, {*new, *old}):
        _move_files(part, folder, new, old)
    # What is left by this name: the old folder, or an empty one.
    shutil.rmtree(part, ignore_errors=True)
    _sync_folder(folder.parent)


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


def _sync_folder(folder: Path) -> None:
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
