"""Trains the reference model without and with MRdIB, evaluates both, and recommends.

python examples/quickstart.py                    # generated data
python examples/quickstart.py data/tiktok        # a folder: *.inter and <modality>_feat.npy
"""

import argparse

import torch
from torch_geometric import seed_everything

from mrdib_pyg.datasets import load_dataset
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn import MRdIB
from mrdib_pyg.nn.models import MultimodalLightGCN
from mrdib_pyg.training import fit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('dataset', nargs='?', default='planted')
parser.add_argument('--epochs', type=int, default=30)
parser.add_argument('--seed', type=int, default=0)
parser.add_argument('--quiet', action='store_true', help='no progress bar')
args = parser.parse_args()

device = 'cuda' if torch.cuda.is_available() else 'cpu'
data = load_dataset(args.dataset)
modalities = [name[2:] for name in data['item'] if name.startswith('x_')]


def train(mrdib, weights):
    seed_everything(args.seed)
    # The layer is the only difference between without and with.
    model = MultimodalLightGCN(data, channels=64, fusion='mlp', num_layers=1, mrdib=mrdib)
    model = model.to(device)
    result = fit(
        model, data, epochs=args.epochs, lr=3e-3, weights=weights, seed=args.seed,
        progress=not args.quiet,
    )  # fmt: skip
    terms = result.history[result.best_epoch - 1]['train']
    print(f'best epoch {result.best_epoch}:', {name: round(x, 4) for name, x in terms.items()})
    return model


plain = train(None, {})
model = train(
    MRdIB({name: 64 for name in modalities}, redundancy='mine'),
    {'bottleneck': 1e-3, 'redundant': 1e-2, 'unique': 0.5},
)

for name, trained in (('plain', plain), ('MRdIB', model)):
    metrics = evaluate(trained, data, 'test', k=(10, 20))
    print(f'{name}: recall@20 {metrics["recall@20"]:.4f}, ndcg@10 {metrics["ndcg@10"]:.4f}')

score, item = model.recommend(torch.tensor([0]), k=5)
print('best items of user 0:', item[0].tolist())
