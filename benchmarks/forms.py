r"""A small language of forms for what was read from JSON, and its checker.

A form is a dictionary of keys (:class:`Maybe` marks those that may be absent), a :class:`Each` for
lists and for dictionaries with free keys, a type, a set of allowed values, or a function that
raises :class:`ValueError`.
"""

import math
from typing import Any, NamedTuple


class Maybe(NamedTuple):
    r"""The form of a key that may be absent."""

    form: Any


class Each(NamedTuple):
    r"""A list (or, with :obj:`keys` a type, a dictionary with keys of it) of values of a form."""

    form: Any
    keys: Any = None
    at_least: int = 0


class Or(NamedTuple):
    r"""One of several forms."""

    forms: tuple[Any, ...]


def number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'{value!r} is no finite number')


def not_negative(value: Any) -> None:
    number(value)
    if value < 0:
        raise ValueError(f'{value!r} is negative')


def positive(value: Any) -> None:
    number(value)
    if value <= 0:
        raise ValueError(f'{value!r} is not positive')


def text(value: Any) -> None:
    if not isinstance(value, str) or value == '':
        raise ValueError(f'{value!r} is no text')


def scalar(value: Any) -> None:
    if value is not None and not isinstance(value, (str, bool)):
        number(value)


def check(value: Any, form: Any, place: str) -> None:
    r"""Raises :class:`ValueError` unless :obj:`value` has the form."""
    if isinstance(form, Or):
        problems = []
        for option in form.forms:
            try:
                return check(value, option, place)
            except ValueError as e:
                problems.append(str(e))
        raise ValueError('; '.join(problems))
    if isinstance(form, dict):
        _check_keys(value, form, place)
    elif isinstance(form, Each):
        _check_each(value, form, place)
    elif form is None:
        if value is not None:
            raise ValueError(f'{place}: {value!r} is not null')
    elif isinstance(form, type):
        if not isinstance(value, form):
            raise ValueError(f'{place}: {value!r} is no {form.__name__}')
    elif isinstance(form, set):
        if not isinstance(value, str) or value not in form:
            raise ValueError(f'{place}: {value!r} is none of {sorted(form)}')
    else:
        try:
            form(value)
        except ValueError as e:
            raise ValueError(f'{place}: {e}') from None


def _check_keys(value: Any, form: dict[str, Any], place: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f'{place} is no dictionary')
    needed = {k for k, f in form.items() if not isinstance(f, Maybe)}
    if not needed <= value.keys() <= form.keys():
        raise ValueError(
            f'{place}: missing keys {sorted(needed - value.keys())}, unknown keys '
            f'{sorted(value.keys() - form.keys())}'
        )
    for key, entry in value.items():
        inner = form[key]
        check(entry, inner.form if isinstance(inner, Maybe) else inner, f'{place}.{key}')


def _check_each(value: Any, form: Each, place: str) -> None:
    if not isinstance(value, list if form.keys is None else dict):
        raise ValueError(f'{place} is no {"list" if form.keys is None else "dictionary"}')
    if len(value) < form.at_least:
        raise ValueError(f'{place} has {len(value)} entries, fewer than {form.at_least}')
    items = enumerate(value) if form.keys is None else value.items()
    for key, entry in items:
        if form.keys is not None and not isinstance(key, form.keys):
            raise ValueError(f'{place}: the key {key!r} is no {form.keys.__name__}')
        check(entry, form.form, f'{place}[{key!r}]')


#: What several kinds of files have.
MACHINE: dict[str, Any] = {
    'system': text,
    'processor': text,
    'cores': positive,
    'threads': positive,
    'cuda': Or((None, text)),
}
VERSIONS = Each(text, keys=str, at_least=3)
METRICS = Each(not_negative, keys=str, at_least=1)
