"""What a value of a table is as an id, and as a text."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

#: No id may be longer: the files of ids could not be read again.
ID_LIMIT = 1000


def as_id(value: Any) -> str:
    r"""Returns an id as text. Whole numbers have no fraction. Bytes that are UTF-8 are that text,
    others become hexadecimal digits.
    """
    if isinstance(value, np.void):
        value = value.tobytes()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        try:
            value.encode()
            return value
        except UnicodeEncodeError:  # half of a surrogate pair, which no file of ids could hold
            value = value.encode('utf-8', 'surrogatepass')
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        try:
            return raw.hex() if b'\0' in raw else raw.decode()
        except UnicodeDecodeError:
            return raw.hex()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < ID_LIMIT:
        text = f'{value:f}'
        text = text.rstrip('0').rstrip('.') if '.' in text else text
        return '0' if text == '-0' else text
    return str(value)


def as_ids(values: Sequence[Any], are_texts: bool = False) -> list[str]:
    r"""Returns ids as text, so that no two of them become one: a number and the text that spells it
    are the same id, but bytes and the digits that stand for other bytes are not.

    Raises:
        ValueError: If ids are lists or other containers, too long, or bytes and texts that cannot
            be told apart.
    """
    out = list(values) if are_texts else [as_id(value) for value in values]
    if not are_texts and _merges_bytes(values, out):
        out = [raw.hex() if isinstance(raw, bytes) else as_id(raw) for raw in values]
        if clash := _merges_bytes(values, out):
            raise ValueError(
                f'bytes and a text would both become the id {clash!r}. Please convert ids to text'
            )
    if are_texts and max(map(len, out), default=0) <= ID_LIMIT:
        return out
    for value, text in zip(values, out):
        if isinstance(value, (list, tuple, set, dict, np.ndarray)):
            raise ValueError(f'ids are neither numbers nor text (got {value!r:.60})')
        if len(text) > ID_LIMIT:
            raise ValueError(
                f'an id has {len(text)} characters, at most {ID_LIMIT} are accepted: '
                f'{text[:40]!r}... Please check the column of ids'
            )
    return out


def _merges_bytes(values: Sequence[Any], texts: list[str]) -> str | None:
    hexed: dict[str, Any] = {}
    for value, text in zip(values, texts):
        if (isinstance(value, bytes) and value != text.encode()) or (
            isinstance(value, str) and value != text
        ):
            hexed[text] = value
    if hexed:
        for value, text in zip(values, texts):
            if text in hexed and value != hexed[text]:
                return text
    return None
