"""Items and users that are unseen in training, without training again. Data are generated.

python examples/cold_start.py --epochs 30
"""

import argparse

import torch
from torch_geometric import seed_everything

from mrdib_pyg.datasets import Planted
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import Embeddings, MultimodalLightGCN
from mrdib_pyg.ops import masked_topk
from mrdib_pyg.training import fit
from mrdib_pyg.transforms import ColdItemSplit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--epochs', type=int, default=20)
parser.add_argument('--num_users', type=int, default=1500)
parser.add_argument('--ratio', type=float, default=0.2, help='share of items that are new')
parser.add_argument('--modality_dropout', type=float, default=0.3)
args = parser.parse_args()

device = 'cuda' if torch.cuda.is_available() else 'cpu'
# A fifth of the items leaves with all edges and features: no part of the model knows of them.
data = ColdItemSplit(args.ratio)(Planted(num_users=args.num_users, noise=1.0)[0])
num_users, num_items = data['user'].num_nodes, data['item'].num_nodes
cold = data['cold_item'].to(device)
print(f'{num_users} users, {num_items} known and {cold.num_nodes} new items')

seed_everything(0)
model = MultimodalLightGCN(data, channels=64, mrdib={}).to(device)
weights = {'bottleneck': 1e-4, 'redundant': 1e-4, 'unique': 5e-3}
fit(
    model, data, epochs=args.epochs, lr=3e-3, weights=weights,
    modality_dropout=args.modality_dropout, progress=False,
)  # fmt: skip
user, item = model.embed()[:2]


def test(name: str, item: torch.Tensor) -> None:
    # Each user's new items among all new items.
    metrics = evaluate(Embeddings(user, item), data, 'test', k=20, node_type='cold_item')
    print(f'{name}: recall@20 {metrics["recall@20"]:.4f}, ndcg@20 {metrics["ndcg@20"]:.4f}')


# New items, from their features alone, ...
features = {'image': cold.x_image, 'text': cold.x_text}
test('new items', model.encode_items(features))

# ... from one modality, ...
test('without image', model.encode_items({'text': cold.x_text}))

# ... and with an image for every other item only.
present = {'image': torch.arange(cold.num_nodes, device=device) % 2 == 0}
test('half of the images', model.encode_items(features, present))
test('shuffled features', model.encode_items({m: x.flip(0) for m, x in features.items()}))

# New users, from the items they have interacted with: here those of three known users. Neither
# their embeddings nor anything else that the model has learned of them is read.
known = torch.tensor([3, 5, 8], device=device)
edge_index = data['user', 'rates', 'item'].edge_index.to(device)
row = torch.full((num_users,), -1, device=device)
row[known] = torch.arange(3, device=device)
edges = torch.stack([row[edge_index[0]], edge_index[1]])
edges = edges[:, edges[0] >= 0]
new_users = model.encode_users(edges, num_users=3)

# Ranked as usual: without the items they have interacted with, and with the new ones among them.
everything = torch.cat([item, model.encode_items(features)])
score, index = masked_topk(new_users, everything, 5, edges)
for u, ids in enumerate(index.tolist()):
    names = [f'item {i}' if i < num_items else f'new item {i - num_items}' for i in ids]
    print(f'new user {u}:', ', '.join(names))
