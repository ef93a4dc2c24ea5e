from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData


class CommonModel(nn.Module):
    r"""What the common models share: a user-item matrix in COO layout, raw features, scores.

    Args:
        data (HeteroData): The training graph with item features.
        channels (int, optional): The width of the embeddings. (default: :obj:`64`)
        trainable_features (bool, optional): Whether raw features are trained along.
            (default: :obj:`False`)
    """

    #: Whether it is the custom to train the raw features of this model.
    trains_features = False

    def __init__(
        self, data: HeteroData, channels: int = 64, trainable_features: bool = False
    ) -> None:
        super().__init__()
        self.channels = channels
        self.num_users = int(data['user'].num_nodes)
        self.num_items = int(data['item'].num_nodes)
        edge_index = data['user', 'rates', 'item'].edge_index
        self.edge_index = edge_index
        self.norm_adj = self.make_norm_adj(edge_index)
        self.modalities = [key[2:] for key in data['item'].keys() if key.startswith('x_')]
        self.features = nn.ModuleDict()
        for name in self.modalities:
            x = data['item'][f'x_{name}'].to(torch.get_default_dtype())
            table = nn.Embedding.from_pretrained(x.clone(), freeze=not trainable_features)
            self.features[name] = table

    def make_norm_adj(self, edge_index: Tensor) -> Tensor:
        r"""The symmetric-normalized matrix over users and items in one id space."""
        size = self.num_users + self.num_items
        user, item = edge_index[0], edge_index[1] + self.num_users
        degree_user = torch.bincount(edge_index[0], minlength=self.num_users)
        degree_item = torch.bincount(edge_index[1], minlength=self.num_items)
        degree = torch.cat([degree_user, degree_item]).to(torch.get_default_dtype())
        row, col = torch.cat([user, item]), torch.cat([item, user])
        perm = (row * size + col).argsort()
        row, col = row[perm], col[perm]
        value = degree[row].pow(-0.5) * degree[col].pow(-0.5)
        return torch.sparse_coo_tensor(
            torch.stack([row, col]), value, (size, size), check_invariants=False
        )

    def propagate(self, user: Tensor, item: Tensor, num_layers: int, adj: Tensor) -> Any:
        r"""The mean over layers, stacked."""
        x = torch.cat([user, item], dim=0)
        layers = [x]
        for _ in range(num_layers):
            x = torch.sparse.mm(adj, x)
            layers.append(x)
        out = torch.stack(layers, dim=1).mean(dim=1)
        return out.split([self.num_users, self.num_items])

    def on_epoch_start(self) -> None:
        r"""Called before each epoch."""

    def forward(self) -> tuple[Tensor, Tensor]:
        r"""Users and items whose inner product is the score."""
        raise NotImplementedError

    def loss(self, user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        r"""The weighted sum of all terms."""
        raise NotImplementedError

    @torch.no_grad()
    def scores(self, user: Tensor) -> Tensor:
        r"""The scores of all items; the embeddings are computed anew for every call."""
        all_users, all_items = self()
        return all_users[user] @ all_items.t()

    def copy_from(self, model: Any) -> None:
        r"""Takes the parameters of this package's model of the same name."""
        raise NotImplementedError

    def _copy(self, *pairs: tuple[nn.Module, nn.Module]) -> None:
        with torch.no_grad():
            for target, source in pairs:
                target.load_state_dict(source.state_dict())


def bpr_loss(user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    r"""The ranking loss of gathered rows."""
    difference = (user * pos).sum(dim=1) - (user * neg).sum(dim=1)
    return -F.logsigmoid(difference).mean()


def norm_loss(*rows: Tensor) -> Tensor:
    r"""The sum of unsquared norms over the number of rows of the last."""
    total = rows[0].new_zeros(())
    for x in rows:
        total = total + torch.norm(x, p=2)
    return total / rows[-1].size(0)


def dense_neighbors(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    r"""The cosines and ids of the nearest rows, from all similarities at a time."""
    x = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return torch.topk(x @ x.t(), k, dim=-1)


def to_coo(row: Tensor, col: Tensor, value: Tensor, size: int) -> Tensor:
    return torch.sparse_coo_tensor(
        torch.stack([row, col]), value, (size, size), check_invariants=False
    )
