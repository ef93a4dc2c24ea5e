r"""Pure functions on tensors: sparse propagation, PID loss, top-k, sampling, graphs of items."""

from mrdib_pyg.ops._pid_loss import pid_loss
from mrdib_pyg.ops._propagate import propagate, propagate_mean
from mrdib_pyg.ops._sampled_softmax_loss import sampled_softmax_loss
from mrdib_pyg.ops._topk import masked_topk
from mrdib_pyg.ops.adjacency import NormalizedAdjacency
from mrdib_pyg.ops.item_graphs import feature_knn_graph
from mrdib_pyg.ops.negative_sampling import sample_negatives

__all__ = [
    'NormalizedAdjacency',
    'feature_knn_graph',
    'masked_topk',
    'pid_loss',
    'propagate',
    'propagate_mean',
    'sample_negatives',
    'sampled_softmax_loss',
]
