"""From rows in pieces to arrays of indices: ids are numbered, faulty rows counted, left out."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrdib_pyg.datasets._chunks import Chunks
from mrdib_pyg.datasets.prepare_report import PrepareReport

if TYPE_CHECKING:
    import pandas as pd

#: No id may be longer: the files of ids could not be read again.
ID_LIMIT = 1000


class Columns(NamedTuple):
    r"""The names of the columns of a table of interactions, and what to do with them."""

    user: str
    item: str
    rating: str | None = None
    time: str | None = None
    weight: str | None = None
    text: tuple[str, ...] = ()
    min_rating: float | None = None

    def names(self) -> list[str]:
        found = (self.user, self.item, self.rating, self.time, self.weight, *self.text)
        return [name for name in found if name is not None]

    def numbers(self) -> list[str]:
        return [name for name in (self.rating, self.time, self.weight) if name is not None]


class Rows(NamedTuple):
    r"""Interactions as indices of ids, one entry each, and the ids in order of first appearance."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray | None
    time: np.ndarray | None
    weight: np.ndarray | None
    user_ids: list[str]
    item_ids: list[str]
    text: dict[str, str]  # by item id, where the table of interactions has it


def collect(chunks: Chunks, columns: Columns, report: PrepareReport) -> Rows:
    r"""Reads all chunks."""
    user_codes: dict[str, int] = {}
    item_codes: dict[str, int] = {}
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ('user', 'item', 'rating', 'time', 'weight')
    }
    text: dict[str, str] = {}
    dates: bool | None = None
    for frame in chunks:
        keep = np.ones(len(frame), dtype=bool)
        values: dict[str, np.ndarray] = {}
        for kind in ('user', 'item'):
            name = getattr(columns, kind)
            present = _present(frame[name])
            report.drop(f'without a {kind} id ({name})', int((keep & ~present).sum()))
            keep &= present
        for kind in ('rating', 'time', 'weight'):
            name = getattr(columns, kind)
            if name is None:
                continue
            if kind == 'time':
                values[kind], dates = to_time(frame[name], dates)
            else:
                values[kind] = to_numbers(frame[name])
            finite = np.isfinite(values[kind]) if values[kind].dtype.kind == 'f' else keep
            what = 'number' if kind != 'time' else 'time'
            report.drop(f'whose {kind} ({name}) is no {what}', int((keep & ~finite).sum()))
            keep = keep & finite
        if columns.min_rating is not None:
            low = keep & (values['rating'] < columns.min_rating)
            report.drop(f'with a rating below {columns.min_rating:g}', int(low.sum()))
            keep &= ~low
        if columns.weight is not None:
            none = keep & (values['weight'] <= 0)
            report.drop('with a weight of zero or less', int(none.sum()))
            keep &= ~none
        frame = frame[keep]
        parts['user'].append(_number_ids(frame[columns.user], user_codes))
        parts['item'].append(_number_ids(frame[columns.item], item_codes))
        for kind, array in values.items():
            if kind != 'time':
                array = array.astype(np.float32)
            parts[kind].append(array[keep])
        if columns.text:
            _add_text(frame, columns, text)
    report.num_rows += chunks.num_rows
    report.drop('with too many fields', chunks.num_faulty)

    def join(kind: str) -> np.ndarray | None:
        if kind not in ('user', 'item') and getattr(columns, kind) is None:
            return None
        arrays = parts.pop(kind)
        return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)

    user, item = join('user'), join('item')
    assert user is not None and item is not None
    return Rows(
        user, item, join('rating'), join('time'), join('weight'),
        list(user_codes), list(item_codes), text,
    )  # fmt: skip


def as_id(value: Any) -> str:
    r"""An id as text: whole numbers without a fraction, bytes as UTF-8."""
    if isinstance(value, bytes):
        return value.decode('utf-8', 'replace')
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    # A half of a surrogate pair could not be written.
    return str(value).encode('utf-8', 'replace').decode('utf-8')


