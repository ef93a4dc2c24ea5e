"""The public names are those of a checked-in list: a change of them is a decision, not an accident.

After a change that is meant: ``python tests/test_api_surface.py`` writes the list anew.
"""

import importlib
import pkgutil
from pathlib import Path

import mrdib_pyg

LIST = Path(__file__).parent / 'api_surface.txt'
ADVICE = (
    'if the change is meant, run `python tests/test_api_surface.py` and note it in CHANGELOG.md'
)


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


if __name__ == '__main__':
    LIST.write_text('\n'.join(public_names()) + '\n', encoding='utf-8')
