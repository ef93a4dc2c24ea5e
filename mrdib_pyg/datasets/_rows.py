"""From the rows of a table to arrays: ids are numbered, faulty rows counted and left out."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from mrdib_pyg.datasets._columns import is_nested, sql_number, sql_present, sql_text
from mrdib_pyg.datasets._prepare import Rows
from mrdib_pyg.datasets._source import Source, Workspace
from mrdib_pyg.datasets._times import read_times
from mrdib_pyg.datasets._values import as_id, as_ids
from mrdib_pyg.datasets.missing import MISSING_WORDS
from mrdib_pyg.datasets.prepare_report import PrepareReport
from mrdib_pyg.datasets.text import join_text

#: In the place of a time that is none, where times are whole numbers.
_NO_TIME = -(2**63)


class Columns(NamedTuple):
    r"""The names of the columns of a table of interactions, and what to do with them."""

    user: str
    item: str
    rating: str | None = None
    time: str | None = None
    weight: str | None = None
    min_rating: float | None = None
    time_format: str | None = None
    keep_null_words: bool = False

    def by_kind(self) -> dict[str, str]:
        kinds = ('user', 'item', 'rating', 'time', 'weight')
        return {kind: name for kind, name in zip(kinds, self) if name is not None}  # type: ignore


def collect(
    source: Source, columns: Columns, report: PrepareReport, texts: Sequence[str] = ()
) -> Rows:
    r"""Reads the rows of a table: ids are numbered, what cannot be used is counted and left out.

    Where it has columns of texts, they are in the table ``texts`` of the workspace then.
    """
    work, by_kind = source.work, columns.by_kind()
    fields = {f'f{place}': name for place, name in enumerate(texts)}
    rejected = source.create('raw', {**by_kind, **fields})
    ((num_rows, size),) = work.run('SELECT count(*), coalesce(max(rowid) + 1, 0) FROM raw')
    report.num_rows += num_rows + sum(rejected.values())
    ids, codes = {}, {}
    values: dict[str, tuple[str, Any, str]] = {}
    times = None
    with source.reading():
        for kind in ('user', 'item'):
            ids[kind], codes[kind] = _distinct_ids(source, kind, by_kind[kind], columns)
            join = f'LEFT JOIN {kind}s ON raw."{kind}" = {kind}s.id'
            values[kind] = (f'coalesce({kind}s.rowid, -1)', np.int32, join)
        for kind in ('rating', 'weight'):
            if kind in by_kind:
                number = sql_number(f'"{kind}"', source.types[by_kind[kind]])
                values[kind] = (f"coalesce({number}, 'nan')", np.float64, '')
        if 'time' in by_kind:
            dtype = source.types[by_kind['time']]
            times = read_times(work, by_kind['time'], dtype, columns.time_format)
            if times.is_whole:
                values['time'] = (f'coalesce({times.sql}, {_NO_TIME})', np.int64, '')
            else:
                values['time'] = (f"coalesce({times.sql}, 'nan')", np.float64, '')
        arrays = _fetch(work, values, size)
        keep = arrays.pop('there')
        rows = _clean(source, columns, codes, arrays, keep, report)
        if texts:
            work.connection.register('kept', {'n': np.flatnonzero(keep)})
            work.run(
                f'CREATE TABLE texts AS SELECT item AS id, {", ".join(fields)} FROM raw '
                f'SEMI JOIN kept ON raw.rowid = kept.n ORDER BY raw.rowid'
            )
            work.connection.unregister('kept')
        for table in ('raw', 'users', 'items'):
            work.run(f'DROP TABLE {table}')
    for reason, count in rejected.items():
        report.drop(reason, count)
    time = rows.get('time')
    if times is not None and time is not None and time.size > 0:
        report.times = {
            name: _stamp(value, times.is_date)
            for name, value in (('first', time.min()), ('last', time.max()))
        }
    return Rows(
        rows['user'], rows['item'], rows.get('rating'), time, rows.get('weight'),
        ids['user'], ids['item'],
    )  # fmt: skip


def _distinct_ids(
    source: Source, kind: str, name: str, columns: Columns
) -> tuple[list[str], np.ndarray]:
    r"""The ids of a column, and which of them each of its values is, -1 for those that are missing.

    The numbers of the values are the rows of the table ``users`` or ``items``.
    """
    work, dtype = source.work, source.types[name]
    if is_nested(dtype):
        raise ValueError(f'the ids in column {name!r} are neither numbers nor text ({dtype})')
    work.run(
        f'CREATE TABLE {kind}s AS SELECT DISTINCT "{kind}" AS id FROM raw '
        f'WHERE "{kind}" IS NOT NULL'
    )
    words = [''] if columns.keep_null_words else MISSING_WORDS
    value = 'CAST(id AS VARCHAR)' if dtype.startswith(('DATE', 'TIME', 'INTERVAL', 'BIT')) else 'id'
    query = f'SELECT {value}, {sql_present("id", dtype, words)} FROM {kind}s ORDER BY rowid'
    values: list[Any] = []
    present: list[bool] = []
    if dtype == 'VARCHAR':  # several times faster, with less memory
        for batch in work.stream(query):
            values += batch.column(0).to_pylist()
            present += batch.column(1).to_pylist()
    else:
        for value, is_there in work.run(query):
            values.append(value)
            present.append(is_there)
    if dtype == 'JSON':
        values = [json.loads(value, parse_float=Decimal) for value in values]
    try:
        texts = as_ids(values, are_texts=dtype == 'VARCHAR')
    except ValueError as e:
        raise ValueError(f'in column {name!r} {e}') from e
    if dtype == 'VARCHAR':
        codes = np.arange(len(texts) + 1, dtype=np.int32)
        codes[:-1][~np.array(present, dtype=bool)] = codes[-1] = -1
        return texts, codes
    numbers: dict[str, int] = {}
    table = [
        numbers.setdefault(text, len(numbers)) if is_there else -1
        for text, is_there in zip(texts, present)
    ]
    return list(numbers), np.array([*table, -1], dtype=np.int32)


def _fetch(work: Workspace, values: dict[str, tuple], size: int) -> dict[str, np.ndarray]:
    r"""The values of each row of ``raw`` as arrays, and which rows there are."""
    casts = {np.int32: 'INTEGER', np.int64: 'BIGINT', np.float64: 'DOUBLE'}
    listed = ', '.join(f'CAST({sql} AS {casts[dtype]})' for sql, dtype, _ in values.values())
    joins = ' '.join(join for _, _, join in values.values())
    arrays = {kind: np.empty(size, dtype=dtype) for kind, (_, dtype, _) in values.items()}
    arrays['there'] = there = np.zeros(size, dtype=bool)
    for batch in work.stream(f'SELECT CAST(raw.rowid AS INTEGER), {listed} FROM raw {joins}'):
        place, *found = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        there[place] = True
        for kind, part in zip(values, found):
            arrays[kind][place] = part
    return arrays


def _clean(
    source: Source,
    columns: Columns,
    codes: dict[str, np.ndarray],
    arrays: dict[str, np.ndarray],
    keep: np.ndarray,
    report: PrepareReport,
) -> dict[str, np.ndarray]:
    r"""Leaves out the rows that cannot be used, and counts them by the first reason."""
    names = columns.by_kind()

    def drop(reason: str, faulty: np.ndarray, kind: str | None = None) -> None:
        faulty = keep & faulty
        if (count := int(np.count_nonzero(faulty))) > 0:
            shown = None if kind is None else _example(source, kind, names[kind], faulty)
            report.drop(reason, count, shown)
            np.logical_and(keep, ~faulty, out=keep)

    for kind, article in (('user', 'a'), ('item', 'an')):
        arrays[kind] = codes[kind][arrays[kind]]
        drop(f'without {article} {kind} id ({names[kind]})', arrays[kind] < 0, kind)
    for kind in ('rating', 'time', 'weight'):
        if kind in names:
            array = arrays[kind]
            faulty = array == _NO_TIME if array.dtype == np.int64 else np.isnan(array)
            what = 'time' if kind == 'time' else 'number'
            drop(f'whose {kind} ({names[kind]}) is no {what}', faulty, kind)
    if columns.min_rating is not None:
        drop(f'with a rating below {columns.min_rating:g}', arrays['rating'] < columns.min_rating)
    if columns.weight is not None:
        drop('with a weight of zero or less', arrays['weight'] <= 0)
    out = {}
    for kind in names:
        array = arrays.pop(kind)[keep]
        with np.errstate(over='ignore'):
            out[kind] = array.astype(np.float32) if kind in ('rating', 'weight') else array
    return out


def _example(source: Source, kind: str, name: str, faulty: np.ndarray) -> str | None:
    r"""The first faulty value that is there."""
    dtype = source.types[name]
    text, column = sql_text(f'"{kind}"', dtype), f'"{kind}"'
    rows = ', '.join(map(str, np.flatnonzero(faulty)[:1000].tolist()))
    words = [''] if kind in ('user', 'item') else MISSING_WORDS
    found = source.work.run(
        f'SELECT {text} FROM raw WHERE rowid IN ({rows}) AND {sql_present(column, dtype, words)} '
        f'ORDER BY rowid LIMIT 1'
    )
    return found[0][0] if found else None


def _stamp(value: np.number, is_date: bool) -> str | float:
    if not is_date:
        return float(value) if value.dtype.kind == 'f' else int(value)
    return str(np.datetime64(int(value), 's')).replace('T', ' ')


def read_texts(
    source: Source, item: str, texts: Sequence[str], wanted: Sequence[str]
) -> dict[str, str]:
    r"""Reads the first text of each item that is not empty, from the table ``texts``.

    Raises:
        ValueError: If it has no row of any item.
    """
    fields = {f'f{place}': source.types[name] for place, name in enumerate(texts)}
    there = ' OR '.join(sql_present(key, dtype) for key, dtype in fields.items())
    packed = ', '.join(f'{key} := {key}' for key in fields)
    out: dict[str, str] = {}
    kept = set(wanted)

    def plain(value: Any) -> Any:
        return json.loads(value) if source.is_json and value is not None else value

    with source.reading():
        rows = source.work.run(
            f'SELECT id, arg_min(struct_pack({packed}), rowid) FROM texts WHERE id IS NOT NULL '
            f'AND ({there}) GROUP BY id ORDER BY min(rowid)'
        )
        for raw, found in rows:
            key = as_id(plain(raw))
            if key in kept and key not in out and (text := join_text(map(plain, found.values()))):
                out[key] = text
        if not out:
            some = source.work.run('SELECT DISTINCT id FROM texts WHERE id IS NOT NULL')
            ids = [as_id(plain(raw)) for (raw,) in some]
            if ids and not kept & set(ids):
                raise ValueError(
                    f'{source.name} has a row for none of the items: its ids in column {item!r} '
                    f'are such as {min(ids)[:60]!r}, those of the interactions such as '
                    f'{min(wanted)[:60]!r}'
                )
    return out
