"""Reading of the two kinds of file of an interaction folder, and their refusals."""

import math
import struct
import tokenize
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

COLUMNS = ('userID', 'itemID', 'x_label')
TIME = 'timestamp'
#: What NumPy's readers raise, given bytes at random.
UNREADABLE = (
    ValueError, EOFError, SyntaxError, TypeError, KeyError, AttributeError, OverflowError,
    MemoryError, RecursionError, NotImplementedError, tokenize.TokenError, zipfile.BadZipFile,
    struct.error,
)  # fmt: skip


class Interactions(NamedTuple):
    """The columns of an ``.inter`` file: ``int64`` arrays of one length, times also ``float64``."""

    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    time: np.ndarray | None = None


def read_interactions(path: Path, timestamps: bool = False) -> Interactions:
    r"""Reads the tab separated table of interactions at :obj:`path`.

    Raises:
        ValueError: If the table is not as :class:`InteractionFolder` describes it. The message
            names the file and the first offending line.
    """
    names = _read_header(path)
    if timestamps and TIME not in names:
        raise ValueError(f"'{path}' has no column {TIME!r} in its header {names[:8]}")
    if not _has_rows(path):
        raise ValueError(f"'{path}' has a header but no interactions below it")
    types = {name: 'i8' for name in COLUMNS}
    try:
        if not timestamps:
            table = _load(path, names, types)
        else:
            try:  # `float64` would not hold nanoseconds
                table = _load(path, names, {**types, TIME: 'i8'})
            except (ValueError, DeprecationWarning):
                table = _load(path, names, {**types, TIME: 'f8'})
    except (ValueError, DeprecationWarning) as error:  # includes UnicodeDecodeError
        raise _explain(path, names, str(error), timestamps) from error
    columns = [*COLUMNS, TIME] if timestamps else COLUMNS
    out = Interactions(*(np.ascontiguousarray(table[name]) for name in columns))
    if min(out.user.min(), out.item.min(), out.label.min()) < 0 or out.label.max() > 2:
        raise _explain(path, names, 'an id or a split label is out of range', timestamps)
    if out.time is not None and not np.isfinite(out.time).all():
        raise _explain(path, names, 'a time is not finite', timestamps)
    if out.time is not None and out.time.size > 1 and (out.time == out.time[0]).all():
        raise ValueError(
            f"'{path}' has the {TIME} {out.time[0]} in every line, which orders nothing. Please "
            f'read it without timestamps'
        )

    for kind, index in (('userID', out.user), ('itemID', out.item)):
        # Every id up to the largest becomes a row of a table: a stray id would fill the memory.
        limit = 1_000_000 + 100 * index.size
        if index.max() >= limit:
            raise ValueError(
                f"'{path}' has {kind} {index.max()} among {index.size} interactions, which would "
                f'ask for a table of {int(index.max()) + 1} rows (at most {limit} are accepted). '
                f'Please renumber the ids to 0, 1, 2, ...'
            )
    return out


