"""Features of items from files and arrays: rows by item id, or in a given order."""

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._collect import as_id
from mrdib_pyg.datasets._read import UNREADABLE, as_array, read_array

#: Compression cannot make more of a byte than this: an archive that claims more lies.
_DEFLATE = 1032
_HEADER = 1 << 16


def item_features(
    name: str, source: Any, item_ids: Sequence[str], order: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    r"""Finds the features of items.

    Args:
        name (str): The modality, for messages.
        source (Any): An array or a path to one (``.npy``), whose rows are in the order of
            :obj:`order`; or a mapping from ids to vectors, or a path to one (``.npz``,
            ``.safetensors``).
        item_ids (List[str]): The items to find.
        order (List[str], optional): The item of each row. Without it, the ids need to be the
            numbers of the rows.

    Returns:
        The features ``float32`` ``[num_items, F]``, zero where there are none, which items have
        them, and counts of what was left out, by the reason.
    """
    try:
        return _find(name, source, item_ids, order)
    except _Unfit as e:
        raise ValueError(str(e)) from None


def _find(
    name: str, source: Any, item_ids: Sequence[str], order: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"the features of {name!r}: there is no file '{path}'")
        where, suffix = f"'{path}'", path.suffix.lower()
        if suffix == '.npz':
            return _from_npz(path, item_ids, order)
        if suffix == '.safetensors':
            return _from_safetensors(path, item_ids, order)
        if suffix != '.npy':
            raise ValueError(
                f'{where} needs to be .npy, .npz or .safetensors. Of a text file with an id and '
                f'numbers in each row, `t = pandas.read_csv(file, index_col=0)` and '
                f"`numpy.savez('{name}.npz', **dict(zip(t.index.astype(str), t.to_numpy())))` make "
                f'one'
            )
        return _by_order(where, read_array(path), item_ids, order)
    where = f'the features of {name!r}'
    if isinstance(source, Mapping):
        by_id = {as_id(key): value for key, value in source.items()}
        return _by_id(where, by_id, item_ids)
    return _by_order(where, as_array(source), item_ids, order)


def read_order(source: Any) -> list[str]:
    r"""Reads the ids of rows: a sequence, or a text file with one a line."""
    if not isinstance(source, (str, os.PathLike)):
        return [as_id(value) for value in source]
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"the order of items: there is no file '{path}'")
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            lines = file.read().split('\n')
    except UnicodeDecodeError as e:
        raise ValueError(f"'{path}' is no text file of ids, one a line ({e})") from e
    if lines[-1] == '':
        lines.pop()
    return [line.removesuffix('\r') for line in lines]


class _Unfit(ValueError):
    r"""Features that can be read, but not be given to the items."""


