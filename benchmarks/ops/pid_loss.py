r"""The PID loss over sampled triplets and over all edges of a graph, against gathers and autograd.

    python -m benchmarks.ops.pid_loss --short

The rival gathers the three rows of every triplet and leaves the rest to autograd, which keeps
:math:`O(|\mathcal{E}| \cdot d)` numbers for the backward pass.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.graphs import BABY, CLOTHING, Graph, grown, random_graph
from benchmarks.run import Part, part_main
from benchmarks.schema import CAPTURED, PER_EDGE
from benchmarks.timer import copy_bandwidth, in_process, peak_of, return_freed_memory, with_captured
from mrdib_pyg.ops import NormalizedAdjacency, pid_loss

BASELINE = 'gathered rows'
OURS = 'pid_loss'
ATOMICS = 'pid_loss, atomics'
Pairs = dict[str, tuple[Tensor, Tensor]]
#: Bytes that the rows of the rival may take.
_MAX_ROWS = {'cpu': 6 * 2**30, 'cuda': 40 * 2**30}


def gathered_pid_loss(
    codes: Mapping[str, tuple[Tensor, Tensor]],
    fused: tuple[Tensor, Tensor],
    src: Tensor,
    pos: Tensor,
    neg: Tensor,
) -> Tensor:
    r"""The sum of the loss terms, as plain indexing writes it."""
    total = fused[0].new_zeros(())
    for user, item in (*codes.values(), fused):
        difference = item.index_select(0, neg) - item.index_select(0, pos)
        total = total + F.softplus((user.index_select(0, src) * difference).sum(dim=-1)).mean()
    return total


def total_of(out: Any) -> Tensor:
    r"""Returns the sum of the loss terms of the operator's output."""
    unique = out.unique
    terms = list(unique.values()) if isinstance(unique, Mapping) else [unique.sum()]
    return torch.stack([*terms, out.synergistic]).sum()


def sizes(part: Part) -> dict[str, tuple[int, int, int]]:
    if part.smallest:
        return {'tiny': (40, 30, 200)}
    out = {'Baby-sized': BABY}
    if part.device == 'cuda':
        return {**out, '1e6': grown(10**6), '1e7': grown(10**7)}
    return out if part.short else {**out, 'Clothing-sized': CLOTHING, '1e6': grown(10**6)}


def cases(part: Part, skew: str) -> list[tuple[int, int, str]]:
    r"""Widths, numbers of modalities, and types."""
    if part.smallest:
        return [(8, 2, 'float32')]
    if part.short or skew == 'uniform':
        return [(64, 2, 'float32')]
    return [(64, 2, 'float32'), (64, 3, 'float32'), (128, 2, 'float32'), (64, 2, 'bfloat16')]


def measure(part: Part) -> None:
    bandwidth = copy_bandwidth(part.device, part.pick(2**28, 2**27, 2**20))
    for name, size in sizes(part).items():
        skews = ('power law', 'uniform') if name == 'Baby-sized' and not part.short else ()
        for skew in skews or ('power law',):
            graph = random_graph(*size, skew, name=name)
            for channels, modalities, dtype in cases(part, skew):
                case: dict[str, Any] = {**graph.case, 'channels': channels}
                case |= {'modalities': modalities, 'dtype': dtype}
                run = functools.partial(_measure, part, graph, case, bandwidth)
                part.attempt(case, run)
        if not part.smallest and (not part.quick or name == 'Baby-sized'):
            case = {**graph.case, 'channels': 64, 'modalities': 2, 'task': 'memory of all edges'}
            part.attempt(case, functools.partial(_memory, part, case, size))


def make_inputs(
    graph: Graph, channels: int, modalities: int, device: str, dtype: torch.dtype = torch.float32
) -> tuple[Pairs, tuple[Tensor, Tensor], Tensor]:
    r"""Returns codes, fusion and one negative for each edge of the graph."""
    generator = torch.Generator().manual_seed(0)

    def pair() -> tuple[Tensor, Tensor]:
        user = torch.randn(graph.num_users, channels, generator=generator)
        item = torch.randn(graph.num_items, channels, generator=generator)
        scale = channels**-0.5
        return (
            (scale * user).to(device, dtype).requires_grad_(),
            (scale * item).to(device, dtype).requires_grad_(),
        )

    codes = {f'modality_{m}': pair() for m in range(modalities)}
    neg = torch.randint(graph.num_items, (graph.edge_index.size(1),), generator=generator)
    return codes, pair(), neg.to(device)


