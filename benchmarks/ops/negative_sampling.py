r"""The negatives of one epoch, one for each training edge, against a sampler in Python.

python -m benchmarks.ops.negative_sampling --short
"""

import functools
from typing import Any

import torch

from benchmarks.graphs import Graph, sized_graphs
from benchmarks.run import Part, part_main
from benchmarks.training.common.loop import PythonSampler
from mrdib_pyg.ops import sample_negatives
from mrdib_pyg.ops.negative_sampling import encode_edges


def measure(part: Part) -> None:
    for graph in sized_graphs(part):
        part.attempt(graph.case, functools.partial(_measure, part, graph))


def _measure(part: Part, graph: Graph) -> None:
    case: dict[str, Any] = {**graph.case, 'task': 'negatives of an epoch'}
    edge_index = graph.edge_index.to(part.device)
    codes = encode_edges(edge_index, graph.num_items)
    candidates = torch.unique(edge_index[1])
    sampler = PythonSampler(graph.edge_index)
    users = graph.edge_index[0].tolist()

    def ours() -> None:
        sample_negatives(edge_index[0], codes, graph.num_items, candidates=candidates)

    part.time(
        case,
        {'sample_negatives': ours, 'Python sampler': lambda: sampler.sample(users)},
        {'sample_negatives': 'ours', 'Python sampler': 'baseline'},
        min_runs=3,
    )


if __name__ == '__main__':
    part_main('negative_sampling', measure)
