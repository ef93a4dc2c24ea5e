r"""Time and peak memory of propagation, and of the PID loss, over the number of edges.

    python -m benchmarks.scaling.edges --short
    python -m benchmarks.scaling.edges --full       # up to 1e8 edges

The nodes grow with the edges: a user for every 12 edges, an item for every three users. On CPU each
size has a process of its own for its times, and one for its memory, in which freed blocks are given
back at once: else the peak is that of the allocator's fragments.

*Gathers alone* is a pass that only reads rows that the operator reads at random, in its order, into
a buffer that a cache holds: how fast the memory of the machine gives random rows of tables that
grow. For propagation they are those of one product and its transposed one, of which a forward and
backward pass takes six. For the PID loss on CPU they are all of them: the items of all triplets for
the scores, once more for the gradients of the users, and for those of the items the users of each
block of triplets, sorted by item; on CUDA, whose kernels pass otherwise, the items of all triplets.

*System* is the share of the operating system in a forward and backward pass on CPU: what it takes
to map and to clear the pages of tensors that are made anew.

The slopes are those of log-log fits: of memory over all sizes, of time over the sizes from 1e7,
below which caches bend it; one is linear.
"""

import functools
import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.graphs import grown
from benchmarks.ops.pid_loss import total_of
from benchmarks.run import Part, part_main
from benchmarks.schema import BOTH, FROM_TIME, GATHERS
from benchmarks.timer import (
    available_memory,
    in_process,
    make_clock,
    peak_of,
    return_freed_memory,
    summarize,
)
from mrdib_pyg.ops import NormalizedAdjacency, pid_loss, propagate_mean
from mrdib_pyg.ops._bpr_terms import SortedTriplets, blocks, users_by_item

CHANNELS = 64
NUM_LAYERS = 3
MODALITIES = 2
WORK = ('propagation', 'pid_loss')
CHUNK = 8_192  # rows that are gathered at a time: 2 MiB


def sizes(part: Part) -> list[int]:
    if part.smallest:
        return [2_000, 4_000]
    if part.short:
        return [10**5, 3 * 10**5, 10**6]
    out = [10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7, 3 * 10**7]
    # On a GPU the rounds are short enough to have the largest size in them.
    return [*out, 10**8] if part.full or part.device == 'cuda' else out


def measure(part: Part) -> None:
    part.settings.update(channels=CHANNELS, num_layers=NUM_LAYERS, modalities=MODALITIES)
    # Rows of large tables are gathered at random: with pages of 4 KiB, most of them miss the TLB.
    # The processes of the sizes read it as they start.
    part.settings['THP_MEM_ALLOC_ENABLE'] = os.environ.setdefault('THP_MEM_ALLOC_ENABLE', '1')
    done: dict[str, list[tuple[int, dict[str, Any]]]] = {work: [] for work in WORK}
    # Both by size, so that neither is left out where the time is over.
    for num_edges, work in itertools.product(part.sizes or sizes(part), WORK):
        users, items, _ = grown(num_edges)
        case = {'work': work, 'edges': num_edges, 'users': users, 'items': items}
        before = [_extra(out['memory']) / n for n, out in done[work]]
        needed = max(before, default=0) * num_edges
        if part.device == 'cpu' and needed > available_memory():
            part.miss(case, 'mrdib_pyg', f'left out: needs about {needed / 2**30:.0f} GiB')
            continue
        part.attempt(case, functools.partial(_measure, part, work, case, done[work]))
    for work in WORK:
        _fit(part, work, done[work])


def _measure(
    part: Part, work: str, case: dict[str, Any], done: list[tuple[int, dict[str, Any]]]
) -> None:
    arguments = work, case['edges'], part.device
    if part.device == 'cuda' or part.smallest:
        out = measure_size(*arguments, 2)
    else:
        target = 'benchmarks.scaling.edges:measure_size'
        out = in_process(target, *arguments, 3)
        out['memory'] = in_process(target, *arguments, 0)['memory']
    for task, times in out['times'].items():
        timing = summarize(times, 'cuda' if part.device == 'cuda' else 'cpu')
        share = {'system_share': out['system']} if task == BOTH and 'system' in out else None
        part.add({**case, 'task': task}, 'mrdib_pyg', 'ours', time=timing, values=share)
        out[task] = timing.median
    values = {'extra_bytes_per_edge': _extra(out['memory']) / case['edges']}
    part.add({**case, 'task': 'memory'}, 'mrdib_pyg', 'ours', memory=out['memory'], values=values)
    done.append((case['edges'], out))
    part.log(f'{work} {case["edges"]:.0e}: {_extra(out["memory"]) / 2**30:.2f} GiB')
    part.write()


def _extra(memory: dict[str, Any]) -> int:
    return max(memory['peak_bytes'] - memory['before_bytes'], 1)


