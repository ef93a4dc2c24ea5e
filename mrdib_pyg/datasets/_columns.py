"""The columns of a table: found by their names, as Arrow has them, and as SQL reads them."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mrdib_pyg.datasets._values import as_ids
from mrdib_pyg.datasets.missing import MISSING_WORDS, is_missing
from mrdib_pyg.datasets.text import join_text

if TYPE_CHECKING:
    import pyarrow as pa

_RECBOLE = (':token', ':float', ':token_seq', ':float_seq')


def find_columns(
    names: Sequence[str], wanted: Sequence[str], where: str, sep: str = ''
) -> dict[str, int]:
    r"""The places of columns by their names; blanks around a name do not count, nor does the type
    that RecBole writes behind it.
    """
    plain = plain_names(names)
    out = {}
    for name in wanted:
        found = [place for place, other in enumerate(names) if other == name] or [
            place for place, other in enumerate(plain) if other == name.strip()
        ]
        if len(found) != 1:
            what = 'more than one column' if found else 'no column'
            shown = ', '.join(repr(n) if n != n.strip() else n for n in names[:20])
            hint = (
                f"; are they separated by {sep!r}? If not, pass 'sep'"
                if len(names) == 1 and sep
                else ''
            )
            if sep and not found and any(is_number(field) for field in names):
                hint += "; or is line 1 data? Then pass header=False and 'names'"
            raise ValueError(f'{where} has {what} {name!r}; its columns are {shown[:500]}{hint}')
        out[name] = found[0]
    return out


def plain_names(names: Sequence[str]) -> list[str]:
    out = [name.strip() for name in names]
    if all(name.endswith(_RECBOLE) for name in out):
        out = [name.rpartition(':')[0] for name in out]
    return out


def is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text)
        return text.strip().lower() not in ('nan', 'inf', 'infinity')
    return False


def to_arrow(
    table: Any, columns: Sequence[str], texts: Sequence[str] = (), where: str = 'the data frame'
) -> 'pa.Table':
    r"""The columns of a data frame, an Arrow table, a dictionary of columns or another object that
    Arrow can read, as ``c0``, ``c1``, ...
    """
    import pandas as pd
    import pyarrow as pa

    if isinstance(table, Mapping):
        # Lists as they are: a missing number would make floats of whole ones.
        table = pd.DataFrame(
            {
                key: pd.Series(value, dtype=object) if isinstance(value, (list, tuple)) else value
                for key, value in table.items()
            }
        )
    arrays: list[Any]
    if isinstance(table, pd.DataFrame):
        places = find_columns([str(key) for key in table.columns], columns, where)
        arrays = [_of_pandas(table.iloc[:, place], name in texts) for name, place in places.items()]
    else:
        if not isinstance(table, pa.Table):
            if not hasattr(table, '__arrow_c_stream__'):
                raise TypeError(
                    f"'table' needs to be a path, a data frame, an Arrow table or a dictionary of "
                    f'columns (got {type(table).__name__})'
                )
            table = pa.table(table)
        places = find_columns(table.column_names, columns, where)
        arrays = [table.column(place) for place in places.values()]
    return pa.table(arrays, names=[f'c{place}' for place in range(len(arrays))])


def _of_pandas(column: Any, is_text: bool) -> Any:
    import pandas as pd
    import pyarrow as pa

    errors = (pa.ArrowException, OverflowError, TypeError, ValueError)
    if is_text and column.dtype == object:
        return pa.array([join_text([value]) for value in column], pa.string())
    if not isinstance(column.dtype, pd.CategoricalDtype):
        with contextlib.suppress(*errors):
            return pa.array(column, from_pandas=True)
    values = column.tolist()
    with contextlib.suppress(*errors):
        return pa.array(values, from_pandas=True)
    # Values of several types, or of one that Arrow does not know.
    out: list[str | None] = [None] * len(values)
    places = [
        place for place, value in enumerate(values)
        if isinstance(value, (str, bytes)) or not is_missing(value)
    ]  # fmt: skip
    for place, text in zip(places, as_ids([values[place] for place in places])):
        out[place] = text
    return pa.array(out, pa.string())


def sql_text(column: str, kind: str) -> str:
    r"""The text of a column of some type."""
    if kind == 'JSON':
        return f"({column}->>'$')"
    return column if kind == 'VARCHAR' else f'CAST({column} AS VARCHAR)'


def sql_number(column: str, kind: str) -> str:
    r"""The number in a column of some type, null for what is none."""
    value = f'TRY_CAST({column} AS DOUBLE)'
    if kind in ('VARCHAR', 'JSON', 'BLOB'):
        text = sql_text(column, kind)
        truth = f"CASE lower({text}) WHEN 'true' THEN 1 WHEN 'false' THEN 0 END"
        value = f'coalesce(TRY_CAST({text} AS DOUBLE), {truth})'
    elif is_nested(kind) or kind.startswith(('TIME', 'DATE', 'INTERVAL')):
        return 'CAST(NULL AS DOUBLE)'
    return f'(CASE WHEN isfinite({value}) THEN {value} END)'


def sql_present(column: str, kind: str, words: Iterable[str] = MISSING_WORDS) -> str:
    r"""Whether a column of some type has a value that does not mean that it is missing."""
    if is_nested(kind):
        return (
            f'coalesce(len({column}) > 0, false)'
            if kind.endswith(']')
            else f'({column} IS NOT NULL)'
        )
    if kind not in ('VARCHAR', 'JSON', 'BLOB', 'DOUBLE', 'FLOAT'):
        return f'({column} IS NOT NULL)'
    listed = ', '.join(map(quoted, sorted(words)))
    text = f"regexp_replace({sql_text(column, kind)}, '^\\s+|\\s+$', '', 'g')"
    return f'coalesce({text} NOT IN ({listed}), false)'


def is_nested(kind: str) -> bool:
    r"""Whether values of a type are lists or other containers."""
    return kind.endswith(']') or kind.startswith(('STRUCT', 'MAP', 'UNION'))


def quoted(text: str) -> str:
    r"""A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
