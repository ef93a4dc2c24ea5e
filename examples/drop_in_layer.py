"""MRdIB as an explicit layer of PyG's own LightGCN.

LightGCN embeds users and items from the interactions alone. Here the features of the items are
projected beside it, pass MRdIB, and are added to the items. The data are generated.
"""

import argparse

import torch
from torch import Tensor, nn
from torch_geometric.nn.models import LightGCN
from torch_geometric.utils import to_undirected

from mrdib_pyg.datasets import Planted
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn import MRdIB
from mrdib_pyg.nn.models import Embeddings
from mrdib_pyg.ops import sample_negatives
from mrdib_pyg.ops.negative_sampling import encode_edges
from mrdib_pyg.pid import measure_pid

parser = argparse.ArgumentParser()
parser.add_argument('--epochs', type=int, default=20)
parser.add_argument('--batch_size', type=int, default=2048)
parser.add_argument('--channels', type=int, default=64)
parser.add_argument('--lr', type=float, default=0.005)
parser.add_argument('--bottleneck', type=float, default=1e-3)
parser.add_argument('--redundant', type=float, default=5e-3)
parser.add_argument('--unique', type=float, default=0.05)
parser.add_argument('--num_users', type=int, default=1500)
args = parser.parse_args()

torch.manual_seed(0)
device = 'cuda' if torch.cuda.is_available() else 'cpu'
data = Planted(num_users=args.num_users, noise=1.0)[0].to(device)
num_users, num_items = data['user'].num_nodes, data['item'].num_nodes
features = {name: data['item'][f'x_{name}'] for name in ('image', 'text')}
features = {name: x / x.std() for name, x in features.items()}
user, item = data['user', 'rates', 'item'].edge_index
edge_index = to_undirected(torch.stack([user, item + num_users]))  # users first, then items


class MultimodalLightGCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lightgcn = LightGCN(num_users + num_items, args.channels, num_layers=2)
        self.proj = nn.ModuleDict(
            {name: nn.Linear(x.size(1), args.channels) for name, x in features.items()}
        )
        # The layer. Only items have a representation per modality, so users have no codes.
        self.mrdib = MRdIB({name: args.channels for name in features}, user_codes=False)

    def forward(self):
        out = self.lightgcn.get_embedding(edge_index)
        user, item = out[:num_users], out[num_users:]
        x = {name: (None, self.proj[name](features[name])) for name in features}
        codes = self.mrdib(x)
        item = item + sum(code.z for _, code in codes.values())
        return user, item, codes

    def embed(self) -> Embeddings:  # what `evaluate` asks for
        user, item, _ = self()
        return Embeddings(user, item)


model = MultimodalLightGCN().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
train_codes = encode_edges(torch.stack([user, item]), num_items)


def train() -> dict[str, float]:
    model.train()
    total: dict[str, Tensor | float] = {}
    for index in torch.randperm(user.numel(), device=device).split(args.batch_size):
        src_index, dst_pos_index = user[index], item[index]
        dst_neg_index = sample_negatives(src_index, train_codes, num_items)

        optimizer.zero_grad()
        x_user, x_item, codes = model()
        pos = (x_user[src_index] * x_item[dst_pos_index]).sum(dim=-1)
        neg = (x_user[src_index] * x_item[dst_neg_index]).sum(dim=-1)
        task = model.lightgcn.recommendation_loss(pos, neg)
        terms = model.mrdib.loss(
            codes, src_index, dst_pos_index, dst_neg_index, user_embedding=x_user
        )
        loss = task + terms.total(
            bottleneck=args.bottleneck, redundant=args.redundant, unique=args.unique
        )
        loss.backward()
        optimizer.step()

        for name, term in {'task': task, **terms._asdict()}.items():
            if term is not None:
                total[name] = total.get(name, 0.0) + term.detach() * index.numel() / user.numel()
    return {name: float(value) for name, value in total.items()}


def test(split: str) -> dict[str, float]:
    return evaluate(model, data, split, k=10)


for epoch in range(1, args.epochs + 1):
    terms = ', '.join(f'{name}: {value:.4f}' for name, value in train().items())
    print(f'Epoch: {epoch:02d}, {terms}, val NDCG@10: {test("val")["ndcg@10"]:.4f}')
print(f'Test NDCG@10: {test("test")["ndcg@10"]:.4f}')

# What the model knows by which modality: one score for each, for both together, and for the IDs.
model.eval()
with torch.no_grad():
    x_user, x_item, codes = model()
image, text = (item.z for _, item in codes.values())
scores = {'image': (x_user, image), 'text': (x_user, text), 'content': (x_user, image + text)}
scores |= {'id': (x_user, x_item - image - text), 'score': (x_user, x_item)}
print(measure_pid(scores, data, negatives='uniform', groups=(), num_bootstrap=50))
