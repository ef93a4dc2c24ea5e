from pathlib import Path
from typing import Any

from mrdib_pyg.serving.optional import require


def save_tensors(tensors: dict[str, Any], path: Path, metadata: dict[str, str]) -> None:
    r"""Saves tensors to a safetensors file.

    Raises:
        OSError: If it cannot be written.
    """
    safetensors = require('safetensors', 'saving')
    try:
        require('safetensors.torch', 'saving').save_file(tensors, path, metadata)
    except safetensors.SafetensorError as e:
        raise OSError(f"'{path.parent}' could not be written to ({e}); is the disk full?") from e
