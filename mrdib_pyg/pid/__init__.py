r"""Partial information decomposition: of tables, of Gaussians, and of trained recommenders."""

from mrdib_pyg.pid._decompose import PID, decompose, decompose_pairs
from mrdib_pyg.pid._explain import PairExplanation, PIDExplainer, explain_pair
from mrdib_pyg.pid._measure import measure_pid
from mrdib_pyg.pid.gaussian import gaussian_pid
from mrdib_pyg.pid.measurement import Measurement

__all__ = [
    'Measurement',
    'PID',
    'PIDExplainer',
    'PairExplanation',
    'decompose',
    'decompose_pairs',
    'explain_pair',
    'gaussian_pid',
    'measure_pid',
]
