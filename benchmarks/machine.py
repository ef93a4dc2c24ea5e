r"""What a measurement needs to be looked at again: the machine and the versions."""

import platform
import subprocess
from importlib import metadata
from typing import Any

import torch

from mrdib_pyg.training._run import provenance

#: Packages that a rival may come from; their versions are noted where they are installed.
OPTIONAL = ('triton', 'torch-sparse', 'torch-scatter', 'cornac', 'faiss-cpu', 'fastapi', 'uvicorn')


def describe_machine(device: str) -> dict[str, Any]:
    r"""Returns ``versions`` and ``machine``, as those of a training run, and the accelerator."""
    out = provenance()
    for name in OPTIONAL:
        try:
            out['versions'][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    out['machine']['architecture'] = platform.machine()
    out['machine']['accelerator'] = None
    if torch.device(device).type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        out['machine']['accelerator'] = {
            'name': properties.name,
            'compute_capability': f'{properties.major}.{properties.minor}',
            'memory_bytes': properties.total_memory,
            'multiprocessors': properties.multi_processor_count,
            'l2_cache_bytes': getattr(properties, 'L2_cache_size', None),
            'cuda': torch.version.cuda,
            'driver': _driver(),
        }
    return out


def _driver() -> str | None:
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return text.stdout.strip().splitlines()[0] if text.stdout.strip() else None
