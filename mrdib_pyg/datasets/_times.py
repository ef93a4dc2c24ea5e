"""Times of a table: numbers as they are, or dates, whose form is found out from all of them."""

import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from mrdib_pyg.datasets._columns import quoted, sql_number, sql_present, sql_text
from mrdib_pyg.datasets._source import Workspace

#: The seconds since 1970 that count: dates beyond (of nanoseconds in 64 bits) are marks of
#: something else, as 9999-12-31 is.
FIRST, LAST = -9223372036, 9223372036
#: A share of dates that may be written in another way: they are left out then.
_RARE = 0.01
_SAMPLE = 10_000
_DATE = re.compile(
    r'(?P<weekday>[A-Za-z]{3},? )?(?P<a>\d{1,4}|[A-Za-z]{3,9})(?P<s>[^\w%]{1,2})'
    r'(?P<b>\d{1,2}|[A-Za-z]{3,9})(?P<t>[^\w%]{1,2})(?P<c>\d{4}|\d{1,2})'
    r'(?:(?P<u>[T ,]{1,2})\d{1,2}:\d{2}(?P<seconds>:\d{2})?(?P<part>\.\d{1,6})?'
    r'(?P<half> ?[AaPp][Mm])?(?P<zone> ?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2}))?)?'
)
_OTHER_FORMS = (
    '%Y%m%d', '%Y%m%d%H%M%S', '%Y%m%dT%H%M%S', '%Y%m%dT%H%M%S%z', '%Y-%m', '%m/%Y',
    '%Y-%m-%dT%H', '%a %b %d %H:%M:%S %Y',
)  # fmt: skip
#: The units of times since 1970, by the digits of the numbers of our days.
_UNITS = {'seconds': 9, 'milliseconds': 12, 'microseconds': 15, 'nanoseconds': 18}


class Times(NamedTuple):
    r"""How the column ``time`` of the table ``raw`` is read."""

    sql: str  # its value, null for what is no time
    is_date: bool
    is_whole: bool = False  # whether it gives whole numbers


def read_times(work: Workspace, name: str, kind: str, form: str | None) -> Times:
    r"""Finds out how times are written.

    Dates may be of ISO 8601, in which precisions may be mixed, and of one other form: the one that
    reads most of them, so that a number above 12 decides whether the day or the month comes first.

    Args:
        work (Workspace): Where the table is.
        name (str): The name of the column, for messages.
        kind (str): Its type.
        form (str, optional): The form of all dates, in the letters of :meth:`strftime`.

    Raises:
        ValueError: If dates are written in more than one way, or it cannot be told in which.
    """
    if kind.startswith(('TIMESTAMP', 'DATE')):
        return Times(_in_range('epoch("time")'), True)
    column = '"time"'
    text = f'trim({sql_text(column, kind)})'
    number = sql_number(column, kind)
    there = sql_present(column, kind)
    if form is None:
        counts = _count_numbers(work, number)
        num_there = counts['all']
        if counts['numbers'] <= num_there / 2:  # many may be missing
            ((num_there,),) = work.run(f'SELECT count(*) FROM raw WHERE {there}')
        if counts['numbers'] > num_there / 2 or num_there == 0:
            if counts['days'] > counts['numbers'] / 2:
                _check_days(work, name, number, counts['numbers'])
            if num_there > 0 and counts['most'] >= 10**10 and counts['least'] < counts['most'] / 10:
                _warn_of_units(work, name, number)
            if not counts['whole']:
                return Times(number, False)
            source = text if kind in ('VARCHAR', 'JSON', 'BLOB') else column
            return Times(f'TRY_CAST({source} AS BIGINT)', False, True)
    # Whole numbers beside empty fields may have a fraction of zero.
    dates = _Dates(work, name, f"regexp_replace({text}, '^([0-9]+)\\.0+$', '\\1')", there)
    return Times(_in_range(dates.find() if form is None else dates.check(form)), True)


def _in_range(seconds: str) -> str:
    return f'(CASE WHEN {seconds} BETWEEN {FIRST} AND {LAST} THEN {seconds} END)'


