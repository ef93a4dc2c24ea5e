r"""Tables between marks in a Markdown file."""

from collections.abc import Sequence
from pathlib import Path


def insert(readme: Path, name: str, text: str) -> None:
    """Replaces what stands between the marks of a table in a Markdown file."""
    start, end = f'<!-- table: {name} -->', f'<!-- end of table: {name} -->'
    content = readme.read_text()
    if start not in content or end not in content:
        raise SystemExit(f"'{readme}' has no marks '{start}' and '{end}'")
    head, tail = content.split(start)[0], content.split(end)[1]
    readme.write_text(f'{head}{start}\n{text}\n{end}{tail}')


def make_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ['| ' + ' | '.join(header) + ' |', '|---' * len(header) + '|']
    return '\n'.join([*lines, *('| ' + ' | '.join(row) + ' |' for row in rows)])
