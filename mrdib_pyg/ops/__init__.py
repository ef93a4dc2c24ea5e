r"""Pure functions on tensors: sparse propagation, PID loss, top-k, sampling, graphs of items."""

from mrdib_pyg.ops._contrastive_loss import contrastive_loss
from mrdib_pyg.ops._pid_loss import PIDLoss, pid_loss
from mrdib_pyg.ops._propagate import propagate, propagate_mean
from mrdib_pyg.ops._sampled_softmax_loss import sampled_softmax_loss
from mrdib_pyg.ops._topk import masked_topk
from mrdib_pyg.ops.adjacency import NormalizedAdjacency
from mrdib_pyg.ops.interest_graphs import interest_counts, second_order_edges
from mrdib_pyg.ops.item_graphs import (
    cooccurrence_graph,
    edge_cosine,
    feature_knn_graph,
    prune_edges,
)
from mrdib_pyg.ops.negative_sampling import encode_edges, sample_negatives
from mrdib_pyg.ops.rows import linear_rows

__all__ = [
    'NormalizedAdjacency',
    'PIDLoss',
    'contrastive_loss',
    'cooccurrence_graph',
    'edge_cosine',
    'encode_edges',
    'feature_knn_graph',
    'interest_counts',
    'linear_rows',
    'masked_topk',
    'pid_loss',
    'propagate',
    'propagate_mean',
    'prune_edges',
    'sample_negatives',
    'sampled_softmax_loss',
    'second_order_edges',
]
