r"""Pure functions on tensors: sparse propagation, PID loss, top-k, sampling, graphs of items."""

from mrdib_pyg.ops.adjacency import NormalizedAdjacency
from mrdib_pyg.ops.contrastive_loss import contrastive_loss
from mrdib_pyg.ops.cooccurrence import cooccurrence_graph
from mrdib_pyg.ops.edge_cosine import edge_cosine
from mrdib_pyg.ops.interest_counts import interest_counts
from mrdib_pyg.ops.knn import knn_graph
from mrdib_pyg.ops.layer_mean import propagate_mean
from mrdib_pyg.ops.linear_rows import linear_rows
from mrdib_pyg.ops.negative_sampling import encode_edges, sample_negatives
from mrdib_pyg.ops.pid_loss import PIDLoss, pid_loss
from mrdib_pyg.ops.propagate import propagate
from mrdib_pyg.ops.prune_edges import prune_edges
from mrdib_pyg.ops.second_order_edges import second_order_edges
from mrdib_pyg.ops.topk import masked_topk

__all__ = [
    'NormalizedAdjacency',
    'contrastive_loss',
    'edge_cosine',
    'cooccurrence_graph',
    'PIDLoss',
    'encode_edges',
    'interest_counts',
    'knn_graph',
    'linear_rows',
    'masked_topk',
    'pid_loss',
    'propagate',
    'propagate_mean',
    'prune_edges',
    'sample_negatives',
    'second_order_edges',
]
