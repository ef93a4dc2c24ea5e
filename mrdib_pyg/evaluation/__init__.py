r"""Evaluation of recommenders: full ranking, and ranking among sampled candidates."""

from mrdib_pyg.evaluation.full_ranking import average_metrics, evaluate
from mrdib_pyg.evaluation.sampled import evaluate_sampled

__all__ = [
    'average_metrics',
    'evaluate',
    'evaluate_sampled',
]
