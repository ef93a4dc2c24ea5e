"""What all commands share: their parser, and the reading of values."""

import argparse
import json
from collections.abc import Callable
from typing import Any, NoReturn

EXIT_DONE, EXIT_FAILED, EXIT_WRONG = 0, 1, 2

#: Adds a command: name, usage, summary and, if need be, an epilog, to the parser of its arguments.
Add = Callable[..., argparse.ArgumentParser]


class Usage(Exception):
    r"""Wrong input: told in a line or two, without a traceback."""


class Parser(argparse.ArgumentParser):
    r"""A parser whose errors are two lines, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_WRONG, f'{self.prog}: {message}\nsee `{self.prog} --help`\n')


class CommandFormatter(argparse.RawDescriptionHelpFormatter):
    r"""Leaves examples as they are, and room for long options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


def pairs(option: str, text: str, convert: Callable[[str, str], Any]) -> dict[str, Any]:
    r"""Reads ``name=value,...``."""
    out: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in _split(text))):
        name, sep, value = (piece.strip() for piece in part.partition('='))
        if not (name and sep and value):
            raise Usage(f"{option} takes name=value pairs separated by commas (got '{part}')")
        if name in out:
            raise Usage(f"{option} names '{name}' twice")
        out[name] = convert(option, value)
    return out


def _split(text: str) -> list[str]:
    # At the commas outside of brackets, which hold a value of its own.
    parts, depth = [''], 0
    for char in text:
        depth += (char in '[{') - (char in ']}')
        if char == ',' and depth <= 0:
            parts.append('')
        else:
            parts[-1] += char
    return parts


def integers(option: str, text: str) -> list[int]:
    r"""Reads integers separated by commas or white space."""
    out = [integer(option, part) for part in text.replace(',', ' ').split()]
    if len(out) == 0:
        raise Usage(f'{option} names nothing; pass numbers separated by commas')
    return out


def number(option: str, text: str) -> float:
    r"""Reads a number."""
    try:
        return float(text)
    except ValueError:
        raise Usage(f"{option}: '{text}' is not a number") from None


def integer(option: str, text: str) -> int:
    r"""Reads an integer."""
    try:
        return int(text)
    except ValueError:
        raise Usage(f"{option}: '{text[:40]}' is not an integer") from None


def value(option: str, text: str) -> Any:
    r"""Reads a number, a truth value, nothing (``none``), JSON in brackets, or a word."""
    word = {'none': 'null', 'true': 'true', 'false': 'false'}.get(text.lower(), text)
    try:
        return json.loads(word)
    except json.JSONDecodeError as e:
        if text[:1] in '[{':
            raise Usage(f"{option}: '{text[:60]}' is no JSON ({e})") from None
        return text
