"""A table of your own: prepares a folder, trains, and recommends by your own ids.

python examples/own_table.py                                    # a small table is made up
python examples/own_table.py orders.csv --user customer --item sku --features image=images.npz
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch_geometric import seed_everything

from mrdib_pyg.datasets import InteractionTable
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn import MRdIB
from mrdib_pyg.nn.models import MultimodalLightGCN
from mrdib_pyg.training import fit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('table', nargs='?', help='.csv, .tsv or .parquet, a row per interaction')
parser.add_argument('--user', default='customer', help='the column of user ids')
parser.add_argument('--item', default='sku', help='the column of item ids')
parser.add_argument('--features', nargs='*', default=[], metavar='NAME=FILE')
parser.add_argument('--root', help='the folder to write (a temporary one)')
parser.add_argument('--epochs', type=int, default=20)
parser.add_argument('--quiet', action='store_true', help='no progress bar')
args = parser.parse_args()


def make_up(num_customers=150, num_items=80):
    """Customers buy what is of their taste; photos and descriptions tell what an item is like."""
    rng = np.random.default_rng(0)
    taste, kind = rng.integers(0, 4, num_customers), rng.integers(0, 4, num_items)
    skus = [f'SKU-{number:04d}' for number in range(num_items)]
    rows = []
    for customer in range(num_customers):
        weight = np.where(kind == taste[customer], 8.0, 1.0)
        for item in rng.choice(num_items, 8, replace=False, p=weight / weight.sum()):
            rows.append((f'customer{customer}@shop', skus[item], rng.integers(1, 6)))
    table = pd.DataFrame(rows, columns=['customer', 'sku', 'stars'])
    photo = rng.normal(size=(num_items, 16)) + 2 * np.eye(4, 16)[kind]
    words = np.array(['green garden chair', 'red racing car', 'soft toy bear', 'steel kitchen pan'])
    table['title'] = words[kind[[skus.index(sku) for sku in table['sku']]]]
    # A photo is missing here and there.
    return table, {sku: photo[n] for n, sku in enumerate(skus) if n % 10 > 0}


settings = {'user': args.user, 'item': args.item, 'k_core': 2}
if args.table is None:
    table, photos = make_up()
    settings.update(
        rating='stars', min_rating=2, features={'photo': photos}, text='title',
        text_encoder='hashing',
    )  # fmt: skip
else:
    table = args.table
    settings['features'] = dict(pair.split('=', 1) for pair in args.features)

with tempfile.TemporaryDirectory() as temporary:
    dataset = InteractionTable(args.root or Path(temporary) / 'shop', table, **settings)
print(dataset.report)
data = dataset[0]
modalities = [name[2:] for name in data['item'] if name.startswith('x_')]

seed_everything(0)
mrdib = MRdIB({name: 32 for name in modalities}) if modalities else None
model = MultimodalLightGCN(data, channels=32, mrdib=mrdib)
weights = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2} if modalities else {}
fit(model, data, epochs=args.epochs, weights=weights, seed=0, progress=not args.quiet)
print('ndcg@10:', round(evaluate(model, data, 'test', k=(10,))['ndcg@10'], 4))

score, item = model.recommend(torch.tensor([0]), k=3)
print(f'for {dataset.user_ids[0]}:', [dataset.item_ids[i] for i in item[0].tolist()])
