"""MRdIB on a model that knows nothing of it, by the names of its modules. Data are generated."""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrdib_pyg import attach, capture, detach
from mrdib_pyg.datasets import Planted
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import Embeddings
from mrdib_pyg.ops import sample_negatives
from mrdib_pyg.ops.negative_sampling import encode_edges

parser = argparse.ArgumentParser()
parser.add_argument('--epochs', type=int, default=20)
parser.add_argument('--batch_size', type=int, default=2048)
parser.add_argument('--lr', type=float, default=0.005)
parser.add_argument('--num_users', type=int, default=1500)
args = parser.parse_args()


class SomeoneElsesModel(nn.Module):
    """A recommender as it may come from a paper's repository; not a line of it is changed."""

    def __init__(self, num_users: int, image: Tensor, text: Tensor) -> None:
        super().__init__()
        self.register_buffer('image', image)
        self.register_buffer('text', text)
        self.user = nn.Embedding(num_users, 64)
        self.image_proj = nn.Sequential(nn.Linear(image.size(1), 64), nn.ReLU(), nn.Linear(64, 64))
        self.text_proj = nn.Linear(text.size(1), 64)
        self.cold_start_proj = nn.Linear(text.size(1), 64)  # left over, and never called
        nn.init.xavier_uniform_(self.user.weight)
        self.fusion = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 64))

    def item(self) -> Tensor:
        image, text = self.image_proj(self.image), self.text_proj(self.text)
        return image + text + self.fusion(torch.cat([image, text], dim=-1))

    def forward(self, user: Tensor, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
        user, item = self.user(user), self.item()
        return (user * item[pos]).sum(dim=-1), (user * item[neg]).sum(dim=-1)


class Ranking:
    """What `evaluate` asks for: the users and items whose inner product is the score."""

    def __init__(self, model: SomeoneElsesModel) -> None:
        self.model = model

    def embed(self) -> Embeddings:
        self.model.eval()
        return Embeddings(self.model.user.weight, self.model.item())


torch.manual_seed(0)
device = 'cuda' if torch.cuda.is_available() else 'cpu'
data = Planted(num_users=args.num_users, noise=1.0)[0].to(device)
num_users, num_items = data['user'].num_nodes, data['item'].num_nodes
train_edge_index = data['user', 'rates', 'item'].edge_index
train_codes = encode_edges(train_edge_index, num_items)

image, text = data['item'].x_image, data['item'].x_text
model = SomeoneElsesModel(num_users, image / image.std(), text / text.std()).to(device)

# Before the optimizer, so that it sees the parameters of the layer.
mrdib = attach(model, {'image': 'image_proj', 'text': 'text_proj'}, channels=64)
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)


def train() -> float:
    model.train()
    total = 0.0
    for index in torch.randperm(train_edge_index.size(1), device=device).split(args.batch_size):
        user, pos = train_edge_index[:, index]
        neg = sample_negatives(user, train_codes, num_items)

        optimizer.zero_grad()
        with capture(model) as codes:
            score_pos, score_neg = model(user, pos, neg)
        # The model projects all items, so that rows of the codes are items. Users have no code:
        # what a modality alone predicts is scored with the model's own user embedding.
        terms = mrdib.loss(codes, user, pos, neg, user_embedding=model.user.weight)
        loss = F.softplus(score_neg - score_pos).mean()
        loss = loss + terms.total(bottleneck=1e-3, redundant=5e-3, unique=0.05)
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * index.numel()
    return total / train_edge_index.size(1)


def test(split: str) -> float:
    return evaluate(Ranking(model), data, split, k=10)['ndcg@10']


for epoch in range(1, args.epochs + 1):
    print(f'Epoch: {epoch:02d}, Loss: {train():.4f}, val NDCG@10: {test("val"):.4f}')
print(f'Test NDCG@10: {test("test"):.4f}')

# The model is its former self again, with the weights it has learned.
detach(model)

# A target that the model never calls does not stay unnoticed.
attach(model, {'image': 'image_proj', 'text': 'cold_start_proj'}, channels=64)
try:
    with capture(model):
        model(*torch.zeros(3, 1, dtype=torch.long, device=device))
except RuntimeError as error:
    print(f'RuntimeError: {error}')
