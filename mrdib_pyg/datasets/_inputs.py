"""What identifies the inputs of prepared data, so that others are not taken for them."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrdib_pyg.datasets._collect import as_id
from mrdib_pyg.datasets._prepare import check_target
from mrdib_pyg.datasets._read import as_array
from mrdib_pyg.datasets.prepare_report import FILE, PrepareReport
from mrdib_pyg.datasets.text import is_named

_BLOCK = 1 << 20


def find_prepared(
    folder: Path,
    report: PrepareReport,
    describe: Callable[[Mapping[str, Any]], dict[str, Any]],
    encoder: Any = None,
    *,
    force: bool,
    reuse: bool,
) -> PrepareReport | None:
    r"""Returns the report of data that were prepared before and can stay; adds the inputs to the
    settings of :obj:`report`.

    Args:
        folder (Path): The folder that is to be written.
        report (PrepareReport): With the source and all other settings.
        describe (Callable): Describes the inputs, given their earlier description.
        encoder (str or callable, optional): The text encoder. Data of a function without a name
            cannot be told from those of another: they are prepared anew, with a warning.
            (default: :obj:`None`)
        force (bool): Whether to replace data.
        reuse (bool): Whether to leave data of the same inputs and settings as they are.

    Raises:
        ValueError: If the folder holds anything else.
    """
    before = PrepareReport.load(folder) if reuse and not force else None
    known: Any = getattr(before, 'settings', None)  # whatever the file holds
    known = known.get('inputs') if isinstance(known, Mapping) else None
    known = known if isinstance(known, Mapping) else {}
    if not reuse:
        check_target(folder, report, force, reuse)  # before files are read
    inputs = report.settings['inputs'] = describe(known)
    if before is None:
        return None if not reuse else check_target(folder, report, force, reuse)
    settings = {**json.loads(json.dumps(report.settings)), 'inputs': known}
    changed = [name for name, entry in inputs.items() if known.get(name) != entry]
    if changed and before.source == report.source and before.settings == settings:
        raise ValueError(
            f"'{folder}' holds data that were prepared from another content of "
            f'{", ".join(changed)} (see its {FILE}); name another folder, or replace them by '
            f'force_reload=True'
        )
    before = check_target(folder, report, force, reuse)
    if before is not None and not is_named(encoder):
        warnings.warn(
            f"'{folder}' is prepared anew: its texts may have been encoded by another function. "
            f"Give the text encoder an attribute 'name' that identifies it, and data are reused",
            stacklevel=4,
        )
        return check_target(folder, report, True, reuse)
    return before


def describe_inputs(
    inputs: Mapping[str, Any], columns: Sequence[str], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    r"""Describes inputs, as they are kept in a report.

    Args:
        inputs (Dict[str, Any]): By their names, paths, data frames, mappings, arrays or sequences.
        columns (List[str]): The columns of data frames that are read.
        before (Dict[str, Any], optional): An earlier description. A file that is gone, or has the
            same content since, is described as it was then. (default: :obj:`None`)
    """
    before = before if isinstance(before, Mapping) else {}
    out: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, (str, os.PathLike)):
            entry = before.get(name)
            out[name] = _of_file(os.fspath(value), entry if isinstance(entry, Mapping) else {})
            continue
        digest = hashlib.sha256()
        _update(digest, value, columns)
        out[name] = {'sha256': digest.hexdigest()}
    return out


def _of_file(name: str, before: Mapping[str, Any]) -> dict[str, Any]:
    path, known = Path(name).expanduser(), before.get('file') == name
    if not path.is_file():
        return dict(before) if known else {'file': name}
    stat = path.stat()
    entry = {'file': name, 'size': stat.st_size, 'mtime_ns': stat.st_mtime_ns}
    if known and all(before.get(key) == value for key, value in entry.items()):
        return dict(before)
    # Copied files have other times: their content tells.
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    entry['sha256'] = digest.hexdigest()
    return dict(before) if known and before.get('sha256') == entry['sha256'] else entry


def _update(digest: Any, value: Any, columns: Sequence[str]) -> None:
    if hasattr(value, 'columns'):
        names = [str(name) for name in value.columns]
        for place, name in enumerate(names):
            if name in columns:
                digest.update(f'\n{name!r} {len(value)}\n'.encode('utf-8', 'replace'))
                digest.update(_hash_column(value.iloc[:, place]))
    elif isinstance(value, Mapping):
        by_id = {as_id(key): vector for key, vector in value.items()}
        for key in sorted(by_id):
            digest.update(f'\n{key!r} '.encode())
            _update(digest, by_id[key], columns)
    elif isinstance(value, Sequence) and all(isinstance(raw, (str, int)) for raw in value):
        _update_ids(digest, value)
    else:
        array = as_array(value)
        if array.dtype.hasobject:
            _update_ids(digest, array.reshape(-1).tolist())
            return
        digest.update(f'\n{array.dtype} {list(array.shape)}\n'.encode())
        rows = max(1, _BLOCK * len(array) // max(1, array.nbytes)) if array.ndim > 0 else 1
        for begin in range(0, len(array) if array.ndim > 0 else 0, rows):
            digest.update(array[begin : begin + rows].tobytes())


def _update_ids(digest: Any, values: Sequence[Any]) -> None:
    for raw in map(as_id, values):
        content = raw.encode()
        digest.update(f'\n{len(content)} '.encode() + content)


def _hash_column(column: Any) -> bytes:
    import pandas as pd

    try:
        hashes = pd.util.hash_pandas_object(column, index=False).to_numpy()
    except (TypeError, ValueError):  # e.g. half of a surrogate pair
        digest = hashlib.sha256()
        _update_ids(digest, column.tolist())
        return digest.digest()
    return hashlib.sha256(hashes.tobytes()).digest()
