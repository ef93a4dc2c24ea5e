r"""Partial information decomposition: of tables, of Gaussians, and of trained recommenders."""

from mrdib_pyg.pid._decompose import PID, decompose
from mrdib_pyg.pid._explain import PIDExplainer, explain_pair
from mrdib_pyg.pid._measure import measure_pid
from mrdib_pyg.pid.gaussian import gaussian_pid

__all__ = [
    'PID',
    'PIDExplainer',
    'decompose',
    'explain_pair',
    'gaussian_pid',
    'measure_pid',
]
