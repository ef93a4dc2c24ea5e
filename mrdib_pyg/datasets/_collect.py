"""From rows in pieces to arrays of indices: ids are numbered, faulty rows counted, left out."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrdib_pyg.datasets._chunks import Chunks
from mrdib_pyg.datasets._columns import present_in, to_numbers
from mrdib_pyg.datasets._time_reader import TimeReader
from mrdib_pyg.datasets.prepare_report import PrepareReport
from mrdib_pyg.datasets.text import join_text

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
    time_format: str | None = None

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
    times = TimeReader(columns.time_format)
    for frame in chunks:
        keep = np.ones(len(frame), dtype=bool)
        values: dict[str, np.ndarray] = {}
        for kind in ('user', 'item'):
            name = getattr(columns, kind)
            present = present_in(frame[name])
            article = 'an' if kind == 'item' else 'a'
            report.drop(f'without {article} {kind} id ({name})', int((keep & ~present).sum()))
            keep &= present
        for kind in ('rating', 'time', 'weight'):
            name = getattr(columns, kind)
            if name is None:
                continue
            if kind == 'time':
                values[kind] = times.read(frame[name])
            else:
                values[kind] = to_numbers(frame[name])
            finite = np.isfinite(values[kind]) if values[kind].dtype.kind == 'f' else keep
            what, faulty = 'number' if kind != 'time' else 'time', keep & ~finite
            shown = frame[name][faulty & present_in(frame[name])]
            example = shown.iloc[0] if len(shown) > 0 else None
            report.drop(f'whose {kind} ({name}) is no {what}', int(faulty.sum()), example)
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

    user, item, time = join('user'), join('item'), join('time')
    if time is not None and time.size > 0:
        report.times = {
            name: _stamp(value, bool(times.is_date))
            for name, value in (('first', time.min()), ('last', time.max()))
        }
    assert user is not None and item is not None
    return Rows(
        user, item, join('rating'), time, join('weight'),
        list(user_codes), list(item_codes), text,
    )  # fmt: skip


def _stamp(value: np.number, is_date: bool) -> str | float:
    if not is_date:
        return float(value) if value.dtype.kind == 'f' else int(value)
    return str(np.datetime64(int(value), 's')).replace('T', ' ')


def as_id(value: Any) -> str:
    r"""An id as text: whole numbers without a fraction, bytes as UTF-8."""
    if isinstance(value, bytes):
        return value.decode('utf-8', 'replace')
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    # A half of a surrogate pair could not be written.
    return str(value).encode('utf-8', 'replace').decode('utf-8')


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
