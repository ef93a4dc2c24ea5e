"""Vectors of texts on disk, each under a hash of its text."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrdib_pyg.datasets._read import read_array
from mrdib_pyg.files import write_array

_KEY = 16  # bytes


class TextStore:
    r"""The vectors of one encoder. Each call of :meth:`write` adds a file, which appears once it is
    complete, so several processes may write at a time; a damaged file counts as not there.

    Args:
        folder (Path): Where the files are; it is created when there is something to write.
        name (str): What identifies the encoder.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.prefix = f'text-{_digest(name).hex()[:16]}'

    def exists(self) -> bool:
        r"""Whether there are vectors of the encoder."""
        return any(self.folder.glob(f'{self.prefix}-*.npy'))

    def read(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        r"""Returns the vectors of texts, ``float32`` ``[N, F]``, and which of them are there."""
        rows: dict[bytes, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(_digest(text), []).append(row)
        x = np.zeros((len(texts), 0), dtype=np.float32)
        found = np.zeros(len(texts), dtype=bool)
        paths = self.folder.glob(f'{self.prefix}-*.npy')
        # The newest first: an encoder may have changed its width since.
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            try:
                array = read_array(path)
            except ValueError:
                continue
            if not _is_store(array):
                continue
            keys, vectors = array['key'].tobytes(), array['x']
            if x.shape[1] == 0:
                x = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
            if vectors.shape[1] != x.shape[1]:
                continue
            for place in range(len(array)):
                for row in rows.pop(keys[place * _KEY : (place + 1) * _KEY], ()):
                    x[row] = vectors[place]
                    found[row] = True
        return x, found & np.isfinite(x).all(axis=1)

    def write(self, texts: Sequence[str], x: np.ndarray) -> None:
        r"""Adds the vectors of texts, ``float32`` ``[N, F]``."""
        array = np.empty(len(texts), dtype=[('key', f'V{_KEY}'), ('x', '<f4', (x.shape[1],))])
        keys = b''.join(map(_digest, texts))
        array['key'] = np.frombuffer(keys, dtype=f'V{_KEY}')
        array['x'] = x
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(keys).hexdigest()[:16]
        write_array(self.folder / f'{self.prefix}-{name}.npy', array)


def _is_store(array: np.ndarray) -> bool:
    dtype = array.dtype
    if array.ndim != 1 or dtype.names != ('key', 'x'):
        return False
    x = dtype['x']
    return dtype['key'] == f'V{_KEY}' and x.base == np.float32 and x.ndim == 1 and x.shape[0] > 0


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()[:_KEY]
