r"""Ranks all items by their number of training edges: what a model must exceed to have learned
anything of its users.

    python -m benchmarks.quality.popularity data/tiktok data/amazon-baby
    python -m benchmarks.quality.results                   puts the tables into the pages
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from benchmarks.markdown import make_table
from benchmarks.ops.topk import Fixed
from benchmarks.part import RESULTS
from mrdib_pyg.datasets import data_hash, load_dataset
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.files import write_atomic
from mrdib_pyg.training._run import provenance

JSON = RESULTS / 'popularity.json'
K = (5, 10, 20)


def by_popularity(data: HeteroData) -> Fixed:
    """A model whose scores are the same for all users. Of equals, the item of lower id is first."""
    item = data['user', 'rates', 'item'].edge_index[1]
    count = torch.bincount(item, minlength=data['item'].num_nodes).double()
    return Fixed(torch.ones(data['user'].num_nodes, 1, dtype=torch.double), count.unsqueeze(1))


def measure(data: HeteroData) -> dict[str, Any]:
    """The metrics on the test edges, without the training items of each user, and the share of the
    test edges whose item is one of the most popular.
    """
    model = by_popularity(data)
    found = evaluate(model, data, 'test', k=K)
    order = model.item[:, 0].argsort(descending=True, stable=True)
    item = data['user', 'test', 'item'].edge_label_index[1]
    share = {str(k): float(torch.isin(item, order[:k]).double().mean()) for k in K}
    return {'data_hash': data_hash(data), 'test': found, 'share_of_test_edges': share}


def table(summary: Mapping[str, Any]) -> str:
    """A row for each data set."""
    names = [f'{name}@{k}' for name in ('recall', 'ndcg') for k in summary['k']]
    rows = []
    for dataset, found in summary['datasets'].items():
        shares = [f'{100 * x:.1f} %' for x in found['share_of_test_edges'].values()]
        rows.append([dataset, *(f'{found["test"][name]:.4f}' for name in names), *shares])
    tops = [f'test edges of the first {k}' for k in summary['k']]
    return make_table(['items by popularity', *names, *tops], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description='How well does popularity alone rank?')
    parser.add_argument('datasets', nargs='+', help='folders of data')
    parser.add_argument('--json', type=Path, default=JSON)
    args = parser.parse_args()
    found = {Path(path).name: measure(load_dataset(path)) for path in args.datasets}
    summary = {'benchmark': 'popularity', 'k': list(K), 'datasets': found, **provenance()}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.json, (json.dumps(summary, indent=1) + '\n').encode())
    print(table(summary))


if __name__ == '__main__':
    main()
