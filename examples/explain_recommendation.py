"""Recommends to a user and says of each item what speaks for it.

python examples/explain_recommendation.py                       # generated data
python examples/explain_recommendation.py data/tiktok --user 3
"""

import argparse

import torch
from torch_geometric import seed_everything

from mrdib_pyg.datasets import load_dataset
from mrdib_pyg.nn.models import MultimodalLightGCN
from mrdib_pyg.pid import PIDExplainer
from mrdib_pyg.training import fit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('dataset', nargs='?', default='planted')
parser.add_argument('--user', type=int, default=0)
parser.add_argument('--k', type=int, default=3)
parser.add_argument('--epochs', type=int, default=30)
parser.add_argument('--seed', type=int, default=0)
args = parser.parse_args()

data = load_dataset(args.dataset)
seed_everything(args.seed)
model = MultimodalLightGCN(data, fusion='mlp', mrdib={})
weights = {'bottleneck': 1e-3, 'redundant': 1e-2, 'unique': 0.5}
fit(model, data, epochs=args.epochs, lr=3e-3, weights=weights, seed=args.seed, progress=False)

score, item = model.recommend(torch.tensor([args.user]), k=args.k)
explainer = PIDExplainer(model, data)  # reads the validation edges once
for explanation in explainer(torch.full((args.k,), args.user), item[0]):
    print(explanation, end='\n\n')
    # The parts are the whole: nothing is left unexplained.
    assert abs(sum(explanation.parts.values()) - explanation.total) < 1e-9
