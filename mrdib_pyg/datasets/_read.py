"""Readers of the files of a data folder. They check everything, and never hang, run code or take
more memory than a file holds."""

import errno
import hashlib
import math
import os
import stat
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

COLUMNS = ('userID', 'itemID', 'x_label')
TIME = 'timestamp'
#: What NumPy and zipfile raise for damaged bytes.
UNREADABLE = (
    ValueError, EOFError, SyntaxError, TypeError, KeyError, AttributeError, OverflowError,
    MemoryError, RecursionError, NotImplementedError, RuntimeError, tokenize.TokenError,
    zipfile.BadZipFile, struct.error, zlib.error,
)  # fmt: skip
_KINDS = {
    stat.S_IFDIR: 'folder', stat.S_IFIFO: 'named pipe', stat.S_IFSOCK: 'socket',
    stat.S_IFCHR: 'device', stat.S_IFBLK: 'device',
}  # fmt: skip
# The limits of an archive: bytes unpacked, or times its own size.
_UNPACKED, _RATIO = 256 << 20, 100


def shown(path: str | os.PathLike) -> str:
    r"""A path in quotes for messages, with control characters escaped."""
    text = os.fsdecode(path)
    return "'" + ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text) + "'"


def check_file(path: str | os.PathLike) -> Path:
    r"""Returns the path of a regular file, or raises :class:`FileNotFoundError` or
    :class:`ValueError`. Opening anything else may wait forever.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        reason = f'there is no file {shown(path)}'
        if os.path.islink(path):
            target = shown(os.readlink(os.fspath(path)))
            reason = f'{shown(path)} is a link that leads nowhere ({target})'
        raise FileNotFoundError(reason) from e
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), 'special file')
        raise ValueError(f'{shown(path)} must be a regular file (got a {kind})')
    return Path(path)


def file_hash(path: Path) -> str:
    r"""The SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(check_file(path), 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Interactions(NamedTuple):
    """The columns of an ``.inter`` file: ``int64`` arrays of one length, times also ``float64``."""

    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    time: np.ndarray | None = None


def read_interactions(path: Path, timestamps: bool = False) -> Interactions:
    r"""Reads a table of interactions. Errors name the file and its first faulty line."""
    names, where = _read_header(check_file(path)), shown(path)
    if timestamps and TIME not in names:
        raise ValueError(f'{where} has no column {TIME!r} in its header {names[:8]}')
    with open(path, 'rb') as f:
        f.readline()
        if not any(line.strip() for line in f):
            raise ValueError(f'{where} has a header but no interactions below it')
    types = dict.fromkeys(COLUMNS, 'i8')
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
            f'{where} has the {TIME} {out.time[0]} in every line, which orders nothing; read it '
            f'without timestamps'
        )
    for kind, index in (('userID', out.user), ('itemID', out.item)):
        # Every id up to the largest becomes a row, so a stray id would fill the memory.
        limit = 1_000_000 + 100 * index.size
        if index.max() >= limit:
            raise ValueError(
                f'{where} must have a {kind} below {limit} with {index.size} interactions (got '
                f'{index.max()}); renumber the ids to 0, 1, 2, ...'
            )
    return out


def _load(path: Path, names: list[str], types: dict[str, str]) -> np.ndarray:
    # Other columns may hold anything, so one character of each is read.
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
        raise ValueError(f'{shown(path)} is empty or starts with an empty line: expected a header')
    try:
        names = line.decode('utf-8-sig').rstrip('\r\n').split('\t')
    except UnicodeDecodeError as error:
        raise ValueError(f'{shown(path)} is not a UTF-8 text file ({error})') from error
    missing = [name for name in COLUMNS if name not in names]
    if any(name.endswith(':token') for name in names):
        raise ValueError(
            f'{shown(path)} is an atomic file of RecBole with the columns {names[:8]}; convert it '
            f'with `mrdib prepare table` or `prepare_table`'
        )
    if missing:
        raise ValueError(
            f'{shown(path)} lacks the column(s) {missing} in its header {names[:8]}; the first '
            f'line must name the tab separated columns, {list(COLUMNS)} among them'
        )
    if len(set(names)) < len(names):
        raise ValueError(f'{shown(path)} names a column twice in its header {names}')
    return names


def _explain(path: Path, names: list[str], fallback: str, timestamps: bool) -> ValueError:
    # Finds the first faulty line in plain Python, once something has failed.
    with open(path, 'rb') as f:
        for number, line in enumerate(f, start=1):
            if number > 1 and line.strip(b'\r\n'):
                fault = _find_fault(line, names, timestamps)
                if fault:
                    return ValueError(f'line {number} of {shown(path)}{fault}')
    return ValueError(f'{shown(path)} cannot be read: {fallback}')


