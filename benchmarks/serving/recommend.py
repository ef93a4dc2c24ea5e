r"""The best items of ever more users, written to a file: time, and peak memory, which is not to
grow with the users, against the dense matrix of all scores.

    python -m benchmarks.serving.recommend --short

Every row has a process of its own. What is timed and measured begins with the propagation of an
untrained LightGCN, and ends with a file that has an id of each user and item.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from benchmarks.graphs import random_graph
from benchmarks.run import Part, part_main
from benchmarks.targets import extra_bytes
from benchmarks.timer import in_process, measure_once, return_freed_memory
from mrdib_pyg.datasets import IdMap
from mrdib_pyg.nn.models import LightGCN
from mrdib_pyg.serving import recommend, save_recommendations
from mrdib_pyg.serving.recommendations import Recommendations

K, CHANNELS = 20, 64
OURS, RIVAL = 'recommend', 'dense scores of all users'
#: More scores than this do not fit into memory at once.
MAX_DENSE = 10**9

Sizes = tuple[int, int, int]  # users, items and edges of the graph


def measure(part: Part) -> None:
    r"""Measures the part."""
    if part.device != 'cpu':
        part.miss({'task': 'recommend'}, 'all', 'left out: it is timed on CPU')
        return
    part.settings.update(k=K, channels=CHANNELS)
    sizes = part.pick((200_000, 20_000, 600_000), (20_000, 5_000, 100_000), (60, 40, 300))
    formats = part.pick(('csv', 'jsonl', 'parquet'), ('csv',), ('csv', 'jsonl', 'parquet'))
    for format in formats:
        for share in part.pick((100, 10, 1), (10, 1), (10, 1)):
            num_users = max(sizes[0] // share, 1)
            case = {'users': num_users, 'items': sizes[1], 'task': format}
            part.attempt(case, functools.partial(_measure, part, case, sizes))


def _measure(part: Part, case: dict[str, Any], sizes: Sizes) -> None:
    for method, role in ((OURS, 'ours'), (RIVAL, 'baseline')):
        if part.out_of_time(case, method):
            continue
        if method == RIVAL and case['task'] != 'csv':
            continue  # what the formats share is compared once
        if method == RIVAL and case['users'] * case['items'] > MAX_DENSE:
            gib = 4 * case['users'] * case['items'] / 2**30
            part.miss(case, method, f'left out: the scores alone are {gib:.0f} GiB')
            continue
        try:
            arguments = method, case['task'], case['users'], sizes
            if part.smallest:
                out = run(*arguments)
            else:
                out = in_process('benchmarks.serving.recommend:run', *arguments)
        except RuntimeError as e:
            part.miss(case, method, str(e)[:300])
            continue
        part.add(case, method, role, **out)
        mib = extra_bytes(out) / 2**20
        part.log(f'{case} {method}: {out["time"].median:.2f} s, {mib:.0f} MiB')
    part.write()


def run(method: str, format: str, num_users: int, sizes: Sizes) -> dict[str, Any]:
    r"""One file and the memory it took, for a process of its own."""
    return_freed_memory()
    graph = random_graph(*sizes, 'power law')
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = graph.num_users, graph.num_items
    data['user', 'rates', 'item'].edge_index = graph.edge_index
    torch.manual_seed(0)
    model = LightGCN(data, CHANNELS).eval()
    ids = [IdMap([f'{kind}{i:07d}' for i in range(n)]) for kind, n in zip('UI', sizes)]

    def work(folder: str, users: int) -> None:
        user = torch.arange(users)
        blocks = [_dense(model, user)] if method == RIVAL else recommend(model, user, K)
        save_recommendations(blocks, Path(folder) / f'recs.{format}', *ids)

    with tempfile.TemporaryDirectory() as folder:
        work(folder, 1)  # what the first call loads is not counted
        return measure_once(lambda: work(folder, num_users))


@torch.no_grad()
def _dense(model: LightGCN, user: torch.Tensor) -> Recommendations:
    embeddings = model.embed()
    scores = embeddings.user[user] @ embeddings.item.t()
    row, column = model.seen_pairs(user)
    scores[row, column] = float('-inf')
    score, item = scores.topk(K)
    return Recommendations(user, item, score)


if __name__ == '__main__':
    part_main('recommend', measure)
