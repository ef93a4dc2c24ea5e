from mrdib_pyg.evaluation.full_ranking import average, evaluate
from mrdib_pyg.evaluation.sampled import evaluate_sampled
from mrdib_pyg.interactions import held_out_edges

__all__ = ['average', 'evaluate', 'evaluate_sampled', 'held_out_edges']
