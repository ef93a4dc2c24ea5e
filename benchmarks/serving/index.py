r"""Searches of single queries: the exact index, cells, and PyG's own faiss indices; their recall
against the exact one, and the latency of one query after the other.

    python -m benchmarks.serving.index --short

Items lie in groups, as those of a catalogue do, or nowhere in particular, which is the hardest case
of any approximate index. PyG's classes are searched as they are.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.run import Part, part_main
from benchmarks.timer import describe
from mrdib_pyg.serving import ItemIndex

CHANNELS, K, NUM_QUERIES = 64, 20, 200

Search = Callable[[Tensor], tuple[Tensor, Tensor]]


def measure(part: Part) -> None:
    if part.device != 'cpu':
        part.miss({'task': 'search'}, 'all', 'left out: the service runs on CPU')
        return
    part.settings.update(channels=CHANNELS, k=K, timing='wall milliseconds of one query at a time')
    sizes = part.pick([10_000, 100_000, 1_000_000], [10_000], [2_000])
    for kind in ('groups', 'no structure'):
        for num_items in sizes:
            case = {'items': num_items, 'data': kind, 'task': 'search'}
            part.attempt(case, functools.partial(_measure, part, case, num_items, kind))


def make_items(num_items: int, kind: str) -> tuple[Tensor, Tensor]:
    r"""Items whose norms vary as popularities do, and queries of the same distribution."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    num_groups = 200
    centers = draw(num_groups, CHANNELS)
    out = []
    for n in (num_items, NUM_QUERIES):
        x = draw(n, CHANNELS)
        if kind == 'groups':
            x = centers[torch.randint(num_groups, (n,), generator=generator)] + 0.7 * x
        out.append(x * (0.3 * draw(n, 1)).exp())
    return out[0], out[1]


def _measure(part: Part, case: dict[str, Any], num_items: int, kind: str) -> None:
    item, query = make_items(num_items, kind)
    if part.smallest:
        query = query[:5]
    exact = _run(part, case, 'exact', 'baseline', lambda: ItemIndex(item), query)
    cells: list[ItemIndex] = []  # built once, searched with ever more visits

    def visit(share: int) -> ItemIndex:
        if len(cells) == 0:
            cells.append(ItemIndex(item, approximate=True))
        cells[0].num_cells_to_visit = -(-cells[0].num_cells // share)
        return cells[0]

    for share in (32, 8) if part.short else (64, 32, 16, 8, 4, 2):
        name = f'cells, 1/{share} visited'
        _run(part, case, name, 'ours', functools.partial(visit, share), query, exact)
    for name, make in (('PyG MIPSKNNIndex', _pyg_flat), ('PyG ApproxMIPSKNNIndex', _pyg_approx)):
        if name == 'PyG ApproxMIPSKNNIndex' and part.short:
            continue  # its training takes seconds
        if name == 'PyG ApproxMIPSKNNIndex' and num_items > 100_000:
            part.miss(case, name, 'left out: its training takes minutes at this size')
            continue
        _run(part, case, name, 'rival', functools.partial(make, item), query, exact)
    part.write()


def _pyg_flat(item: Tensor) -> Any:
    from torch_geometric.nn.pool import MIPSKNNIndex

    return MIPSKNNIndex(item)


def _pyg_approx(item: Tensor) -> Any:
    from torch_geometric.nn.pool import ApproxMIPSKNNIndex

    cells = max(int(item.size(0) ** 0.5), 1)
    return ApproxMIPSKNNIndex(cells, -(-cells // 8), 32, item)


def _run(
    part: Part,
    case: dict[str, Any],
    method: str,
    role: str,
    make: Callable[[], Any],
    query: Tensor,
    exact: Tensor | None = None,
) -> Tensor | None:
    if part.out_of_time(case, method):
        return None
    try:
        import faiss

        faiss.omp_set_num_threads(1)
        begin = time.perf_counter()
        index = make()
        build = time.perf_counter() - begin
        found, seconds = [], []
        index.search(query[:1], K)
        for row in query.split(1):
            begin = time.perf_counter()
            out = index.search(row, K)
            seconds.append(time.perf_counter() - begin)
            found.append(out[1])
    except Exception as e:
        part.miss(case, method, describe(e))
        return None
    items = torch.cat(found)
    p50, p90, p99 = torch.tensor(seconds).quantile(torch.tensor([0.5, 0.9, 0.99])).tolist()
    values = {'p50_ms': 1e3 * p50, 'p90_ms': 1e3 * p90, 'p99_ms': 1e3 * p99}
    if build > 0.05:  # not where it was built before
        values['build_s'] = build
    if exact is not None:
        hits = (items.unsqueeze(2) == exact.unsqueeze(1)).any(dim=2)
        values[f'recall_at_{K}'] = float(hits.double().mean())
    part.add(case, method, role, values=values)
    part.log(f'{case["items"]} {case["data"]} {method}: {values}')
    part.write()
    return items


if __name__ == '__main__':
    part_main('index', measure)