def _fit(part: Part, work: str, done: list[tuple[int, dict[str, Any]]]) -> None:
    values: dict[str, float] = {}
    if len(done) >= 2:
        values['memory'] = slope([(n, _extra(out['memory'])) for n, out in done])
    large = [(n, out) for n, out in done if n >= FROM_TIME]
    for task in ('build', BOTH, GATHERS):
        if len(large) >= 2:
            values[f'time of {task}'] = slope([(n, out[task]) for n, out in large])
    if len(values) > 0:
        case = {'work': work, 'task': 'slope', 'from': done[0][0], 'to': done[-1][0]}
        part.add(case, 'mrdib_pyg', 'ours', values=values)
        part.log(f'{work}: slopes {values}')
    part.write()


def slope(points: list[tuple[int, float]]) -> float:
    r"""The slope of the least-squares line through the logarithms of the points."""
    x = [math.log(n) for n, _ in points]
    y = [math.log(value) for _, value in points]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))
    return above / sum((a - mean_x) ** 2 for a in x)


def measure_size(work: str, num_edges: int, device: str, runs: int) -> dict[str, Any]:
    r"""Times and peak memory of one size, for a process of its own; without runs the memory alone,
    of one pass.
    """
    if runs == 0:
        return_freed_memory()
    make = {'propagation': _propagation, 'pid_loss': _pid_loss}[work]
    clock = make_clock(device)
    _run(make, 1_000, device, clock, 1)  # what the first call loads is not counted
    out: dict[str, Any] = {}
    memory = peak_of(lambda: out.update(_run(make, num_edges, device, clock, runs)), device)
    return {**out, 'memory': memory}


def _run(
    make: Callable[..., Any], num_edges: int, device: str, clock: Any, runs: int
) -> dict[str, Any]:
    num_users, num_items, _ = grown(num_edges)
    generator = torch.Generator(device).manual_seed(0)
    # A repeated edge, of which there are few, is merged by the adjacency.
    sizes = (num_users, num_items)
    edges = [torch.randint(n, (num_edges,), generator=generator, device=device) for n in sizes]
    edge_index, built, builds = torch.stack(edges), [], []
    edges.clear()
    for _ in range(max(runs, 1)):
        built.clear()
        builds.append(clock(lambda: built.append(NormalizedAdjacency(edge_index, num_nodes=sizes))))
    edge_index = torch.empty(0)
    forward, leaves, gathers = make(built[0], num_users, num_items, generator, device)

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        forward()

    both()
    times, out = {'build': builds}, {}
    if runs > 0:
        before = os.times()
        times[BOTH] = [clock(both) for _ in range(runs)]
        after = os.times()
        system = after.system - before.system
        if device == 'cpu':
            out['system'] = system / max(system + after.user - before.user, 1e-9)
        rows = gathers()
        times[GATHERS] = [clock(lambda: _gather(rows)) for _ in range(runs)]
    return {**out, 'times': times}


@torch.no_grad()
def _gather(gathers: list[tuple[Tensor, Tensor]]) -> None:
    for table, index in gathers:
        buffer = table.new_empty(CHUNK, table.size(1))
        for part in index.split(CHUNK):
            torch.index_select(table, 0, part, out=buffer[: part.numel()])


# A forward and backward pass, its leaves, and the tables it reads at random with the indices.
Made = tuple[Callable[[], None], list[Tensor], Callable[[], list[tuple[Tensor, Tensor]]]]


def _leaf(num_rows: int, generator: torch.Generator, device: str) -> Tensor:
    x = torch.randn(num_rows, CHANNELS, generator=generator, device=device)
    return x.mul_(CHANNELS**-0.5).requires_grad_()


def _propagation(
    adj: NormalizedAdjacency,
    num_users: int,
    num_items: int,
    generator: torch.Generator,
    device: str,
) -> Made:
    user, item = (_leaf(n, generator, device) for n in (num_users, num_items))

    def forward() -> None:
        out = propagate_mean((user, item), adj, NUM_LAYERS)
        (out[0].sum() + out[1].sum()).backward()

    return forward, [user, item], lambda: [(item, adj.col), (user, adj.t().col)]


def _pid_loss(
    adj: NormalizedAdjacency,
    num_users: int,
    num_items: int,
    generator: torch.Generator,
    device: str,
) -> Made:
    pairs = [
        (_leaf(num_users, generator, device), _leaf(num_items, generator, device))
        for _ in range(MODALITIES + 1)
    ]
    codes = {f'modality_{m}': pair for m, pair in enumerate(pairs[:-1])}
    neg = torch.randint(num_items, (adj.nnz,), generator=generator, device=device)

    def forward() -> None:
        total_of(pid_loss(codes, pairs[-1], adj, neg)).backward()

    def gathers() -> list[tuple[Tensor, Tensor]]:
        out = [(item, index) for _, item in pairs for index in (adj.col, neg)]
        if device != 'cpu':
            return out
        out *= 2
        triplets = SortedTriplets(adj.rowptr, None, adj.col, neg)
        for rows, edges in blocks(triplets, num_items):
            _, index, _ = users_by_item(triplets, rows, edges, num_items)
            out += [(user[rows], index) for user, _ in pairs]
        return out

    return forward, [x for pair in pairs for x in pair], gathers


if __name__ == '__main__':
    part_main('scaling', measure)
