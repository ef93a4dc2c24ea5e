from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn import MessagePassing

from benchmarks.training.common.base import CommonModel, bpr_loss


class MMGCN(CommonModel):
    r"""MMGCN (`doi:10.1145/3343031.3351034 <https://doi.org/10.1145/3343031.3351034>`_), the common
    way: features of all items mapped in every step, and messages along edge indices.
    """

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        hidden_channels: int = 256,
        num_layers: int = 2,
        reg_weight: float = 1e-3,
        trainable_features: bool = False,
    ) -> None:
        super().__init__(data, channels, trainable_features)
        self.reg_weight = reg_weight
        user, item = self.edge_index[0], self.edge_index[1] + self.num_users
        both = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
        self.register_buffer('edges', both, persistent=False)
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        self.preferences, self.lins, self.layers = (nn.ModuleDict() for _ in range(3))
        for name, table in self.features.items():
            width = table.embedding_dim
            if width > hidden_channels:
                self.lins[name] = nn.Linear(width, hidden_channels)
                width = hidden_channels
            self.preferences[name] = nn.Embedding(self.num_users, width)
            widths = [width] + [channels] * (num_layers - 1)
            self.layers[name] = nn.ModuleList(_Layer(w, channels) for w in widths)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
        for table in (self.user_emb, self.item_emb, *self.preferences.values()):
            nn.init.xavier_normal_(table.weight)

    def forward(self) -> tuple[Tensor, Tensor]:
        ids = torch.cat([self.user_emb.weight, self.item_emb.weight])
        views = []
        for name in self.modalities:
            content = self.features[name].weight
            if name in self.lins:
                content = self.lins[name](content)
            x = F.normalize(torch.cat([self.preferences[name].weight, content]), dim=-1)
            for layer in self.layers[name]:
                x = layer(x, self.edges, ids)
            views.append(x)
        out = torch.stack(views).mean(dim=0)
        user, item = out.split([self.num_users, self.num_items])
        return user, item

    def loss(self, user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        all_users, all_items = self()
        bpr = bpr_loss(all_users[user], all_items[pos], all_items[neg])
        users, items = self.user_emb(user), self.item_emb(torch.cat([pos, neg]))
        reg = users.pow(2).mean() + items.pow(2).mean()
        tables = [table.weight.pow(2).mean() for table in self.preferences.values()]
        return bpr + self.reg_weight * (reg + sum(tables) / len(tables))

    def copy_from(self, model: Any) -> None:
        self._copy((self.user_emb, model.user_emb), (self.item_emb, model.item_emb))
        self._copy((self.preferences, model.preferences), (self.lins, model.lins))
        for name in self.modalities:
            for target, source in zip(self.layers[name], model.layers[name]):
                self._copy(
                    (target.conv.lin, source.lin_neighbors),
                    (target.lin_self, source.lin_self),
                    (target.lin_out, source.lin_out),
                )


class _Mean(MessagePassing):
    def __init__(self, channels: int) -> None:
        super().__init__(aggr='mean')
        self.lin = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=self.lin(x))

    def message(self, x_j: Tensor) -> Tensor:
        return x_j


class _Layer(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _Mean(in_channels)
        self.lin_self = nn.Linear(in_channels, out_channels)
        self.lin_out = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor, ids: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.conv(x, edge_index))
        own = F.leaky_relu(self.lin_self(x)) + ids
        return F.leaky_relu(self.lin_out(hidden) + own)
