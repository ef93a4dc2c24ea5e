import os
import platform
from typing import Any

import numpy
import torch
import torch_geometric

import mrdib_pyg


def provenance() -> dict[str, Any]:
    r"""Returns what a result needs besides its settings and the hash of its data to be looked at
    again: the versions of the software, and the machine.
    """
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        'versions': {
            'mrdib_pyg': mrdib_pyg.__version__,
            'torch': torch.__version__,
            'torch_geometric': torch_geometric.__version__,
            'numpy': numpy.__version__,
            'python': platform.python_version(),
        },
        'machine': {
            'system': platform.system(),
            'processor': _processor(),
            'cores': os.cpu_count(),
            'threads': torch.get_num_threads(),
            'cuda': cuda,
        },
    }


def _processor() -> str:
    try:
        with open('/proc/cpuinfo') as f:
            for line in f:
                if line.startswith('model name'):
                    return line.split(':', 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
