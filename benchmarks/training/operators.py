r"""Where the time of a training step goes, by kind of operator and between operators, on CPU."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.training.step_products import ADAM, DENSE, NORMAL, SPARSE

PRODUCTS, EDGES, NORMALS, OPTIMIZER, ROWS, ELEMENTS, BETWEEN = (
    'dense products', 'sums over edges', 'normal numbers', 'optimizer', 'rows moved and sorted',
    'all other operators', 'between operators',
)  # fmt: skip
#: The kinds by the operators that are of them; the rest are element-wise operations and sums.
_OPERATORS = {
    **dict.fromkeys(DENSE, PRODUCTS),
    **dict.fromkeys((*SPARSE, 'sparse_sampled_addmm', '_embedding_bag_dense_backward'), EDGES),
    NORMAL: NORMALS,
    ADAM: OPTIMIZER,
    **dict.fromkeys(
        (
            'index_select', 'index', 'index_put_', '_index_put_impl_', 'index_add_', 'index_add',
            'index_copy_', 'gather', 'scatter_', 'scatter_add_', 'cat', 'stack', 'copy_', 'sort',
            'nonzero', 'masked_select', 'repeat_interleave', 'searchsorted', 'bincount',
            '_convert_indices_from_coo_to_csr',
        ),
        ROWS,
    ),
}  # fmt: skip


class Share(NamedTuple):
    r"""Seconds and calls of a kind of operator, in one step."""

    seconds: float
    calls: float


def measure_operators(step: Callable[[], Any], count: int = 4) -> dict[str, Share]:
    r"""Returns what each kind of operator takes of a step. *Between operators* is the process time
    of a step that nothing watches, less that of its operators, zero at least: Python, autograd, the
    dispatcher.

    Args:
        step (Callable): The training step.
        count (int, optional): The number of steps to take, twice. (default: :obj:`4`)
    """
    step()
    begin = time.process_time()
    for _ in range(count):
        step()
    total = (time.process_time() - begin) / count
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(count):
            step()
    found: dict[str, list[float]] = {}
    for event in profiler.key_averages():
        if not event.key.startswith('aten::'):  # regions of Python and autograd
            continue
        kind = found.setdefault(_OPERATORS.get(event.key[6:], ELEMENTS), [0.0, 0.0])
        kind[0] += event.self_cpu_time_total / 1e6 / count
        kind[1] += event.count / count
    out = {kind: Share(*entry) for kind, entry in found.items()}
    out[BETWEEN] = Share(max(total - sum(share.seconds for share in out.values()), 0.0), 0.0)
    return out


def added_operators(
    plain: Callable[[], Any], full: Callable[[], Any], rounds: int = 3
) -> dict[str, Share]:
    r"""Returns what one step has of each kind above another, the median of some rounds."""
    found: list[dict[str, Share]] = []
    for _ in range(rounds):
        less, more = measure_operators(plain), measure_operators(full)
        zero = Share(0.0, 0.0)
        found.append(
            {
                kind: Share(*(a - b for a, b in zip(more.get(kind, zero), less.get(kind, zero))))
                for kind in {**more, **less}
            }
        )
    out = {}
    for kind in dict.fromkeys(kind for each in found for kind in each):
        entries = [each.get(kind, Share(0.0, 0.0)) for each in found]
        columns = torch.tensor(entries, dtype=torch.float64).median(dim=0).values
        out[kind] = Share(*columns.tolist())
    return out
