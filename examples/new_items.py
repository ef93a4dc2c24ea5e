"""Items that nobody has interacted with, ranked by evidence. Data are generated.

python examples/new_items.py --epochs 30
"""

import argparse

import torch
from torch_geometric import seed_everything

from mrdib_pyg.datasets import Planted
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.evidence import EvidenceHead
from mrdib_pyg.nn.models import Embeddings, LightGCN, MultimodalLightGCN
from mrdib_pyg.training import fit
from mrdib_pyg.transforms import ColdItemSplit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--epochs', type=int, default=20)
parser.add_argument('--num_users', type=int, default=1500)
parser.add_argument('--case', default='v', help='what is planted; v: the text says nothing')
args = parser.parse_args()

# A fifth of the items leaves with all edges and features.
data = ColdItemSplit(0.2)(Planted(num_users=args.num_users, noise=1.0, case=args.case)[0])
features = {m: data['cold_item'][f'x_{m}'] for m in ('image', 'text')}
print(f'{data["item"].num_nodes} known and {data["cold_item"].num_nodes} new items')


def test(name: str, ranking) -> None:
    # Anything with `embed()` can be ranked: a model, or the scores of new items.
    metrics = evaluate(ranking, data, 'test', k=20, node_type='cold_item')
    print(f'{name}: recall@20 {metrics["recall@20"]:.4f}, ndcg@20 {metrics["ndcg@20"]:.4f}')


# A multimodal model has a way of its own for new items, ...
seed_everything(0)
model = MultimodalLightGCN(data)
fit(model, data, epochs=args.epochs, lr=3e-3, progress=False)
test('model', Embeddings(model.embed().user, model.encode_items(features)))

# ... but a head by evidence knows which modality to trust, without anything to tune.
head = EvidenceHead(model, data)
test('evidence', head(features))
for name, found in (('embeddings', head.embeddings), ('interactions', head.interactions)):
    print(f'  {name}:', ', '.join(f'{m} {a:.3g}' for m, a in found.amplitudes.items()))

# It works with a model that reads no features at all, ...
plain = LightGCN(data)
fit(plain, data, epochs=args.epochs, lr=3e-3, progress=False)
test('evidence on LightGCN', EvidenceHead(plain, data)(features))

# ... and without any model.
test('interactions alone', EvidenceHead(None, data, 'interactions')(features))

# The best new items of some users, for whom one of them has no text.
present = {'text': torch.arange(data['cold_item'].num_nodes) > 0}
score, item = head(features, present).recommend(torch.tensor([0, 1, 2]), k=3)
for user, row in enumerate(item.tolist()):
    print(f'user {user}:', ', '.join(f'new item {i}' for i in row))
