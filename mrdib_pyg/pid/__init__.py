r"""Partial information decomposition: of tables, of Gaussians."""

from mrdib_pyg.pid.discrete import decompose, decompose_pairs
from mrdib_pyg.pid.gaussian import gaussian_pid
from mrdib_pyg.pid.pid import PID

__all__ = [
    'PID',
    'decompose',
    'decompose_pairs',
    'gaussian_pid',
]
