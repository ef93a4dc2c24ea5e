"""What commands do with the folder of a run, and with the data and the device of one."""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from mrdib_pyg.commands.arguments import Usage


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
    try:
        dataset = json.loads((folder / 'config.json').read_text(encoding='utf-8'))['dataset']
        assert isinstance(dataset, str)
    except (OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError):
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
    cutoffs = sorted({int(key.split('@')[1]) for row in rows.values() for key in row})
    names = ('recall', 'ndcg', 'precision', 'map')
    lines = [' ' * 8 + ''.join(f'{name:>11}' for name in names)]
    for split, row in rows.items():
        for k in cutoffs:
            cells = ''.join(f'{row[f"{name}@{k}"]:11.4f}' for name in names)
            lines.append(f'{f"{split}@{k}":8}{cells}')
    return '\n'.join(lines)
