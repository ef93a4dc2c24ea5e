"""Features of items from files and arrays, by item id or in a given order."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._read import (
    UNREADABLE,
    Arrays,
    Npz,
    as_array,
    check_file,
    read_array,
    shown,
)
from mrdib_pyg.datasets._values import as_id

#: Features `float32 [num_items, F]` (zero if missing), mask of items that have them `[num_items]`,
#: and the counts of what was left out, by reason.
Found = tuple[np.ndarray, np.ndarray, dict[str, int]]


def item_features(
    name: str, source: Any, item_ids: Sequence[str], order: Sequence[str] | None
) -> Found:
    r"""Finds the features of items in an array (or ``.npy``) with rows in the given order, or in a
    mapping from ids to vectors (or ``.npz``, ``.safetensors``). Without an order, ids must be the
    numbers of the rows. Vectors with NaN or infinity, or of only zeros, count as missing.
    """
    try:
        return _find(name, source, item_ids, order)
    except _Unfit as e:
        raise ValueError(str(e)) from None


def _find(name: str, source: Any, item_ids: Sequence[str], order: Sequence[str] | None) -> Found:
    where = f'the features of {name!r}'
    if isinstance(source, (str, os.PathLike)):
        try:
            path = check_file(Path(source).expanduser())
        except FileNotFoundError as e:
            raise FileNotFoundError(f'{where}: {e}') from e
        suffix = path.suffix.lower()
        if suffix == '.npz':
            return _from_npz(path, item_ids, order)
        if suffix == '.safetensors':
            return _from_safetensors(path, item_ids, order)
        if suffix != '.npy':
            raise ValueError(
                f'{shown(path)} must be .npy, .npz or .safetensors. To convert a text file with an '
                f'id and numbers in each row, use `t = pandas.read_csv(file, index_col=0)` and '
                f"`numpy.savez('{name}.npz', **dict(zip(t.index.astype(str), t.to_numpy())))`"
            )
        return _by_order(shown(path), read_array(path), item_ids, order)
    if isinstance(source, Mapping):
        by_id = {as_id(key): value for key, value in source.items()}
        if len(by_id) < len(source):
            raise ValueError(f'{where} name an item twice, once as a text and once as a number')
        return _by_id(where, by_id, item_ids)
    return _by_order(where, as_array(source), item_ids, order)


def read_order(source: Any) -> list[str]:
    r"""Reads the ids of rows from a sequence, or from a text file with one per line."""
    if not isinstance(source, (str, os.PathLike)):
        return [as_id(value) for value in source]
    try:
        path = check_file(Path(source).expanduser())
        lines = path.read_bytes().decode('utf-8-sig').split('\n')
    except FileNotFoundError as e:
        raise FileNotFoundError(f'the order of items: {e}') from e
    except UnicodeDecodeError as e:
        raise ValueError(f'{shown(source)} must be a text file with one id per line ({e})') from e
    if lines[-1] == '':
        lines.pop()
    return [line.removesuffix('\r') for line in lines]


class _Unfit(ValueError):
    r"""Readable features that do not fit the items."""


def _from_npz(path: Path, item_ids: Sequence[str], order: Sequence[str] | None) -> Found:
    try:
        with zipfile.ZipFile(path) as archive:
            return _by_id_or_order(shown(path), Npz(archive), item_ids, order)
    except _Unfit:
        raise
    except (*UNREADABLE, OSError) as e:
        raise ValueError(
            f'{shown(path)} is no complete .npz archive of arrays (not Python objects) named by '
            f'item ids ({e}); write a dictionary from ids to vectors with `numpy.savez(file, '
            f'**vectors)`'
        ) from e


def _from_safetensors(path: Path, item_ids: Sequence[str], order: Sequence[str] | None) -> Found:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as e:
        raise ImportError(f"{shown(path)} needs safetensors: pip install 'mrdib_pyg[data]'") from e
    try:
        with safe_open(path, framework='pt') as file:
            arrays = Arrays(file.keys(), lambda key: as_array(file.get_tensor(key)))
            return _by_id_or_order(shown(path), arrays, item_ids, order)
    except (SafetensorError, OSError, RuntimeError, MemoryError) as e:
        raise ValueError(
            f'{shown(path)} is damaged or no safetensors file of tensors named by item ids ({e})'
        ) from e


def _by_id_or_order(
    where: str,
    arrays: Mapping[str, np.ndarray],
    item_ids: Sequence[str],
    order: Sequence[str] | None,
) -> Found:
    if len(arrays) == 1 and order is not None:
        return _by_order(where, next(iter(arrays.values())), item_ids, order)
    return _by_id(where, arrays, item_ids)


def _by_id(where: str, vectors: Mapping[str, Any], item_ids: Sequence[str]) -> Found:
    found = [i for i, raw in enumerate(item_ids) if raw in vectors]
    if len(found) == 0:
        some = ', '.join(repr(key) for _, key in zip(range(3), vectors))
        raise _Unfit(
            f'{where} has a vector for none of the items; its keys must be item ids such as '
            f'{item_ids[0]!r} (got {some or "none"}). Write a dictionary from ids to vectors with '
            f'`numpy.savez(file, **vectors)`, or an .npy file in the order of a list of ids'
        )
    x: np.ndarray | None = None
    mask = np.zeros(len(item_ids), dtype=bool)
    for i in found:
        vector = _real(where, as_array(vectors[item_ids[i]])).reshape(-1)
        if x is None:
            if vector.size == 0:
                raise _Unfit(f'{where} has an empty vector for the item {item_ids[i]!r}')
            x = np.zeros((len(item_ids), vector.size), dtype=np.float32)
        elif vector.size != x.shape[1]:
            raise _Unfit(
                f'{where} has {vector.size} numbers for the item {item_ids[i]!r}, but '
                f'{x.shape[1]} for {item_ids[found[0]]!r}: expected as many for each'
            )
        with np.errstate(over='ignore'):
            x[i] = vector
        mask[i] = True
    assert x is not None
    others = len(vectors) - len(found)
    return _usable(where, x, mask, {'vectors are of items that are not kept': others})


def _by_order(
    where: str, array: np.ndarray, item_ids: Sequence[str], order: Sequence[str] | None
) -> Found:
    array = _real(where, array)
    if array.ndim != 2 or array.shape[1] == 0:
        raise _Unfit(f'{where} has the shape {list(array.shape)}, expected [rows, F]')
    if order is None:
        places = {str(row): row for row in range(len(array))}
        wrong = next((raw for raw in item_ids if raw not in places), None)
        if wrong is not None:
            of_floats = ''
            if wrong.endswith('.0') and wrong[:-2].isdecimal():
                of_floats = ', a float because some ids are empty: write integers'
            raise _Unfit(
                f'{where} has {len(array)} rows and no ids, so item ids must be the numbers of its '
                f'rows, from 0 (got {wrong!r}{of_floats}); pass the ids of the rows as '
                f"'item_order'"
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
            f"{where} has a row for none of the items: 'item_order' must hold item ids such as "
            f'{item_ids[0]!r} (got {list(places)[:3]})'
        )
    x = np.zeros((len(item_ids), array.shape[1]), dtype=np.float32)
    rows = np.array([places[raw] for raw in item_ids if raw in places])
    with np.errstate(over='ignore'):
        x[mask] = array[rows]
    others = len(array) - int(mask.sum())
    return _usable(where, x, mask, {'rows are of items that are not kept': others})


def _real(where: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in 'fiub':
        raise _Unfit(f'{where} holds {array.dtype}, expected real numbers')
    return array


def _usable(where: str, x: np.ndarray, mask: np.ndarray, notes: dict[str, int]) -> Found:
    x, mask, more = drop_empty(x, mask)
    if not mask.any():
        raise _Unfit(f'{where} has nothing but zeros, NaN or infinity for the items')
    return x, mask, {**{what: count for what, count in notes.items() if count > 0}, **more}


def drop_empty(x: np.ndarray, mask: np.ndarray) -> Found:
    r"""Marks vectors as missing that are not finite or hold only zeros."""
    faulty = ~np.isfinite(x).all(axis=1)
    x[faulty] = 0.0
    has = x.any(axis=1)
    notes = {
        'vectors hold NaN or infinity and count as missing': int(faulty.sum()),
        'vectors are all zeros and count as missing': int((mask & ~faulty & ~has).sum()),
    }
    return x, mask & has, {what: count for what, count in notes.items() if count > 0}


def fill_missing(
    x: np.ndarray, mask: np.ndarray, fill: str
) -> tuple[np.ndarray, np.ndarray | None]:
    r"""Returns the features and the mask to write: no mask if nothing is missing or the mean of the
    other rows fills the gaps.
    """
    if mask.all():
        return x, None
    if fill == 'mean' and mask.any():
        x[~mask] = x[mask].mean(axis=0, dtype=np.float64)
        return x, None
    return x, mask
