import inspect
import re
import textwrap


def describe(name: str, cls: type) -> None:
    r"""Prints a name and the first paragraph of its documentation, without its markup."""
    text = ' '.join(inspect.cleandoc(cls.__doc__ or '').split('\n\n')[0].split()).rstrip(',')
    text = re.sub(r' :math:`[^`]*`', '', text)  # formulas need more than a terminal
    text = re.sub(r':\w+:`~?(?:[\w.]+\.)?(\w+)`', r'\1', text)
    text = re.sub(r'`([^`<]+?)\s*<[^>]*>`_', r'\1', text)
    print(f'{name} ({cls.__name__})')
    print(textwrap.fill(text, 88, initial_indent='  ', subsequent_indent='  '))
