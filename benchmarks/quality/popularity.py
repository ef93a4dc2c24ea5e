r"""Ranks all items by their number of training edges: what a model must exceed to have learned
anything of its users.

    python -m benchmarks.quality.popularity data/tiktok data/amazon-baby
    python -m benchmarks.quality.results                   puts the tables into the pages
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from benchmarks.ops.topk import Fixed
from benchmarks.quality import results
from benchmarks.quality.cells import save
from benchmarks.schema import RESULTS
from mrdib_pyg.datasets import data_hash, load_dataset
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.training._run import provenance

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


def main() -> None:
    parser = argparse.ArgumentParser(description='How well does popularity alone rank?')
    parser.add_argument('datasets', nargs='+', help='folders of data')
    parser.add_argument('--json', type=Path, default=RESULTS / 'popularity.json')
    args = parser.parse_args()
    found = {Path(path).name: measure(load_dataset(path)) for path in args.datasets}
    summary = {'benchmark': 'popularity', 'k': list(K), 'datasets': found, **provenance()}
    save(args.json, summary)
    print(results.popularity(summary))


if __name__ == '__main__':
    main()
