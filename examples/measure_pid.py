"""Measures what a recommender knows by which modality, without and with MRdIB.

python examples/measure_pid.py                    # generated data
python examples/measure_pid.py data/tiktok        # a folder: *.inter and <modality>_feat.npy
"""

import argparse

from torch_geometric import seed_everything

from mrdib_pyg.datasets import load_dataset
from mrdib_pyg.nn.models import MultimodalLightGCN
from mrdib_pyg.pid import measure_pid
from mrdib_pyg.training import fit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('dataset', nargs='?', default='planted')
parser.add_argument('--epochs', type=int, default=30)
parser.add_argument('--num-bootstrap', type=int, default=200)
parser.add_argument('--seed', type=int, default=0)
args = parser.parse_args()

data = load_dataset(args.dataset)


def train(mrdib, weights):
    seed_everything(args.seed)
    model = MultimodalLightGCN(data, fusion='mlp', mrdib=mrdib)
    fit(model, data, epochs=args.epochs, lr=3e-3, weights=weights, seed=args.seed, progress=False)
    return model


plain = train(None, {})
model = train({}, {'bottleneck': 1e-3, 'redundant': 1e-2, 'unique': 0.5})

for name, trained in (('plain', plain), ('MRdIB', model)):
    measured = measure_pid(trained, data, groups=(), num_bootstrap=args.num_bootstrap)
    print(f'--- {name}\n{measured}')

# The same as numbers, each with its interval: what `mrdib measure` writes to pid.json.
part = measured.overall['uniform']
for pair in part.pairs.values():
    atoms = pair.broja
    for modality, x in atoms.unique.items():
        print(f'unique to {modality}: {x.value:.4f} nats, 95 % in [{x.low:.4f}, {x.high:.4f}]')