def to_numbers(column: 'pd.Series') -> np.ndarray:
    r"""Returns ``float64``, NaN for what is no number."""
    import pandas as pd

    if column.dtype.kind == 'c':
        column = column.astype(str)
    with np.errstate(all='ignore'):
        numbers = pd.to_numeric(column, errors='coerce')
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def to_time(column: 'pd.Series', dates: bool | None) -> tuple[np.ndarray, bool]:
    r"""Returns numbers as they are, ``int64`` where all are whole, and dates as seconds since 1970
    in UTC; NaN for what is neither.

    Raises:
        ValueError: If dates are written in more than one way, or with the day first.
    """
    import pandas as pd

    if column.dtype.kind in 'iu' and isinstance(column.dtype, np.dtype):
        if column.dtype != np.uint64:
            return column.to_numpy(dtype=np.int64), False
    if dates is None:
        dates = column.dtype.kind == 'M'
        if not dates and column.dtype.kind not in 'iufb':
            filled = column[_present(column)]
            dates = bool(np.isnan(to_numbers(filled)).mean() > 0.5) if len(filled) else False
    if not dates:
        return to_numbers(column), False
    time = _parse_dates(column)
    seconds = (time - pd.Timestamp(0, tz='UTC')).dt.total_seconds()
    return seconds.to_numpy(dtype=np.float64, na_value=np.nan), True


def _parse_dates(column: 'pd.Series') -> 'pd.Series':
    import pandas as pd

    if column.dtype.kind == 'M':
        return pd.to_datetime(column, errors='coerce', utc=True)
    # Of ISO 8601 all forms may be mixed, with and without a time or a fraction; for others pandas
    # takes the form of the first value.
    present = _present(column)
    column = column.astype(str)
    time = pd.to_datetime(column, errors='coerce', utc=True, format='ISO8601')
    other = time.isna().to_numpy() & present
    if other.any():
        with warnings.catch_warnings():  # that it finds no single form
            warnings.simplefilter('ignore', UserWarning)
            time[other] = pd.to_datetime(column[other], errors='coerce', utc=True)
            other &= time.isna().to_numpy()
            rest = pd.to_datetime(
                column[other], errors='coerce', utc=True, format='mixed', dayfirst=True
            )
        if rest.notna().any():
            example = column[other][rest.notna()].iloc[0]
            raise ValueError(
                f'the dates in column {column.name!r} are written in several ways, or with the day '
                f"before the month (such as '{example[:40]}'); write them as 2024-12-31 or as "
                f'seconds'
            )
    return time


def _present(column: 'pd.Series') -> np.ndarray:
    present = column.notna().to_numpy(dtype=bool)
    if column.dtype.kind not in 'iufbM':
        present = present & (column != '').to_numpy(dtype=bool, na_value=False)
    return present


def _number_ids(column: 'pd.Series', codes: dict[str, int]) -> np.ndarray:
    import pandas as pd

    try:
        local, unique = pd.factorize(column)
    except TypeError as e:
        raise ValueError(
            f'the ids in column {column.name!r} are neither numbers nor text ({e})'
        ) from e
    ids = unique.tolist()
    if not isinstance(column.dtype, pd.StringDtype) or not ''.join(ids).isascii():
        ids = [as_id(value) for value in ids]
    if len(ids) > 0 and max(map(len, ids)) > ID_LIMIT:
        wrong = next(value for value in ids if len(value) > ID_LIMIT)
        raise ValueError(
            f'an id has {len(wrong)} characters, at most {ID_LIMIT} are accepted: '
            f'{wrong[:40]!r}... Please check the column of ids'
        )
    number = codes.setdefault
    table = np.fromiter((number(value, len(codes)) for value in ids), np.int32, len(ids))
    return table[local] if len(ids) > 0 else np.zeros(0, dtype=np.int32)


def _add_text(frame: 'pd.DataFrame', columns: Columns, text: dict[str, str]) -> None:
    r"""Keeps the first text of each item that is not empty."""
    frame = frame.drop_duplicates([columns.item, *columns.text])
    for item, *fields in frame[[columns.item, *columns.text]].itertuples(index=False):
        key = as_id(item)
        if key not in text and (found := join_text(fields)):
            text[key] = found


def join_text(fields: Any) -> str:
    r"""Joins the fields that are there, white space evened out."""
    words = [' '.join(str(field).split()) for field in fields if field is not None]
    words = [word for word in words if word not in ('', 'nan', '<NA>')]
    return '. '.join(words).encode('utf-8', 'replace').decode('utf-8')
