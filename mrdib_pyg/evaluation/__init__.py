from mrdib_pyg.evaluation.full_ranking import evaluate
from mrdib_pyg.evaluation.protocol import held_out_edges
from mrdib_pyg.evaluation.sampled import evaluate_sampled

__all__ = ['evaluate', 'evaluate_sampled', 'held_out_edges']