def _measure(
    part: Part,
    graph: Graph,
    case: dict[str, Any],
    bandwidth: float,
) -> None:
    channels, modalities = case['channels'], case['modalities']
    dtype = getattr(torch, case['dtype'])
    codes, fused, neg = make_inputs(graph, channels, modalities, part.device, dtype)
    src, pos = edge_index = graph.edge_index.to(part.device)
    leaves = [x for pair in (*codes.values(), fused) for x in pair]
    order = torch.randperm(src.numel())[: part.pick(2048, 2048, 64)].to(part.device)
    tasks = {
        'triplets of a batch': (src[order], pos[order], neg[order]),
        'all edges': (src, pos, neg),
    }
    widths = [channels] * (modalities + 1)
    adj = NormalizedAdjacency(
        edge_index, num_nodes=(graph.num_users, graph.num_items), normalization=None
    )
    if part.device == 'cuda' and cases(part, '')[0] != (channels, modalities, case['dtype']):
        del tasks['triplets of a batch']  # where time is short
    for task, triplets in tasks.items():
        count = triplets[0].numel()
        rivals: dict[str, Callable[[], Tensor]] = {}
        extra: dict[str, Any] = {}
        # Per score: a row of users, two of items, their difference, the product.
        needed = 5 * count * sum(widths) * 4
        if needed > _MAX_ROWS.get(part.device, 0):
            why = f'left out: would hold {needed / 2**30:.0f} GiB of rows'
            part.miss({**case, 'task': task}, BASELINE, why)
        else:
            rivals[BASELINE] = functools.partial(gathered_pid_loss, codes, fused, *triplets)
        arguments = triplets if task != 'all edges' else (adj, neg)
        rivals[OURS] = functools.partial(_total, pid_loss, codes, fused, arguments)
        if part.device == 'cuda':  # on CPU there is one way to add up gradients
            unordered = functools.partial(pid_loss, deterministic=False)
            rivals[ATOMICS] = functools.partial(_total, unordered, codes, fused, arguments)
        if BASELINE in rivals:
            error = float((rivals[OURS]() - rivals[BASELINE]()).detach().float().abs())
            extra = {OURS: {'values': {'error': error}}}
        for step, backward in (('forward', False), ('forward+backward', True)):
            entry = {**case, 'task': f'{task}, {step}'}
            calls = {
                name: functools.partial(_run, fn, leaves if backward else [])
                for name, fn in rivals.items()
            }
            roles = {OURS: 'ours', ATOMICS: 'ours', BASELINE: 'baseline'}
            if part.device == 'cuda':
                roles |= {f'{name}{CAPTURED}': 'ours' for name in (OURS, ATOMICS)}
                small = (BASELINE,) if needed <= _MAX_ROWS['cuda'] // 4 else ()
                calls = with_captured(calls, OURS, ATOMICS, *small)
            part.time(entry, calls, roles, extra=extra, min_runs=5, min_seconds=0.2)
            size = graph.num_users, graph.num_items, count, widths, dtype.itemsize, backward
            if task == 'all edges':
                part.add_rooflines(entry, pid_loss_bytes(*size), bandwidth)


def pid_loss_bytes(
    num_users: int,
    num_items: int,
    num_triplets: int,
    widths: list[int],
    itemsize: int,
    backward: bool,
) -> tuple[int, int]:
    r"""Requested and compulsory bytes of the PID loss, whose :obj:`widths` are those of the codes
    and of the fusion: the forward pass reads three rows a triplet and score and keeps a scalar;
    the backward pass sums, for the user the rows of both items, for each item that of the user, and
    writes each row of a gradient once.
    """
    index = 3 * num_triplets * 8  # bytes of an id
    scalars = num_triplets * len(widths) * itemsize
    rows = 3 * num_triplets * sum(widths) * itemsize
    tables = (num_users + num_items) * sum(widths) * itemsize
    requested, compulsory = index + rows + scalars, index + tables + scalars
    if backward:
        requested += index + scalars + 4 * rows // 3 + tables
        compulsory += index + scalars + tables + tables
    return requested, compulsory


def _total(fn: Callable[..., Any], codes: Pairs, fused: Any, arguments: Any) -> Tensor:
    return total_of(fn(codes, fused, *arguments))


def _run(fn: Callable[[], Tensor], leaves: list[Tensor]) -> None:
    if len(leaves) == 0:
        with torch.no_grad():
            fn()
        return
    for leaf in leaves:
        leaf.grad = None
    fn().backward()


def _memory(part: Part, case: dict[str, Any], size: tuple[int, int, int]) -> None:
    # The same nodes with twice the edges: tables and buffers of a fixed size cancel.
    sizes = (size, (*size[:2], 2 * size[2]))
    for method, role in ((OURS, 'ours'), (BASELINE, 'baseline')):
        if part.has(case, method):
            continue
        found = []
        for each in sizes:
            if part.device == 'cuda':
                found.append(measure_memory(method, each, 'cuda'))
            else:
                target = 'benchmarks.ops.pid_loss:measure_memory'
                found.append(in_process(target, method, each, 'cpu'))
        small, large = (memory['peak_bytes'] - memory['before_bytes'] for memory in found)
        values = {PER_EDGE: (large - small) / 4 / size[2]}
        part.add(case, method, role, memory=found[0], values=values)
    part.write()


def measure_memory(method: str, size: tuple[int, int, int], device: str) -> dict[str, Any]:
    r"""The peak memory of one forward and backward pass over all edges, the gradients that any
    method must return among it.
    """
    if device == 'cpu':
        return_freed_memory()
    graph = random_graph(*size, 'power law')
    codes, fused, neg = make_inputs(graph, 64, 2, device)
    edge_index = graph.edge_index.to(device)
    adj = NormalizedAdjacency(
        edge_index, num_nodes=(graph.num_users, graph.num_items), normalization=None
    )
    leaves = [x for pair in (*codes.values(), fused) for x in pair]
    if method == OURS:
        fn = functools.partial(_total, pid_loss, codes, fused, (adj, neg))
    else:
        fn = functools.partial(gathered_pid_loss, codes, fused, *edge_index, neg)
    for leaf in leaves:
        leaf.grad = None
    return peak_of(lambda: fn().backward(), device)


if __name__ == '__main__':
    part_main('pid_loss', measure)