def _find_fault(line: bytes, names: list[str], timestamps: bool) -> str:
    try:
        fields = line.decode('utf-8').rstrip('\r\n').split('\t')
    except UnicodeDecodeError:
        return ' is not UTF-8 text'
    if len(fields) != len(names):
        return f' has {len(fields)} field(s), but the header names {len(names)}: {line[:60]!r}'
    for name, text in zip(names, fields):
        if name == TIME and timestamps and not _is_finite(text):
            return f': {TIME} is {text[:60]!r}, expected a number'
        if name not in COLUMNS:
            continue
        digits = text.strip()
        if not (digits[1:] if digits[:1] in ('-', '+') else digits).isdecimal():
            return f': {name} is {text[:60]!r}, expected an integer'
        if len(digits.lstrip('+-0')) > 19 or abs(value := int(digits)) >= 2**63:
            return f': {name} {digits[:60]} does not fit into 64 bits'
        if name == 'x_label' and value not in (0, 1, 2):
            return f': x_label is {value}, expected 0 (train), 1 (validation) or 2 (test)'
        if value < 0:
            return f': {name} is {value}, but ids start from 0'
    return ''


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_array(path: Path) -> np.ndarray:
    r"""Maps an array into memory, without unpickling anything."""
    check_file(path)
    try:
        with np.errstate(over='ignore'):  # sizes beyond 64 bits raise an error
            array = np.load(path, mmap_mode='r', allow_pickle=False)
    except UNREADABLE as error:
        raise ValueError(
            f'{shown(path)} is not a complete .npy array of numbers ({error}); write it again with '
            f'`numpy.save`, as a plain numeric array'
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f'{shown(path)} is an .npz archive, expected a single .npy array')
    return array


class Arrays(Mapping[str, np.ndarray]):
    r"""Arrays by name, read one at a time."""

    def __init__(self, names: Iterable[str], read: Callable[[str], np.ndarray]) -> None:
        self.names, self.read = dict.fromkeys(names), read

    def __getitem__(self, key: str) -> np.ndarray:
        return self.read(key)

    def __contains__(self, key: object) -> bool:
        return key in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Npz(Arrays):
    r"""The arrays of an ``.npz`` archive, checked against zip bombs and repeated names."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        entries: dict[str, zipfile.ZipInfo] = {}
        unpacked = 0
        for info in archive.infolist():
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f'{info.filename!r} is compressed by method {info.compress_type}; entries must '
                    f'be stored or deflated, as by `numpy.savez` and `numpy.savez_compressed`'
                )
            unpacked += info.file_size
            if entries.setdefault(info.filename.removesuffix('.npy'), info) is not info:
                raise ValueError(f'{info.filename!r} comes twice')
        assert archive.fp is not None
        size = archive.fp.seek(0, os.SEEK_END)
        if unpacked > max(_UNPACKED, _RATIO * size):
            raise ValueError(
                f'its {size} bytes claim to hold {unpacked}; write large arrays uncompressed, with '
                f'`numpy.savez`'
            )

        def read(key: str) -> np.ndarray:
            with archive.open(entries[key]) as f:
                return np.lib.format.read_array(f, allow_pickle=False)

        super().__init__(entries, read)


def read_modality(path: Path, mask_path: Path | None = None) -> tuple[Tensor, Tensor | None]:
    r"""Reads the features of one modality, :obj:`float32` ``[num_items, F]``, zero where an item
    lacks it, and the mask of items that have it, ``[num_items]``, or :obj:`None` if all do. Without
    a file of the mask, items with only zeros lack the modality.
    """
    array, where = read_array(path), shown(path)
    if array.dtype.kind not in 'fiu':
        raise ValueError(f'{where} holds {array.dtype}, expected real numbers')
    if array.ndim != 2:
        raise ValueError(
            f'{where} has the shape {list(array.shape)}, expected [num_items, num_features]'
        )
    if array.shape[1] == 0:
        raise ValueError(f'{where} has no columns (shape {list(array.shape)})')
    with np.errstate(over='ignore'):  # values beyond float32 become inf, an error below
        x = torch.from_numpy(np.array(array, dtype=np.float32, order='C'))
    if mask_path is None:
        mask = (x != 0.0).any(dim=1)
    else:
        mask = _read_mask(mask_path, x.size(0))
        x[~mask] = 0.0
    faulty = (~torch.isfinite(x)).any(dim=-1).nonzero().view(-1)
    if faulty.numel() > 0:
        raise ValueError(
            f'{where} has NaN, infinite or too large (beyond float32) values in '
            f'{faulty.numel()} row(s), the first is row {int(faulty[0])}; mark items without the '
            f"modality in '{path.name.removesuffix('_feat.npy')}_mask.npy'"
        )
    return x, None if mask_path is None and mask.all() else mask


def _read_mask(path: Path, num_items: int) -> Tensor:
    array = read_array(path)
    if array.dtype != np.bool_ or array.shape != (num_items,):
        raise ValueError(
            f'{shown(path)} is an array of {array.dtype} {list(array.shape)}, expected bool '
            f'[{num_items}]: one value per row of the features'
        )
    return torch.from_numpy(np.array(array))


def as_array(value: object) -> np.ndarray:
    r"""Converts anything to an array, also tensors of any type on any device."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.is_floating_point() and value.dtype not in (torch.half, torch.double):
            value = value.float()  # NumPy has no bfloat16 and no 8 bit floats
        value = value.numpy()
    return np.asarray(value)
