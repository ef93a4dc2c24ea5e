"""Writing of the files of an interaction folder, each by a replacement of the old one."""

import contextlib
import os
from collections.abc import Iterator
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
