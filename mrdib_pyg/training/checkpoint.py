import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from mrdib_pyg.training.atomic import atomic_file

VERSION = 1


class CheckpointError(ValueError):
    r"""A checkpoint that cannot be read, or that belongs to something else."""


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    r"""Saves tensors and plain values to a file that ``torch.load(path, weights_only=True)`` reads.
    It is written atomically.

    Args:
        path (str or Path): The file.
        state (Dict[str, Any]): Nested dictionaries and lists of tensors, numbers and strings.

    Raises:
        OSError: If it cannot be written; an older checkpoint stays as it was.
    """
    path = Path(path)
    try:
        with atomic_file(path) as part:
            torch.save({'version': VERSION, **state}, part)
    except (OSError, RuntimeError) as e:  # a full disk is a RuntimeError of PyTorch's file writer
        reason = (str(e).splitlines() or [''])[0]
        raise OSError(
            f"cannot write '{path}' ({reason}); if the disk is full, make room and continue with "
            f'resume: an older checkpoint is as it was'
        ) from e


def remove_temporary_files(folder: str | Path) -> None:
    r"""Removes what a process leaves behind that is killed while it writes a file of this module.

    Args:
        folder (str or Path): The folder of the files; it need not exist.
    """
    for path in Path(folder).glob('.*.tmp'):
        if re.fullmatch(r'\.(\w+\.(?:pt|json|jsonl))\.\w+\.tmp', path.name):
            path.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    r"""Loads what :func:`save_checkpoint` has saved, without running any code from the file.

    Args:
        path (str or Path): The file.

    Returns:
        Dict[str, Any]: The state, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is torn, not a checkpoint, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint '{path}'; train a model into this folder")
    try:
        with open(path, 'rb') as f, zipfile.ZipFile(f) as archive:
            # A flipped bit in a tensor would pass unnoticed without the checksums.
            torn = archive.testzip()
        if torn is not None:
            raise zipfile.BadZipFile(f"the checksum of '{torn}' is wrong")
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except Exception as e:  # bytes at random raise nearly anything in the two readers
        raise CheckpointError(
            f"the checkpoint '{path}' is torn or not a checkpoint of this package; restore it, or "
            f'train again'
        ) from e
    version = state.get('version') if isinstance(state, dict) else None
    if type(version) is not int or version != VERSION:
        raise CheckpointError(
            f"'{path}' is not a checkpoint of version {VERSION} of this package; train again"
        )
    return state
