"""Data kept on disk between calls, and read again without running anything that a file holds."""

import warnings
from pathlib import Path

import torch
from torch_geometric.data import Data, HeteroData

from mrdib_pyg.files import replacing

#: Part of the name of a file: what another release wrote is not looked at.
VERSION = 2
_KINDS = {kind.__name__: kind for kind in (Data, HeteroData)}


def write_cache(path: Path, data: Data | HeteroData) -> None:
    r"""Writes :obj:`data`, atomically; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as f:
        torch.save({'kind': type(data).__name__, 'data': data.to_dict()}, f)


def read_cache(path: Path) -> Data | HeteroData | None:
    r"""Reads what :meth:`write_cache` wrote, :obj:`None` where there is no such file. One that is
    damaged, or holds more than tensors and plain values, is not used either, with a warning.
    """
    if not path.exists():
        return None
    try:
        # Never `InMemoryDataset.load`: it falls back to pickle, by which a file runs its own code.
        content = torch.load(path, weights_only=True)
        return _KINDS[content['kind']].from_dict(content['data'])
    except Exception as error:  # whatever bytes at random lead to; its text advises to use pickle
        warnings.warn(
            f"'{path}' is damaged, or holds more than tensors and plain values, and is not used: "
            f'the data are read anew ({type(error).__name__})',
            stacklevel=3,
        )
        return None
