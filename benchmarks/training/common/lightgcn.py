from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from benchmarks.training.common.base import CommonModel, norm_loss


class LightGCN(CommonModel):
    r"""LightGCN (`arXiv:2002.02126 <https://arxiv.org/abs/2002.02126>`_), the common way."""

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 3,
        reg_weight: float = 1e-4,
        trainable_features: bool = False,
    ) -> None:
        super().__init__(data, channels)
        self.features = nn.ModuleDict()  # reads none
        self.num_layers, self.reg_weight = num_layers, reg_weight
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        for table in (self.user_emb, self.item_emb):
            nn.init.xavier_uniform_(table.weight)

    def forward(self) -> tuple[Tensor, Tensor]:
        ego = self.user_emb.weight, self.item_emb.weight
        return self.propagate(*ego, self.num_layers, self.norm_adj)

    def loss(self, user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        all_users, all_items = self()
        u, p, n = all_users[user], all_items[pos], all_items[neg]
        difference = (u * p).sum(dim=1) - (u * n).sum(dim=1)
        bpr = -torch.log(1e-10 + torch.sigmoid(difference)).mean()
        reg = norm_loss(self.user_emb(user), self.item_emb(pos), self.item_emb(neg))
        return bpr + self.reg_weight * reg

    def copy_from(self, model: Any) -> None:
        self._copy((self.user_emb, model.user_emb), (self.item_emb, model.item_emb))
