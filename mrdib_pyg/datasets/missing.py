"""Words and values that mean "no value"."""

from typing import Any

#: Words that mean "no value" in tables. Case matters (``Na`` is a name), blanks around do not.
MISSING_WORDS = frozenset(
    {'', 'NULL', 'null', 'NA', '<NA>', 'N/A', 'n/a', 'None', 'NaN', 'nan', '\\N'}
)
_MISSING_BYTES = frozenset(word.encode() for word in MISSING_WORDS)


def is_missing(value: Any) -> bool:
    r"""Whether a value is :obj:`None`, NaN, NaT, :obj:`pandas.NA`, or one of
    :obj:`MISSING_WORDS` as text or bytes.
    """
    if isinstance(value, str):
        return value.strip() in MISSING_WORDS
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).strip() in _MISSING_BYTES
    if value is None:
        return True
    try:
        return bool(value != value)  # NaN and NaT differ from themselves
    except (TypeError, ValueError):  # `pandas.NA`, or an array, which is not missing
        return str(value) == '<NA>'
