"""The public names are those of a checked-in list: a change of them is a decision, not an accident.

After a change that is meant: ``python tests/test_api_surface.py`` writes the list and the page of
the names, ``docs/API.md``, anew.
"""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import mrdib_pyg

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / 'tests' / 'api_surface.txt'
PAGE = ROOT / 'docs' / 'API.md'
ADVICE = (
    'if the change is meant, run `python tests/test_api_surface.py` and note it in CHANGELOG.md'
)
HEAD = """# Public names

What may be imported, by package, with the first sentence of its docstring; `help(name)` has the
rest: arguments with their defaults, shapes, units, and errors. What is not listed may change.
"""


def public_packages() -> list[str]:
    """The package and its subpackages, less those with a leading underscore and the GPU kernels."""
    found = pkgutil.walk_packages(mrdib_pyg.__path__, 'mrdib_pyg.')
    names = [module.name for module in found if module.ispkg]
    names = [name for name in names if '._' not in name and '.kernels' not in name]
    return ['mrdib_pyg', *sorted(names)]


def public_names() -> list[str]:
    names = []
    for package in public_packages():
        module = importlib.import_module(package)
        assert hasattr(module, '__all__'), f'{package}/__init__.py has no __all__: list its names'
        names += [f'{package}.{name}' for name in module.__all__]
    return sorted(names)


def page() -> str:
    """The names with what they are, as Markdown."""
    lines = [HEAD]
    for package in public_packages():
        module = importlib.import_module(package)
        if len(module.__all__) == 0:
            continue
        lines += [f'## {package}', '', '| | |', '|---|---|']
        for name in sorted(module.__all__, key=str.lower):
            value = getattr(module, name)
            path = source_of(value)
            link = f'`{name}`' if path is None else f'[`{name}`](../{path})'
            lines.append(f'| {link} | {summary(value)} |')
        lines.append('')
    return '\n'.join(lines)


def source_of(value: Any) -> str | None:
    """The file of a class or function, from the root of the project."""
    if not inspect.isclass(value) and not inspect.isfunction(value):
        return None
    value = inspect.unwrap(value)
    return Path(inspect.getfile(value)).resolve().relative_to(ROOT).as_posix()


def summary(value: Any) -> str:
    """The first sentence of a docstring, with its reStructuredText as Markdown."""
    if source_of(value) is None:
        return ', '.join(f'`{key}`' for key in value) if isinstance(value, dict) else f'`{value}`'
    text = ' '.join((inspect.getdoc(value) or '').split('\n\n')[0].split())
    text = re.split(r'(?<=[^.]\.)\s+(?=[A-Z])', text)[0].rstrip(',:.') + '.'
    text = re.sub(r':math:`([^`]*)`', r'$\1$', text)
    text = re.sub(r':\w+:`~?(?:[\w.]+\.)?([^`]+)`', r'`\1`', text)
    text = re.sub(r'`"?([^`<]+?)"?\s*<([^`>]+)>`_', r'[\1](\2)', text)
    return text.replace('``', '`').replace('|', r'\|')


def test_api_surface():
    expected = LIST.read_text(encoding='utf-8').split()
    names = public_names()
    added = sorted(set(names) - set(expected))
    removed = sorted(set(expected) - set(names))
    assert not added and not removed, f'added: {added}; removed: {removed}; {ADVICE}'
    assert expected == sorted(expected)


def test_names_are_unique_and_exist():
    names = public_names()
    assert len(names) == len(set(names))
    for name in names:
        package, attribute = name.rsplit('.', 1)
        assert hasattr(importlib.import_module(package), attribute), f'{name} does not exist'


def test_the_page_lists_the_names():
    text = page()
    assert text == PAGE.read_text(encoding='utf-8'), (
        'docs/API.md is not what the docstrings say: run `python tests/test_api_surface.py`'
    )
    undocumented = [line for line in text.splitlines() if line.endswith('|  |')]
    assert undocumented == []
    assert ':obj:' not in text and '`_' not in text


if __name__ == '__main__':
    LIST.write_text('\n'.join(public_names()) + '\n', encoding='utf-8')
    PAGE.write_text(page(), encoding='utf-8')
