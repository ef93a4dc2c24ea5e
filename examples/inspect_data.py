"""What each modality of a data set says of the interactions, before any training.

python examples/inspect_data.py                      # generated data, whose answer is known
python examples/inspect_data.py --data data/baby     # a folder of your own
"""

import argparse

from mrdib_pyg.datasets import Planted, load_dataset
from mrdib_pyg.evidence import evidence, inspect_data
from mrdib_pyg.evidence.heads import interaction_targets

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--data', help='the name of a data set, or a folder')
parser.add_argument('--case', default='v+r', help='what is planted where no data are given')
parser.add_argument('--num_users', type=int, default=600)
parser.add_argument('--num_items', type=int, default=500)
parser.add_argument('--figure', help='a .png, .svg or .pdf to draw')
args = parser.parse_args()

if args.data:
    data = load_dataset(args.data)
else:
    # Four bits that only the image shows, and four, half as important, that both show.
    data = Planted(num_users=args.num_users, num_items=args.num_items, noise=0.5, case=args.case)[0]

found = inspect_data(data)
print(found)
if args.figure:
    found.figure(args.figure)

# The same by hand: what one more modality adds to another is a difference of two evidences.
names = found.modalities
x = {m: data['item'][f'x_{m}'] for m in names}
edge_index = data['user', 'rates', 'item'].edge_index
targets = interaction_targets(edge_index, data['user'].num_nodes, data['item'].num_nodes)
every, last = evidence(x, targets), names[-1]
others = evidence({m: x[m] for m in names[:-1]}, targets)
print(f'{last} adds {every.nats - others.nats:.5f} nats to {", ".join(names[:-1])}')
print('amplitudes:', ', '.join(f'{m} {a:.3g}' for m, a in every.amplitudes.items()))
