import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

#: What a value must be, in words.
_NAMES = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a word'}


def constructor_arguments(cls: type) -> dict[str, inspect.Parameter]:
    r"""Returns the arguments of a model's constructor by name, but for :obj:`self` and
    :obj:`data`. Where it takes ``**kwargs``, those of the constructor that they are handed on to,
    the next one in the order of its base classes, come with them.
    """
    out: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if '__init__' not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)['__init__']).parameters.values())[2:]
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for parameter in parameters:
            if parameter.kind not in variadic:
                out.setdefault(parameter.name, parameter)
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return out


def check_values(cls: type, settings: Mapping[str, Any]) -> None:
    r"""Refuses values of another type than the constructor of a model says, as far as that is one
    of plain values. A default is always taken; what is not annotated takes everything, except in
    the place of a truth value.

    Raises:
        ValueError: If there is one; the message names it and what it must be.
    """
    arguments = constructor_arguments(cls)
    for name, value in settings.items():
        parameter = arguments[name]
        hint = parameter.annotation
        if value is parameter.default:  # None, say, of what is annotated as an integer
            continue
        is_unknown = hint is inspect.Parameter.empty or isinstance(hint, str)
        if is_unknown and isinstance(parameter.default, bool):
            hint = bool  # 'no' would be true
        wanted = _alternatives(hint)
        if not any(_fits(value, x) for x in wanted):
            names = [_NAMES.get(x, 'a list') for x in wanted if x is not type(None)]
            names += ['none'] if type(None) in wanted else []
            raise ValueError(f"the setting '{name}' must be {' or '.join(names)} (got {value!r})")


def _alternatives(hint: Any) -> list[Any]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if is_union else (hint,)
    return [typing.get_origin(x) or (type(None) if x is None else x) for x in parts]


def _fits(value: Any, hint: Any) -> bool:
    if hint is int or hint is bool or hint is str:
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    if hint is type(None):
        return value is None
    if hint in (list, tuple, Sequence):
        return isinstance(value, (list, tuple))
    return True  # nothing is known of it
