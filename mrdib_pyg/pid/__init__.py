r"""Partial information decomposition: of tables, of Gaussians, and of trained recommenders."""

from mrdib_pyg.pid._decompose import PID, decompose, decompose_pairs
from mrdib_pyg.pid._explain import Explainer, Explanation, explain
from mrdib_pyg.pid._measure import measure
from mrdib_pyg.pid.gaussian import gaussian_pid
from mrdib_pyg.pid.measurement import Atoms, Estimate, Measurement, PairPID, Part

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
