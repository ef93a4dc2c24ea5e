from mrdib_pyg.evaluation.full_ranking import average, evaluate
from mrdib_pyg.evaluation.protocol import held_out_edges
from mrdib_pyg.evaluation.sampled import evaluate_sampled

__all__ = ['average', 'evaluate', 'evaluate_sampled', 'held_out_edges']