def _from_npz(
    path: Path, item_ids: Sequence[str], order: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    try:
        with open(path, 'rb') as file, zipfile.ZipFile(file) as archive:
            vectors = Npz(archive)
            if len(vectors) == 1 and order is not None:
                return _by_order(f"'{path}'", vectors[next(iter(vectors))], item_ids, order)
            return _by_id(f"'{path}'", vectors, item_ids)
    except _Unfit:
        raise
    except (*UNREADABLE, OSError, RuntimeError, zlib.error) as e:
        raise ValueError(
            f"'{path}' is no complete .npz archive of arrays named by item ids ({e}). Please write "
            f'it again with `numpy.savez(file, **vectors)`, of a dictionary from ids to vectors'
        ) from e


class Npz(Mapping[str, np.ndarray]):
    r"""The arrays of an archive, none of which may claim more than there is."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.entries: dict[str, zipfile.ZipInfo] = {
            info.filename.removesuffix('.npy'): info for info in archive.infolist()
        }

    def __getitem__(self, key: str) -> np.ndarray:
        info = self.entries[key]
        with self.archive.open(info) as f:
            version = np.lib.format.read_magic(f)
            read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(f)
            size = dtype.itemsize
            for length in shape:
                size *= length
            if size > info.file_size or size > _DEFLATE * info.compress_size + _HEADER:
                raise ValueError(f'{key!r} claims {size} bytes, more than the archive holds')
            if dtype.hasobject:
                raise ValueError(f'{key!r} holds Python objects')
            data = f.read(size)
        array = np.frombuffer(data, dtype, count=size // max(dtype.itemsize, 1))
        return array.reshape(shape, order='F' if fortran else 'C')

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def __iter__(self) -> Any:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _from_safetensors(
    path: Path, item_ids: Sequence[str], order: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as e:
        raise ImportError(f"'{path}' needs safetensors: pip install 'mrdib_pyg[data]'") from e
    try:
        with safe_open(path, framework='pt') as file:
            keys = list(file.keys())
            if len(keys) == 1 and order is not None:
                array = file.get_tensor(keys[0]).float().numpy()
                return _by_order(f"'{path}'", array, item_ids, order)
            return _by_id(f"'{path}'", _Safetensors(file, keys), item_ids)
    except (SafetensorError, OSError, RuntimeError, MemoryError) as e:
        raise ValueError(
            f"'{path}' is damaged or no safetensors file of tensors named by item ids ({e})"
        ) from e


class _Safetensors(Mapping[str, np.ndarray]):
    def __init__(self, file: Any, keys: list[str]) -> None:
        self.file, self.keys_ = file, dict.fromkeys(keys)

    def __getitem__(self, key: str) -> np.ndarray:
        tensor = self.file.get_tensor(key)
        return (tensor if tensor.is_complex() else tensor.float()).numpy()

    def __contains__(self, key: object) -> bool:
        return key in self.keys_

    def __iter__(self) -> Any:
        return iter(self.keys_)

    def __len__(self) -> int:
        return len(self.keys_)


def _by_id(
    where: str, vectors: Mapping[str, Any], item_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    found = [i for i, raw in enumerate(item_ids) if raw in vectors]
    if len(found) == 0:
        some = ', '.join(repr(key) for _, key in zip(range(3), vectors))
        raise _Unfit(
            f'{where} has a vector for none of the items. Its keys need to be item ids such as '
            f'{item_ids[0]!r} (got {some or "none"}): write `numpy.savez(file, **vectors)`, of a '
            f'dictionary from ids to vectors, or an .npy file in the order of a list of ids'
        )
    x = mask = None
    for i in found:
        vector = _real(where, as_array(vectors[item_ids[i]])).reshape(-1)
        if x is None or mask is None:
            if vector.size == 0:
                raise _Unfit(f'{where} has an empty vector for the item {item_ids[i]!r}')
            x = np.zeros((len(item_ids), vector.size), dtype=np.float32)
            mask = np.zeros(len(item_ids), dtype=bool)
        elif vector.size != x.shape[1]:
            raise _Unfit(
                f'{where} has {vector.size} numbers for the item {item_ids[i]!r}, but '
                f'{x.shape[1]} for {item_ids[found[0]]!r}: expected as many for each'
            )
        with np.errstate(over='ignore'):
            x[i] = vector
        mask[i] = True
    assert x is not None and mask is not None
    others = len(vectors) - len(found)
    return _finite(x, mask, {'vectors are of items that are not kept': others})


def _by_order(
    where: str, array: np.ndarray, item_ids: Sequence[str], order: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    array = _real(where, array)
    if array.ndim != 2 or array.shape[1] == 0:
        raise _Unfit(f'{where} has the shape {list(array.shape)}, expected [rows, F]')
    if order is None:
        places = {str(row): row for row in range(len(array))}
        wrong = next((raw for raw in item_ids if raw not in places), None)
        if wrong is not None:
            raise _Unfit(
                f'{where} has {len(array)} rows and no ids, so item ids need to be the numbers of '
                f'its rows, from 0 (got {wrong!r}{_of_floats(wrong)}). Please pass the ids of the '
                f"rows as 'item_order'"
            )
    else:
        if len(order) != len(array):
            raise _Unfit(
                f"{where} has {len(array)} rows, but 'item_order' names {len(order)} items"
            )
        places = {}
        for row, raw in enumerate(order):
            places.setdefault(raw, row)
    mask = np.array([raw in places for raw in item_ids])
    if not mask.any():
        raise _Unfit(
            f"{where} has a row for none of the items: 'item_order' needs to hold item ids such as "
            f'{item_ids[0]!r} (got {list(places)[:3]})'
        )
    x = np.zeros((len(item_ids), array.shape[1]), dtype=np.float32)
    rows = np.array([places[raw] for raw in item_ids if raw in places])
    with np.errstate(over='ignore'):
        x[mask] = array[rows]
    return _finite(x, mask, {'rows are of items that are not kept': len(array) - int(mask.sum())})


def _of_floats(raw: str) -> str:
    if not raw.endswith('.0') or not raw[:-2].isdecimal():
        return ''
    return ', as ids are read where some are empty: write them as whole numbers'


def _real(where: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in 'fiub':
        raise ValueError(f'{where} holds {array.dtype}, expected real numbers')
    return array


def _finite(
    x: np.ndarray, mask: np.ndarray, notes: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    r"""Takes vectors that are not finite for missing."""
    faulty = ~np.isfinite(x).all(axis=1)
    x[faulty] = 0.0
    notes = {**notes, 'vectors hold NaN or infinity and count as missing': int(faulty.sum())}
    return x, mask & ~faulty, {what: count for what, count in notes.items() if count > 0}


def fill_missing(
    x: np.ndarray, mask: np.ndarray, fill: str
) -> tuple[np.ndarray, np.ndarray | None]:
    r"""Returns features and mask as they are written: no mask where nothing is missing, or where
    the mean of the others takes its place.
    """
    if mask.all():
        return x, None
    if fill == 'mean' and mask.any():
        x[~mask] = x[mask].mean(axis=0, dtype=np.float64)
        return x, None
    return x, mask
