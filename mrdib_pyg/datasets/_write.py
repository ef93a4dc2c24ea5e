"""Writing of the files of an interaction folder, each by a replacement of the old one, and of the
folder as a whole.
"""

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

_ROWS = 1_000_000


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    r"""Opens a file beside :obj:`path` that takes its place once it is complete."""
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        with open(part, 'wb') as f:
            yield f
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


def take_place(part: Path, folder: Path, is_old: Callable[[str], bool]) -> None:
    r"""Gives a finished folder the name of another one. Where the system can exchange two folders,
    a reader, or a crash at any moment, finds the old folder or the new. Elsewhere files follow one
    by one, the table last: there may be a moment without a table, but never a mixture that has one.

    What the old folder held besides stays, by a link.

    Args:
        part (Path): The new folder, beside the old one. What is left by this name is to be removed.
        folder (Path): The name it gets.
        is_old (Callable): Whether a file of that name is replaced even if no new one has its name.
    """
    if not folder.is_dir():
        os.replace(part, folder)
        return
    new = [path.name for path in part.iterdir()]
    try:
        for path in folder.iterdir():
            if path.name not in new and not is_old(path.name):
                _link_tree(path, part / path.name)
        shutil.copymode(folder, part)
        if _is_entered(folder):  # a shell in it would be left in the old one, which is removed
            raise OSError(f"'{folder}' is the working directory")
        _exchange(part, folder)
    except OSError:
        _move_files(part, folder, new, is_old)


def _is_entered(folder: Path) -> bool:
    return Path.cwd().is_relative_to(folder.resolve())


def _link_tree(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=_link)
    else:
        _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # not every file system has links
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(a: Path, b: Path) -> None:
    renameat2 = None
    if sys.platform.startswith('linux'):
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), 'renameat2', None)
    if renameat2 is None:
        raise OSError('the system cannot exchange two folders')
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) != 0:
        code = ctypes.get_errno()  # e.g. of a folder that is mounted
        raise OSError(code, os.strerror(code), str(b))


def _move_files(part: Path, folder: Path, names: list[str], is_old: Callable[[str], bool]) -> None:
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix != '.inter'):
        if is_old(path.name):
            path.unlink()
    for name in sorted(names, key=lambda name: name.endswith('.inter')):
        shutil.move(part / name, folder / name)


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