def _count_numbers(work: Workspace, number: str) -> dict[str, Any]:
    result = work.connection.sql(
        f'SELECT count(*) AS "all", count(x) AS numbers, min(x) AS least, max(x) AS most, '
        f'coalesce(bool_and(x = trunc(x)) AND max(abs(x)) < 9e18, false) AS whole, '
        f'count(*) FILTER (x BETWEEN 19000101 AND 21001231) AS days '
        f'FROM (SELECT {number} AS x FROM raw)'
    )
    return dict(zip(result.columns, result.fetchall()[0]))


def _check_days(work: Workspace, name: str, number: str, num_numbers: int) -> None:
    # As seconds, they are of 1970, when nobody has bought anything.
    ((count, example),) = work.run(
        f'SELECT count(*), arg_min(x, n) FROM (SELECT {number} AS x, rowid AS n FROM raw) '
        f'WHERE x BETWEEN 19000101 AND 21001231 AND x = trunc(x) '
        f'AND floor(x / 100) % 100 BETWEEN 1 AND 12 AND x % 100 BETWEEN 1 AND 31'
    )
    if count > num_numbers / 2:
        raise ValueError(
            f'the numbers in column {name!r}, such as {int(example)}, are dates by their looks: '
            f"give their form as 'time_format' '%Y%m%d'"
        )


def _warn_of_units(work: Workspace, name: str, number: str) -> None:
    units = ', '.join(
        f'count(*) FILTER (x >= 1e{digits - 1} AND x < 1e{digits + 1})'
        for digits in _UNITS.values()
    )
    (counts,) = work.run(f'SELECT {units} FROM (SELECT {number} AS x FROM raw)')
    found = [f'{count:,} look like {unit}' for unit, count in zip(_UNITS, counts) if count > 0]
    if len(found) > 1:
        warnings.warn(
            f'the times in column {name!r} are of several units by their looks: '
            f'{" and ".join(found)}. They are ordered as the numbers they are',
            stacklevel=6,
        )


