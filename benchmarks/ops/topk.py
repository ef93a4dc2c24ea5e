r"""Top-50 of all items without the user's own, and a full evaluation, against the common way.

    python -m benchmarks.ops.topk --short

The baseline scores 2,048 users at a time into a dense matrix, masks it, and calls
:func:`torch.topk`; its metrics are Python loops over users (:mod:`benchmarks.training.common`).
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.graphs import Graph, random_graph, sized_graphs, to_hetero_data
from benchmarks.run import Part, part_main
from benchmarks.timer import peak_of
from benchmarks.training.common.loop import dense_topk, evaluate_in_loops
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.ops import masked_topk

K = 50
CHANNELS = 64


class Fixed(NamedTuple):
    r"""A model whose embeddings are given."""

    user: Tensor
    item: Tensor

    def embed(self) -> 'Fixed':
        return self


def measure(part: Part) -> None:
    part.settings.update(k=K, channels=CHANNELS)
    for graph in sized_graphs(part):
        part.attempt(graph.case, functools.partial(_measure, part, graph))
        if part.device == 'cuda' or not part.quick:
            case = {**graph.case, 'channels': CHANNELS, 'k': K, 'task': 'memory of top-k'}
            size = graph.num_users, graph.num_items, graph.edge_index.size(1)
            methods = {'masked_topk': 'ours', 'dense top-k': 'baseline'}
            target = 'benchmarks.ops.topk:measure_memory'
            part.attempt(case, functools.partial(part.peaks, case, methods, target, size))


def _inputs(graph: Graph, device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    user = torch.randn(graph.num_users, CHANNELS, generator=generator)
    item = torch.randn(graph.num_items, CHANNELS, generator=generator)
    return user.to(device), item.to(device), graph.edge_index.to(device)


def _measure(part: Part, graph: Graph) -> None:
    user, item, seen = _inputs(graph, part.device)
    k = min(K, graph.num_items // 2)
    case: dict[str, Any] = {**graph.case, 'channels': CHANNELS, 'k': k}
    roles = {'masked_topk': 'ours', 'evaluate': 'ours', 'dense top-k': 'baseline'}
    roles['dense top-k, Python loops'] = 'baseline'
    same = (masked_topk(user, item, k, seen)[1] == dense_topk(user, item, k, seen)).double().mean()
    part.time(
        {**case, 'task': 'top-k'},
        {
            'masked_topk': lambda: masked_topk(user, item, k, seen),
            'dense top-k': lambda: dense_topk(user, item, k, seen),
        },
        roles,
        extra={'masked_topk': {'values': {'equal_places': float(same)}}},
        min_runs=3,
    )
    data = to_hetero_data(graph, {}, held_out=graph.num_users).to(part.device)
    model, cutoffs = Fixed(user, item), [n for n in (5, 10, 20, 50) if n <= k]
    ours = evaluate(model, data, 'val', k=cutoffs)
    theirs = evaluate_in_loops(lambda users: user[users] @ item.t(), data, 'val', cutoffs)
    error = max(abs(ours[name] - theirs[name]) for name in ours)
    part.time(
        {**case, 'task': 'evaluation'},
        {
            'evaluate': lambda: evaluate(model, data, 'val', k=cutoffs),
            'dense top-k, Python loops': lambda: evaluate_in_loops(
                lambda users: user[users] @ item.t(), data, 'val', cutoffs
            ),
        },
        roles,
        extra={'evaluate': {'values': {'metric_error': error}}},
        min_runs=3,
        min_seconds=0.1,
    )


def measure_memory(method: str, size: tuple[int, int, int], device: str) -> dict[str, Any]:
    r"""The peak memory of one call; on CPU for a process of its own."""
    user, item, seen = _inputs(random_graph(*size, 'power law'), device)
    fn = masked_topk if method == 'masked_topk' else dense_topk
    fn(user[:8], item, K, seen[:, :0])  # what the first call loads is not counted
    return peak_of(lambda: fn(user, item, K, seen), device)


if __name__ == '__main__':
    part_main('topk', measure)
