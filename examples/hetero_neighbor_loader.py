"""MRdIB in mini-batches of a graph that is too large for a step: PyG's `LinkNeighborLoader`.

Needs torch-sparse or pyg-lib, which sample the neighbors. Data are generated.

python examples/hetero_neighbor_loader.py --num_neighbors 10 10
"""

import argparse

import torch
import torch.nn.functional as F
import torch_geometric.typing
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.loader import LinkNeighborLoader
from torch_geometric.sampler import NegativeSampling
from torch_geometric.transforms import ToUndirected
from torch_geometric.utils import coalesce, degree

from mrdib_pyg.datasets import Planted
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn import ModalityConv, MRdIB
from mrdib_pyg.nn.models import Embeddings

if not (torch_geometric.typing.WITH_TORCH_SPARSE or torch_geometric.typing.WITH_PYG_LIB):
    raise SystemExit(
        'LinkNeighborLoader needs torch-sparse or pyg-lib: pip install --no-build-isolation '
        "torch-scatter torch-sparse, or 'mrdib_pyg[sparse]' in the same way"
    )

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--epochs', type=int, default=5)
parser.add_argument('--batch_size', type=int, default=1024)
parser.add_argument('--num_users', type=int, default=1500)
parser.add_argument(
    '--num_neighbors', type=int, nargs='+', default=[-1, -1], help='in each hop; -1 takes all'
)
args = parser.parse_args()

USER_ITEM, ITEM_USER = ('user', 'rates', 'item'), ('item', 'rev_rates', 'user')
MODALITIES = ('image', 'text')
CHANNELS = 64
device = 'cuda' if torch.cuda.is_available() else 'cpu'


def prepare(data: HeteroData) -> HeteroData:
    """The training graph with edges in both directions, and the weights of the *whole* graph: the
    degrees in a mini-batch are not those of the graph.
    """
    out = HeteroData()
    out['user'].num_nodes, out['item'].num_nodes = data['user'].num_nodes, data['item'].num_nodes
    for name in MODALITIES:
        x = data['item'][f'x_{name}']
        out['item'][f'x_{name}'] = (x - x.mean(dim=0)) / x.std(dim=0)
    user, item = edge_index = data[USER_ITEM].edge_index
    inverse = (degree(user, data['user'].num_nodes), degree(item, data['item'].num_nodes))
    out[USER_ITEM].edge_index = edge_index
    out[USER_ITEM].edge_weight = (inverse[0][user] * inverse[1][item]).rsqrt()
    out['user'].n_id = torch.arange(data['user'].num_nodes)  # a loader sets it, too
    return ToUndirected()(out)


class Model(nn.Module):
    """Per modality a graph convolution with the preferences of users, and MRdIB."""

    def __init__(self, data: HeteroData) -> None:
        super().__init__()
        self.preference, self.conv = nn.ModuleDict(), nn.ModuleDict()
        for name in MODALITIES:
            width = data['item'][f'x_{name}'].size(1)
            self.preference[name] = nn.Embedding(data['user'].num_nodes, CHANNELS)
            nn.init.xavier_uniform_(self.preference[name].weight)
            self.conv[name] = ModalityConv(
                width, CHANNELS, num_layers=len(args.num_neighbors), normalize=False
            )
        self.mrdib = MRdIB(dict.fromkeys(MODALITIES, CHANNELS), redundancy='gaussian')

    def forward(self, data: HeteroData) -> tuple[dict, Tensor, Tensor]:
        # An edge may have been drawn from either end, or from both.
        edge_index = torch.cat([data[USER_ITEM].edge_index, data[ITEM_USER].edge_index.flip(0)], 1)
        weight = torch.cat([data[USER_ITEM].edge_weight, data[ITEM_USER].edge_weight])
        edge_index, weight = coalesce(edge_index, weight, reduce='max')
        x = {}
        for name in MODALITIES:
            user = self.preference[name](data['user'].n_id)
            x[name] = self.conv[name]((user, data['item'][f'x_{name}']), edge_index, weight)
        codes = self.mrdib(x)
        user, item = (sum(codes[name][side].z for name in MODALITIES) for side in (0, 1))
        return codes, user, item


def compute_loss(model: Model, data: HeteroData, triplet: tuple[Tensor, ...]) -> Tensor:
    codes, user, item = model(data)
    src, pos, neg = triplet  # ids of the batch, which are rows of the codes
    bpr = F.softplus((user[src] * (item[neg] - item[pos])).sum(dim=-1)).mean()
    terms = model.mrdib.loss(codes, src, pos, neg)
    return bpr + terms.total(bottleneck=1e-4, redundant=1e-4, unique=5e-3)


dataset = Planted(num_users=args.num_users, noise=1.0)[0]
data = prepare(dataset)
loader = LinkNeighborLoader(
    data,
    num_neighbors=args.num_neighbors,
    edge_label_index=(USER_ITEM, data[USER_ITEM].edge_index),
    neg_sampling=NegativeSampling('triplet'),
    batch_size=args.batch_size,
    shuffle=True,
)
torch.manual_seed(0)
model, data = Model(data).to(device), data.to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)

for epoch in range(1, args.epochs + 1):
    model.train()
    total = 0.0
    for batch in loader:
        batch = batch.to(device)
        local = (batch['user'].src_index, batch['item'].dst_pos_index, batch['item'].dst_neg_index)
        optimizer.zero_grad()
        loss = compute_loss(model, batch, local)
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * local[0].numel()
    model.eval()
    with torch.no_grad():
        _, user, item = model(data)
    ndcg = evaluate(Embeddings(user, item), dataset, 'val', k=10)['ndcg@10']
    print(f'Epoch: {epoch:02d}, Loss: {total / data[USER_ITEM].num_edges:.4f}, NDCG@10: {ndcg:.4f}')

# Where every neighbor is taken, the step is that of the whole graph.
if set(args.num_neighbors) == {-1}:
    batch = next(iter(loader)).to(device)
    local = (batch['user'].src_index, batch['item'].dst_pos_index, batch['item'].dst_neg_index)
    whole = (batch['user'].n_id[local[0]], *(batch['item'].n_id[i] for i in local[1:]))
    with torch.no_grad():  # in evaluation mode: the noise of the codes would differ
        difference = compute_loss(model, batch, local) - compute_loss(model, data, whole)
    print(f'Difference to the whole graph: {abs(float(difference)):.0e}')
