"""The one list of what stands for a value that is not there."""

from typing import Any

#: Words that mean "no value" in tables of ids, texts, ratings and times. Case matters: ``Na`` is a
#: name. Blanks around a word do not.
MISSING_WORDS = frozenset(
    {'', 'NULL', 'null', 'NA', '<NA>', 'N/A', 'n/a', 'None', 'NaN', 'nan', '\\N'}
)
_MISSING_BYTES = frozenset(word.encode() for word in MISSING_WORDS)


def is_missing(value: Any) -> bool:
    r"""Whether :obj:`value` stands for no value: :obj:`None`, NaN, NaT, :obj:`pandas.NA`, or a text
    (also as bytes) that is blank or one of :obj:`MISSING_WORDS`.
    """
    if isinstance(value, str):
        return value.strip() in MISSING_WORDS
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).strip() in _MISSING_BYTES
    if value is None:
        return True
    try:
        return bool(value != value)  # NaN and NaT differ from themselves
    except (TypeError, ValueError):  # `pandas.NA`; an array, which is there
        return str(value) == '<NA>'