def _load(path: Path, names: list[str], types: dict[str, str]) -> np.ndarray:
    # Columns that are not needed are read as one character each: they may hold anything.
    dtype = [(name, types.get(name, 'U1')) for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter('error', DeprecationWarning)  # older NumPy reads 1.5 as 1
        return np.loadtxt(
            path, dtype=dtype, delimiter='\t', skiprows=1, comments=None, encoding='utf-8', ndmin=1
        )


def _read_header(path: Path) -> list[str]:
    with open(path, 'rb') as f:
        line = f.readline(1 << 16)
    if not line.strip():
        raise ValueError(f"'{path}' is empty or starts with an empty line: expected a header")
    try:
        names = line.decode('utf-8-sig').rstrip('\r\n').split('\t')
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not a UTF-8 text file ({error})") from error
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(
            f"'{path}' lacks the column(s) {missing} in its header {names[:8]}. The first line "
            f'must name the tab separated columns, {list(COLUMNS)} among them'
        )
    if len(set(names)) < len(names):
        raise ValueError(f"'{path}' names a column twice in its header {names}")
    return names


def _has_rows(path: Path) -> bool:
    with open(path, 'rb') as f:
        f.readline()
        return any(line.strip() for line in f)


def _explain(path: Path, names: list[str], fallback: str, timestamps: bool) -> ValueError:
    # Only reached once something failed: finds the first faulty line, in plain Python.
    with open(path, 'rb') as f:
        for number, line in enumerate(f, start=1):
            if number == 1 or not line.strip(b'\r\n'):
                continue
            where = f"line {number} of '{path}'"
            try:
                fields = line.decode('utf-8').rstrip('\r\n').split('\t')
            except UnicodeDecodeError:
                return ValueError(f'{where} is not UTF-8 text')
            if len(fields) != len(names):
                return ValueError(
                    f'{where} has {len(fields)} field(s), but the header names {len(names)}: '
                    f'{line[:60]!r}'
                )
            for name, text in zip(names, fields):
                if name == TIME and timestamps and not _is_number(text):
                    return ValueError(f'{where}: {TIME} is {text!r}, expected a number')
                if name not in COLUMNS:
                    continue
                digits = text.strip()
                if not (digits[1:] if digits[:1] in ('-', '+') else digits).isdecimal():
                    return ValueError(f'{where}: {name} is {text!r}, expected an integer')
                value = int(digits)
                if name == 'x_label' and value not in (0, 1, 2):
                    return ValueError(
                        f'{where}: x_label is {value}, expected 0 (train), 1 (validation) or '
                        f'2 (test)'
                    )
                if value < 0:
                    return ValueError(f'{where}: {name} is {value}, but ids start from 0')
                if value >= 2**63:
                    return ValueError(f'{where}: {name} {value} does not fit into 64 bits')
    return ValueError(f"'{path}' cannot be read: {fallback}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_array(path: Path) -> np.ndarray:
    r"""Maps the array at :obj:`path` into memory, never unpickling anything."""
    try:
        array = np.load(path, mmap_mode='r', allow_pickle=False)
    except UNREADABLE as error:
        raise ValueError(
            f"'{path}' is not a complete .npy array of numbers ({error}). Please write it again "
            f'with `numpy.save`, as a plain numeric array'
        ) from error
    if not isinstance(array, np.ndarray):  # an .npz archive under another name
        array.close()
        raise ValueError(f"'{path}' is an .npz archive, expected a single .npy array")
    return array


def read_modality(path: Path, mask_path: Path | None = None) -> tuple[Tensor, Tensor | None]:
    r"""Reads the features of one modality, :obj:`float32` ``[num_items, F]``, and which items have
    it, :obj:`bool` ``[num_items]``, where there is a file that says so.

    Rows of items without the modality are set to zero, whatever the file holds there.

    Raises:
        ValueError: If a file is not as :class:`InteractionFolder` describes it.
    """
    array = read_array(path)
    if array.dtype.kind not in 'fiu':
        raise ValueError(f"'{path}' holds {array.dtype}, expected real numbers")
    if array.ndim != 2:
        raise ValueError(
            f"'{path}' has the shape {list(array.shape)}, expected [num_items, num_features]"
        )
    if array.shape[1] == 0:
        raise ValueError(f"'{path}' has no columns (shape {list(array.shape)})")
    with np.errstate(over='ignore'):  # values beyond float32 become inf, and are refused below
        x = torch.from_numpy(np.array(array, dtype=np.float32, order='C'))
    mask = None
    if mask_path is not None:
        mask = _read_mask(mask_path, x.size(0))
        x[~mask] = 0.0
    faulty = (~torch.isfinite(x)).any(dim=-1).nonzero().view(-1)
    if faulty.numel() > 0:
        raise ValueError(
            f"'{path}' has NaN, infinite or too large (beyond float32) values in "
            f'{faulty.numel()} row(s), the first is row {int(faulty[0])}. Where an item lacks '
            f"the modality, say so in '{path.name.removesuffix('_feat.npy')}_mask.npy'"
        )
    return x, mask


def _read_mask(path: Path, num_items: int) -> Tensor:
    array = read_array(path)
    if array.dtype != np.bool_ or array.shape != (num_items,):
        raise ValueError(
            f"'{path}' is an array of {array.dtype} {list(array.shape)}, expected bool "
            f'[{num_items}]: one value per row of the features'
        )
    return torch.from_numpy(np.array(array))


def as_array(value: object) -> np.ndarray:
    r"""Returns an array of anything that is one, tensors of any kind included."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)
