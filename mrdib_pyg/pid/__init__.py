r"""Partial information decomposition: of tables, of Gaussians, and of trained recommenders."""

from mrdib_pyg.pid.discrete import decompose, decompose_pairs
from mrdib_pyg.pid.explainer import Explainer, explain
from mrdib_pyg.pid.explanation import Explanation
from mrdib_pyg.pid.gaussian import gaussian_pid
from mrdib_pyg.pid.measure import measure
from mrdib_pyg.pid.measurement import Atoms, Estimate, Measurement, PairPID, Part
from mrdib_pyg.pid.pid import PID

__all__ = [
    'Atoms',
    'Estimate',
    'Explainer',
    'Explanation',
    'PID',
    'PairPID',
    'Part',
    'Measurement',
    'decompose',
    'decompose_pairs',
    'explain',
    'gaussian_pid',
    'measure',
]
