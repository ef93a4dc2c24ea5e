"""Multimodal recommendation with a representation-disentangled information bottleneck on PyG.

The names below are imported on first use, so that ``import mrdib_pyg`` stays quick and silent.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrdib_pyg.nn import MRdIB, attach, capture, detach
    from mrdib_pyg.ops import NormalizedAdjacency

__version__ = '0.2.0.dev0'

_EXPORTS = {
    'MRdIB': 'mrdib_pyg.nn',
    'NormalizedAdjacency': 'mrdib_pyg.ops',
    'attach': 'mrdib_pyg.nn',
    'capture': 'mrdib_pyg.nn',
    'detach': 'mrdib_pyg.nn',
}

__all__ = ['MRdIB', 'NormalizedAdjacency', 'attach', 'capture', 'detach']


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
