r"""Pure functions on tensors: sparse propagation, masked top-k, negative sampling, cosine k-NN."""

from mrdib_pyg.ops.adjacency import NormalizedAdjacency
from mrdib_pyg.ops.knn import knn_graph
from mrdib_pyg.ops.layer_mean import propagate_mean
from mrdib_pyg.ops.negative_sampling import encode_edges, sample_negatives
from mrdib_pyg.ops.propagate import propagate
from mrdib_pyg.ops.topk import masked_topk

__all__ = [
    'NormalizedAdjacency',
    'encode_edges',
    'knn_graph',
    'masked_topk',
    'propagate',
    'propagate_mean',
    'sample_negatives',
]
