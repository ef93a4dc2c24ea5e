"""Files and folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: str | Path, content: bytes) -> None:
    r"""Writes a file so that a reader, or a crash at any moment, finds the old content or the new,
    never a part.

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
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(f"'{path}' is no regular file, and cannot be replaced; name another")
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp')
    os.close(fd)
    try:
        yield Path(name)
        _sync(name)
        os.chmod(name, 0o644)  # mkstemp makes files for the owner alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    r"""Gives the path of an empty folder to write to, which becomes the folder :obj:`path` at the
    end of the block: it appears whole or, if the block is left by an error or the process dies, not
    at all.

    Args:
        path (str or Path): The folder, which must not exist or must be empty; folders above it are
            made if need be.

    Raises:
        FileExistsError: If there is a file or a folder with something in it.
        OSError: If it cannot be written.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
        raise FileExistsError(f"'{path}' exists already; name a folder that does not")
    path.parent.mkdir(parents=True, exist_ok=True)
    name = tempfile.mkdtemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp')
    try:
        yield Path(name)
        for root, _, files in os.walk(name):
            for file in files:
                _sync(os.path.join(root, file))
        os.chmod(name, 0o755)  # mkdtemp makes folders for the owner alone
        os.replace(name, path)  # an empty folder gives way
    except BaseException:
        shutil.rmtree(name, ignore_errors=True)
        raise


def _sync(name: str) -> None:
    with open(name, 'rb') as file:
        os.fsync(file.fileno())
