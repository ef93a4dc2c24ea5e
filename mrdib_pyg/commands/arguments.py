"""What all commands share: their parser, and the reading of values."""

import argparse
import importlib.util
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
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


def describe(name: str, cls: type) -> None:
    r"""Prints a name and the first paragraph of its documentation, without its markup."""
    text = ' '.join(inspect.cleandoc(cls.__doc__ or '').split('\n\n')[0].split()).rstrip(',')
    text = re.sub(r' :math:`[^`]*`', '', text)  # formulas need more than a terminal
    text = re.sub(r':\w+:`~?(?:[\w.]+\.)?(\w+)`', r'\1', text)
    text = re.sub(r'`([^`<]+?)\s*<[^>]*>`_', r'\1', text)
    print(f'{name} ({cls.__name__})')
    print(textwrap.fill(text, 88, initial_indent='  ', subsequent_indent='  '))


def require_packages(what: str, *names: str) -> None:
    r"""Raises :class:`Usage` if a package of the extra ``[serve]`` is missing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise Usage(f"{what} needs {name}: pip install 'mrdib_pyg[serve]'")


def add_run_arguments(p: argparse.ArgumentParser) -> None:
    r"""Adds what :func:`load_run` reads."""
    p.add_argument('folder', metavar='RUN', help='a run folder of `mrdib train`')
    p.add_argument('--dataset', help='the data, where it has moved since training')
    p.add_argument(
        '--model', metavar='MODULE:CLASS', help='the class of a model of your own, to be imported'
    )


def load_run(args: argparse.Namespace) -> Any:
    r"""Returns the model of a run folder, at its best epoch, and its data."""
    dataset = find_dataset(args)
    cls = None if args.model is None else find_class(args.model)

    from mrdib_pyg.datasets import load_dataset
    from mrdib_pyg.training import load_model

    data = load_dataset(dataset)
    model, _ = load_model(Path(args.folder) / 'best.pt', data, cls)
    return model, data


def find_class(name: str) -> Any:
    r"""Returns the class of a model by its name, or of a module in the current folder or anywhere
    else that Python looks.
    """
    import_from_here()

    from mrdib_pyg.nn.models import MODELS, find_model

    # By the name of its class, too, which messages and papers use.
    names = {known.replace('_', ''): known for known in MODELS}
    return find_model(names.get(name.replace('_', '').lower(), name))


def import_from_here() -> None:
    r"""Lets modules of the current folder be imported, after all others: none of them is to take
    the place of an installed one.
    """
    here = os.getcwd()
    if '' not in sys.path and here not in sys.path:
        sys.path.append(here)


def load_ids(args: argparse.Namespace, model: Any) -> tuple[Any, Any]:
    r"""Returns the ids that the users and the items of a run have outside, an
    :class:`~mrdib_pyg.datasets.IdMap` each, or :obj:`None` where its data folder has none.
    """
    from mrdib_pyg.datasets import DATASETS, IdMap

    dataset, out = find_dataset(args), []
    for kind, size in (('user', model.num_users), ('item', model.num_items)):
        ids = None if dataset in DATASETS else IdMap.load(dataset, kind)
        if ids is not None and len(ids) != size:
            raise Usage(
                f"'{dataset}' has {kind}_ids.csv with {len(ids)} ids, but {size} {kind}s; write "
                f'the file again, or take it away'
            )
        out.append(ids)
    return out[0], out[1]


def find_dataset(args: argparse.Namespace) -> str:
    r"""Returns the name or the folder of the data of a run."""
    folder = Path(args.folder)
    if not folder.is_dir():
        raise Usage(f"there is no run folder '{folder}'; make one with `mrdib train --out`")
    if args.dataset is not None:
        return args.dataset
    from mrdib_pyg.files import is_there

    path = folder / 'config.json'
    try:
        config = json.loads(path.read_text(encoding='utf-8')) if is_there(path) else {}
        dataset = config['dataset']
        assert isinstance(dataset, str)
    except OSError as e:
        raise Usage(f"cannot read '{path}': {e.strerror}") from None
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise Usage(
            f"'{folder}' has no readable config.json, so it is no run folder; pass a folder "
            f'made by `mrdib train`, or --dataset'
        ) from None

    from mrdib_pyg.datasets import DATASETS

    if dataset not in DATASETS and not os.path.isdir(dataset):
        raise Usage(f"the data of this run, '{dataset}', have moved; name them by --dataset")
    return dataset


def new_run_folder(out: str, resume: bool) -> Path:
    r"""Returns the folder of a run to be; nothing is made yet."""
    path = Path(out)
    try:
        str(path).encode()
    except UnicodeEncodeError:  # PyTorch writes to no such path
        raise Usage(f'--out must be a path in UTF-8 (got {os.fsencode(path)!r})') from None
    if path.exists() and not path.is_dir():
        raise Usage(f"--out '{path}' is a file; name a folder")
    names = {p.name for p in path.iterdir()} if path.is_dir() else set()
    if names and not resume:
        raise Usage(f"--out '{path}' is not empty; add --resume, or name another folder")
    if names and 'config.json' not in names and not all(n.startswith('.') for n in names):
        raise Usage(f"--out '{path}' holds no run to resume; name the folder of a run")
    return path


def read_device(name: str) -> str:
    r"""Returns the device that ``--device`` names."""
    import torch

    if re.fullmatch(r'auto|cpu|cuda(:\d+)?', name) is None:
        raise Usage(f"--device must be cpu, cuda, cuda:N or auto (got '{name}')")
    if name == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    if name.startswith('cuda') and int(name[5:] or 0) >= torch.cuda.device_count():
        raise Usage(f"--device '{name}': this PyTorch sees no such device; use --device cpu")
    return name


def absolute(dataset: str) -> str:
    r"""Returns the name of a data set as it is, and the full path of a folder."""
    from mrdib_pyg.datasets import DATASETS

    return dataset if dataset in DATASETS else str(Path(dataset).expanduser().resolve())


def table(rows: dict[str, dict[str, float]]) -> str:
    r"""Returns metrics as a table for a terminal."""
    from mrdib_pyg.evaluation.full_ranking import METRICS

    cutoffs = sorted({int(key.split('@')[1]) for row in rows.values() for key in row})
    lines = [' ' * 8 + ''.join(f'{name:>11}' for name in METRICS)]
    for split, row in rows.items():
        for k in cutoffs:
            cells = ''.join(f'{row[f"{name}@{k}"]:11.4f}' for name in METRICS)
            lines.append(f'{f"{split}@{k}":8}{cells}')
    return '\n'.join(lines)
