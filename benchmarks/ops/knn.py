r"""The cosine k-nearest-neighbour graph of items, against the dense similarity matrix.

python -m benchmarks.ops.knn --short
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.run import Part, part_main
from benchmarks.timer import peak_of
from mrdib_pyg.ops import feature_knn_graph

K = 10
ROLES = {'knn_graph': 'ours', 'dense similarity': 'baseline'}


def dense_knn(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    r"""The common way: all similarities at a time."""
    x = F.normalize(x, dim=-1)
    value, index = torch.topk(x @ x.t(), k, dim=-1)
    row = torch.arange(x.size(0), device=x.device).repeat_interleave(k)
    return torch.stack([row, index.view(-1)]), value.view(-1)


def measure(part: Part) -> None:
    part.settings.update(k=K)
    full = [(7_050, 384), (7_050, 4_096), (23_033, 384)]
    for num_items, width in part.pick(full, [(7_050, 128)], [(40, 8)]):
        case: dict[str, Any] = {'items': num_items, 'width': width, 'k': K, 'task': 'time'}
        part.attempt(case, functools.partial(_measure, part, num_items, width, case))
        if part.device == 'cuda' or not part.quick:
            target, entry = 'benchmarks.ops.knn:measure_memory', {**case, 'task': 'memory'}
            run = functools.partial(part.peaks, entry, ROLES, target, num_items, width)
            part.attempt(entry, run)


def _inputs(num_items: int, width: int, device: str) -> Tensor:
    return torch.randn(num_items, width, generator=torch.Generator().manual_seed(0)).to(device)


def _measure(part: Part, num_items: int, width: int, case: dict[str, Any]) -> None:
    x = _inputs(num_items, width, part.device)
    same = (feature_knn_graph(x, K)[0] == dense_knn(x, K)[0]).all(dim=0).double().mean()
    part.time(
        case,
        {
            'knn_graph': lambda: feature_knn_graph(x, K),
            'dense similarity': lambda: dense_knn(x, K),
        },
        ROLES,
        extra={'knn_graph': {'values': {'equal_neighbors': float(same)}}},
        min_runs=3,
        min_seconds=0.1,
    )


def measure_memory(method: str, num_items: int, width: int, device: str) -> dict[str, Any]:
    r"""The peak memory of one call; on CPU for a process of its own."""
    fn = feature_knn_graph if method == 'knn_graph' else dense_knn
    fn(_inputs(40, width, device), K)  # what the first call loads is not counted
    x = _inputs(num_items, width, device)
    return peak_of(lambda: fn(x, K), device)


if __name__ == '__main__':
    part_main('knn', measure)
