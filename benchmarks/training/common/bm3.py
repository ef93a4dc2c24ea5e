from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from benchmarks.training.common.base import CommonModel, norm_loss


class BM3(CommonModel):
    r"""BM3 (`arXiv:2207.05969 <https://arxiv.org/abs/2207.05969>`_), the common way: raw features
    are trained, and projection, predictor and dropout run over all users and items in every step.
    """

    trains_features = True

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 1,
        dropout: float = 0.5,
        reg_weight: float = 0.1,
        content_weight: float = 2.0,
        trainable_features: bool = True,
    ) -> None:
        super().__init__(data, channels, trainable_features)
        self.num_layers, self.dropout = num_layers, dropout
        self.reg_weight, self.content_weight = reg_weight, content_weight
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        for table in (self.user_emb, self.item_emb):
            nn.init.xavier_uniform_(table.weight)
        self.lins = nn.ModuleDict(
            {name: nn.Linear(x.embedding_dim, channels) for name, x in self.features.items()}
        )
        self.predictor = nn.Linear(channels, channels)
        for lin in (*self.lins.values(), self.predictor):
            nn.init.xavier_normal_(lin.weight)

    def _tables(self) -> tuple[Tensor, Tensor]:
        ego = self.user_emb.weight, self.item_emb.weight
        user, item = self.propagate(*ego, self.num_layers, self.norm_adj)
        return user, item + self.item_emb.weight

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x.detach(), self.dropout, self.training)

    def forward(self) -> tuple[Tensor, Tensor]:
        user, item = self._tables()
        return self.predictor(user), self.predictor(item)

    def loss(self, user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        all_users, all_items = self._tables()
        content = {m: lin(self.features[m].weight) for m, lin in self.lins.items()}
        # Targets are constants; without dropout, only `detach` makes them so.
        target_user, target_item = self._drop(all_users), self._drop(all_items)
        targets = {m: self._drop(x) for m, x in content.items()}
        online_user, online_item = self.predictor(all_users), self.predictor(all_items)
        total = _distance(online_user[user], target_item[pos])
        total = total + _distance(online_item[pos], target_user[user])
        for name, x in content.items():
            online = self.predictor(x)[pos]
            terms = _distance(online, target_item[pos]) + _distance(online, targets[name][pos])
            total = total + self.content_weight * terms
        return total + self.reg_weight * norm_loss(all_users, all_items)

    def copy_from(self, model: Any) -> None:
        self._copy((self.user_emb, model.user_emb), (self.item_emb, model.item_emb))
        self._copy((self.lins, model.lins), (self.predictor, model.predictor))


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(x, y, dim=-1).mean()
