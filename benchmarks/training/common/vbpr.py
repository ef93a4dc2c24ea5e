from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from benchmarks.training.common.base import CommonModel, norm_loss


class VBPR(CommonModel):
    r"""VBPR (`arXiv:1510.01784 <https://arxiv.org/abs/1510.01784>`_) on the features of all
    modalities, side by side, the common way: the features of all items are projected in every step.
    """

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        reg_weight: float = 1e-3,
        trainable_features: bool = False,
    ) -> None:
        super().__init__(data, channels, trainable_features)
        self.reg_weight = reg_weight
        self.user_emb = nn.Embedding(self.num_users, 2 * channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        width = sum(table.embedding_dim for table in self.features.values())
        self.lin = nn.Linear(width, channels)
        for weight in (self.user_emb.weight, self.item_emb.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.xavier_normal_(self.lin.weight)
        nn.init.zeros_(self.lin.bias)
        if not trainable_features:  # side by side once; trained, they would be so in every step
            raw = torch.cat([table.weight for table in self.features.values()], dim=-1)
            self.register_buffer('raw', raw, persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        raw = getattr(self, 'raw', None)
        if raw is None:
            raw = torch.cat([table.weight for table in self.features.values()], dim=-1)
        content = self.lin(raw)
        return self.user_emb.weight, torch.cat([self.item_emb.weight, content], dim=-1)

    def loss(self, user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        all_users, all_items = self()
        u, p, n = all_users[user], all_items[pos], all_items[neg]
        difference = (u * p).sum(dim=1) - (u * n).sum(dim=1)
        bpr = -torch.log(1e-10 + torch.sigmoid(difference)).mean()
        return bpr + self.reg_weight * norm_loss(u, p, n)

    @torch.no_grad()
    def copy_from(self, model: Any) -> None:
        self._copy((self.user_emb, model.user_emb), (self.item_emb, model.item_emb))
        weights = [model.lins[name].weight for name in self.modalities]
        self.lin.weight.copy_(torch.cat(weights, dim=-1))
        self.lin.bias.copy_(model.bias)
