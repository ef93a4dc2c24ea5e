"""Files and folders that appear whole or not at all."""

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
