r"""Partial information decomposition: of tables, of Gaussians, and of trained recommenders."""

from mrdib_pyg.pid.discrete import decompose, decompose_pairs
from mrdib_pyg.pid.gaussian import gaussian_pid
from mrdib_pyg.pid.measure import measure
from mrdib_pyg.pid.measurement import Measurement
from mrdib_pyg.pid.pid import PID

__all__ = [
    'PID',
    'Measurement',
    'decompose',
    'decompose_pairs',
    'gaussian_pid',
    'measure',
]
