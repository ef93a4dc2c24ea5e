"""How commands read the ids of users and items."""

import os
from typing import Any

from mrdib_pyg.commands.arguments import Usage, integers


def read_ids(option: str, text: str, ids: Any, size: int) -> list[int]:
    r"""Reads ids, or the file that holds them, and returns indices.

    Where there are ids of the user's own, a file has one a line, and a list has commas between
    them; white space around one only counts where the data have that id. Otherwise ids are integers
    between commas or white space.

    Args:
        option (str): The option, for messages.
        text (str): The ids, or a file of them.
        ids (IdMap, optional): The ids that users or items have outside, or :obj:`None`.
        size (int): How many users or items there are.
    """
    if os.path.isfile(text):  # unlike Path.is_file, takes a text too long for a name
        return read_id_file(option, text, ids, size)
    try:
        parts = [text] if ids is not None and text in ids else text.split(',')
        return _indices(option, parts, ids, size)
    except Usage as e:
        if ',' in text or (ids is None and text.isdecimal()):
            raise
        raise Usage(f'{e}, and there is no such file') from None


def read_id(option: str, text: str, ids: Any, size: int) -> int:
    r"""As :func:`read_ids`, of a single id, which may hold commas where ids are the user's own."""
    found = _indices(option, [text], ids, size)
    if len(found) > 1:
        raise Usage(f"{option} takes one id (got '{text}')")
    return found[0]


def read_id_file(option: str, path: str, ids: Any, size: int) -> list[int]:
    r"""As :func:`read_ids`, of a file only."""
    option = f"{option}, file '{path}'"
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            text = file.read()
    except FileNotFoundError:
        raise Usage(f'{option}: there is no such file') from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise Usage(f'{option}, is not a text file of ids') from None
    # Not `splitlines`: an id may hold what other systems take for the end of a line.
    lines = text.replace('\r\n', '\n').split('\n')
    return _indices(option, [line for line in lines if line] or [''], ids, size)


def _indices(option: str, parts: list[str], ids: Any, size: int) -> list[int]:
    if ids is None:
        out = integers(option, ' '.join(parts))
        for index in out:
            if not 0 <= index < size:
                raise Usage(f'{option} must be ids from 0 to {size - 1} (got {index})')
        return out
    names = [part if part in ids else part.strip() for part in parts]
    # What is blank names nothing, unless it is an id as it stands.
    names = [name for part, name in zip(parts, names) if name or (part == '' and part in ids)]
    if len(names) == 0:
        raise Usage(f'{option} names nothing; pass ids separated by commas')
    for name in names:
        if name not in ids:
            some = ' and '.join(f"'{known[:60]}'" for known in ids.ids[:2])
            hint = '; ids that hold commas can be in a file, one a line' if len(parts) > 1 else ''
            raise Usage(
                f"{option}: there is no '{name[:60]}' in the data (ids are {some}...){hint}"
            )
    return [ids.index(name) for name in names]