class _Dates:
    r"""Dates that are written as text, an expression of SQL."""

    def __init__(self, work: Workspace, name: str, text: str, there: str) -> None:
        self.work, self.name, self.text = work, name, text
        self.rows = f'FROM raw WHERE {there}'

    def value(self, form: str, text: str | None = None) -> str:
        return f'epoch(try_strptime({text or self.text}, {quoted(form)}))'

    def count(self, forms: Sequence[str]) -> list[int]:
        r"""The dates that each form reads."""
        counts = ', '.join(f'count({_in_range(self.value(form))})' for form in forms)
        return list(self.work.run(f'SELECT {counts} {self.rows}')[0]) if forms else []

    def check(self, form: str) -> str:
        r"""The value of dates of a given form. One that swaps day and month is told of."""
        try:
            self.work.run(f'SELECT {self.value(form, quoted("x"))}')
        except self.work.duckdb.Error as e:
            raise ValueError(f"'time_format' {form!r} is no form of dates ({e})") from e
        places = {'%d': '%m', '%m': '%d'}
        other = re.sub('%[dm]', lambda found: places[found.group()], form)
        num, num_other = self.count([form, other])
        if num_other > num:
            warnings.warn(
                f"'time_format' {form!r} reads {num:,} of the dates in column {self.name!r}, "
                f'{other!r} reads {num_other:,}: are the day and the month swapped?',
                stacklevel=7,
            )
        return self.value(form)

    def find(self) -> str:
        r"""The value of dates whose form is not given."""
        # A letter in front would be a word such as `today`.
        iso = _in_range(
            f"(CASE WHEN {self.text} BETWEEN '0' AND ':' THEN "
            f'epoch(TRY_CAST({self.text} AS TIMESTAMP WITH TIME ZONE)) END)'
        )
        ((num, num_iso),) = self.work.run(f'SELECT count(*), count({iso}) {self.rows}')
        if num_iso == num:
            return iso
        self.rows += f' AND ({iso}) IS NULL'
        sample = self.work.run(
            f'SELECT DISTINCT {self.text} {self.rows} AND rowid % {num // _SAMPLE + 1} = 0'
        ) or self.work.run(f'SELECT DISTINCT {self.text} {self.rows} LIMIT {_SAMPLE}')
        forms = self._best(sorted(text for (text,) in sample))
        if not forms:
            return iso
        counts = self.count(forms)
        any_of = f'coalesce({", ".join(map(self.value, forms))})'
        ((num_any,),) = self.work.run(f'SELECT count({_in_range(any_of)}) {self.rows}')
        rare = _RARE * (num_iso + num_any)
        best = max(forms, key=lambda form: counts[forms.index(form)])
        most = max(counts)
        if num_any - most > rare:
            example = self._example(f'{self.value(best)} IS NULL AND {any_of} IS NOT NULL')
            raise ValueError(
                f'the dates in column {self.name!r} are written in several ways: {best!r} reads '
                f'{most:,} of {num_any:,}, but not {example!r}. Please write them as 2024-12-31 or '
                f"as seconds, or give their form as 'time_format'"
            )
        for form, count in zip(forms, counts):
            if form.startswith('%y') or form == best or count < most:  # the year is the last then
                continue
            if self._differ(best, form):
                if most <= rare:
                    return iso
                example = self._example(f'{self.value(best)} IS NOT NULL')
                raise ValueError(
                    f'the dates in column {self.name!r}, such as {example!r}, may have the day or '
                    f"the month first: give their form as 'time_format', {best!r} or {form!r}"
                )
        return f'coalesce({iso}, {self.value(best)})'

    def _best(self, sample: Sequence[str]) -> list[str]:
        r"""The forms that may be that of a sample."""
        forms = list(dict.fromkeys(form for text in sample for form in forms_of(text)))
        forms += _OTHER_FORMS
        counts = [
            self.work.run(
                f'SELECT count({_in_range(self.value(form, "t"))}) FROM (SELECT unnest(?) AS t)',
                sample,
            )[0][0]
            for form in forms
        ]
        most = max(counts, default=0)
        order = sorted(range(len(forms)), key=lambda place: -counts[place])
        return [forms[place] for place in order if counts[place] > 0 and counts[place] > most / 20][
            :8
        ]

    def _differ(self, a: str, b: str) -> bool:
        ((num,),) = self.work.run(
            f'SELECT count(*) FILTER ({self.value(a)} IS DISTINCT FROM {self.value(b)}) {self.rows}'
        )
        return num > 0

    def _example(self, condition: str) -> str:
        ((text,),) = self.work.run(
            f'SELECT {self.text} {self.rows} AND {condition} ORDER BY rowid LIMIT 1'
        )
        return text[:40]


def forms_of(text: str) -> list[str]:
    r"""The forms that a date may have, in the letters of :meth:`strftime`."""
    found = _DATE.fullmatch(text)
    if found is None:
        return []
    out, rest = [], ''
    if found['u']:
        rest = found['u'] + ('%I' if found['half'] else '%H') + ':%M'
        rest += ':%S' if found['seconds'] else ''
        rest += '.%f' if found['part'] else ''
        rest += re.sub('[AaPp][Mm]', '%p', found['half'] or '')
        zone = found['zone'] or ''
        rest += re.sub('Z|[+-].*', '%z', zone)
    for order in ('dmY', 'mdY', 'Ymd'):
        letters = [_letter(letter, found[key]) for letter, key in zip(order, 'abc')]
        if None in letters or ('%y' == letters[0] and '%b' in letters):
            continue
        weekday = re.sub('[A-Za-z]+', '%a', found['weekday'] or '')
        a, b, c = letters
        out.append(f'{weekday}{a}{found["s"]}{b}{found["t"]}{c}{rest}')
    return out


def _letter(letter: str, text: str) -> str | None:
    r"""How a field is written as the day, the month or the year; :obj:`None` if it cannot be."""
    if not text.isdigit():
        return {True: '%b', False: '%B'}[len(text) == 3] if letter == 'm' else None
    if letter == 'Y':
        return {2: '%y', 4: '%Y'}.get(len(text))
    return f'%{letter}' if len(text) <= 2 else None
