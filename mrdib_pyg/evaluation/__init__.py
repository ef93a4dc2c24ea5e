r"""Evaluation of recommenders: full ranking, and ranking among sampled candidates."""

from mrdib_pyg.evaluation.full_ranking import METRICS, average_metrics, evaluate
from mrdib_pyg.evaluation.sampled import evaluate_sampled
from mrdib_pyg.interactions import held_out_edges

__all__ = ['METRICS', 'average_metrics', 'evaluate', 'evaluate_sampled', 'held_out_edges']
