import json
import os
from pathlib import Path
from typing import Any

from mrdib_pyg.training.atomic import write_atomic
from mrdib_pyg.training.checkpoint import CheckpointError


class History:
    r"""The record of a training run: one dictionary per epoch, and a file of one JSON line each.

    Args:
        path (str or Path, optional): The file, which is appended to; :obj:`None` keeps the record
            in memory alone. (default: :obj:`None`)
    """

    def __init__(self, path: None | str | Path = None) -> None:
        self.path = None if path is None else Path(path)
        self.epochs: list[dict[str, Any]] = []

    def append(self, row: dict[str, Any]) -> None:
        r"""Adds an epoch."""
        self.epochs.append(row)
        if self.path is not None:
            with open(self.path, 'a', encoding='utf-8') as f:
                f.write(json.dumps(row) + '\n')
                f.flush()
                os.fsync(f.fileno())

    def restore(self, num_epochs: int) -> None:
        r"""Reads the first epochs back from the file and drops what an interrupted run wrote after
        them, be it half a line.

        Args:
            num_epochs (int): The number of epochs to keep.

        Raises:
            CheckpointError: If the file holds fewer.
        """
        assert self.path is not None
        text = ''
        if self.path.exists():
            text = self.path.read_text(encoding='utf-8', errors='replace')
        self.epochs = []
        for line in text.splitlines()[:num_epochs]:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(row, dict) or row.get('epoch') != len(self.epochs) + 1:
                break
            self.epochs.append(row)
        if len(self.epochs) < num_epochs:
            raise CheckpointError(
                f"'{self.path}' holds {len(self.epochs)} of the {num_epochs} epochs that the "
                f'checkpoint has behind it; restore the file, or train into another folder'
            )
        write_atomic(self.path, ''.join(json.dumps(r) + '\n' for r in self.epochs).encode())

    def __len__(self) -> int:
        return len(self.epochs)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(num_epochs={len(self)})'
