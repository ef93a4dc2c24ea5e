r"""Reading of one Python literal (or JSON value): dictionaries, lists, texts, numbers.

A parser of its own: :func:`ast.literal_eval` compiles its text, which deep nesting can make crash
the interpreter. Here time is linear in the length, and depth is bounded.
"""

import re
from typing import Any

#: Nesting beyond this is refused.
DEPTH = 32

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
    (?P<text>[uU]?(?:'[^'\\\n]*(?:\\.[^'\\\n]*)*'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"))
    |(?P<number>[-+]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][-+]?\d{1,4})?L?)
    |(?P<name>[A-Za-z]{1,10})
    |(?P<mark>[\[\](){},:])
    )""",
    re.VERBOSE | re.DOTALL,
)
_NAMES = {
    'None': None, 'True': True, 'False': False, 'nan': float('nan'), 'inf': float('inf'),
    'null': None, 'true': True, 'false': False, 'NaN': float('nan'), 'Infinity': float('inf'),
}  # fmt: skip
_ESCAPE = re.compile(
    r'\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))', re.DOTALL
)
_SIMPLE = {'n': '\n', 't': '\t', 'r': '\r', 'b': '\b', 'f': '\f', 'v': '\v', 'a': '\a', '\n': ''}
_CLOSE = {'[': ']', '(': ')', '{': '}'}


def parse_literal(text: str) -> Any:
    r"""Returns the value that :obj:`text` spells; tuples become lists.

    Raises:
        ValueError: If it is no literal, or is nested too deeply.
    """
    value, place = _value(text, 0, 0)
    if text[place:].strip():
        raise ValueError(f'there is more behind the value, at character {place}')
    return value


def _next(text: str, place: int) -> tuple[str, str, int]:
    match = _TOKEN.match(text, place)
    if match is None or match.lastgroup is None:
        raise ValueError(f'no literal at character {place}')
    return match.lastgroup, match[match.lastgroup], match.end()


def _value(text: str, place: int, depth: int) -> tuple[Any, int]:
    kind, token, end = _next(text, place)
    if kind == 'text':
        return _unescape(token), end
    if kind == 'number':
        token = token.removesuffix('L')  # of Python 2
        return (int(token) if token.lstrip('+-').isdecimal() else float(token)), end
    if kind == 'name':
        if token not in _NAMES:
            raise ValueError(f'{token!r} is no literal, at character {place}')
        return _NAMES[token], end
    if token not in _CLOSE:
        raise ValueError(f'unexpected {token!r} at character {place}')
    if depth >= DEPTH:
        raise ValueError(f'nested more than {DEPTH} times, at character {place}')
    return _container(text, token, end, depth)


def _container(text: str, opening: str, place: int, depth: int) -> tuple[Any, int]:
    items: list[Any] = []
    entries: dict[Any, Any] = {}
    while True:
        kind, token, end = _next(text, place)
        if kind == 'mark' and token == _CLOSE[opening]:
            return (entries if opening == '{' else items), end
        value, place = _value(text, place, depth + 1)
        if opening == '{':
            kind, token, place = _next(text, place)
            if kind != 'mark' or token != ':' or isinstance(value, (list, dict)):
                raise ValueError(f'expected a key and a colon before character {place}')
            entries[value], place = _value(text, place, depth + 1)
        else:
            items.append(value)
        kind, token, end = _next(text, place)
        if kind != 'mark' or token not in (',', _CLOSE[opening]):
            raise ValueError(f'expected a comma or {_CLOSE[opening]!r} at character {place}')
        if token == ',':
            place = end


def _unescape(token: str) -> str:
    token = token[1:] if token[0] in 'uU' else token
    token = token[1:-1]
    if '\\' not in token:
        return token
    out = _ESCAPE.sub(_escape, token)
    # Pairs of surrogates are one character; a half of one is none.
    return out.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def _escape(match: re.Match) -> str:
    code = match[1] or match[2] or match[3]
    if code is not None:
        return chr(int(code, 16)) if int(code, 16) < 0x110000 else '\ufffd'
    if match[4] is not None:
        return chr(int(match[4], 8))
    return _SIMPLE.get(match[5], match[5] if match[5] in '\'"\\/' else match[0])
