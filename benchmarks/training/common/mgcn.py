from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from benchmarks.training.common.base import CommonModel, bpr_loss, dense_neighbors, to_coo


class MGCN(CommonModel):
    r"""MGCN (`arXiv:2308.03588 <https://arxiv.org/abs/2308.03588>`_), the common way: raw features
    are trained, and every step computes the whole model for all users and items.
    """

    trains_features = True

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 2,
        k: int = 10,
        contrastive_weight: float = 1e-2,
        temperature: float = 0.2,
        reg_weight: float = 1e-4,
        trainable_features: bool = True,
    ) -> None:
        super().__init__(data, channels, trainable_features)
        self.num_layers, self.temperature = num_layers, temperature
        self.contrastive_weight, self.reg_weight = contrastive_weight, reg_weight
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        for table in (self.user_emb, self.item_emb):
            nn.init.xavier_uniform_(table.weight)
        self.lins = nn.ModuleDict(
            {name: nn.Linear(x.embedding_dim, channels) for name, x in self.features.items()}
        )
        self.purifiers, self.gates = (
            nn.ModuleList(nn.Linear(channels, channels) for _ in self.modalities) for _ in range(2)
        )
        self.attention = nn.Sequential(
            nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, 1, bias=False)
        )
        self.item_adjs = {m: self._item_graph(x.weight, k) for m, x in self.features.items()}
        self.user_item = self._user_item_block()

    @torch.no_grad()
    def _item_graph(self, x: Tensor, k: int) -> Tensor:
        value, index = dense_neighbors(x, k)
        value = value.clamp(min=0)
        total = value.sum(dim=-1)
        scale = torch.where(total > 0, total.pow(-0.5), torch.zeros_like(total))
        row = torch.arange(self.num_items, device=x.device).repeat_interleave(k)
        col = index.view(-1)
        return to_coo(row, col, value.view(-1) * scale[row] * scale[col], self.num_items)

    def _user_item_block(self) -> Tensor:
        matrix = self.norm_adj.coalesce()
        row, col = matrix.indices()
        keep = row < self.num_users
        index = torch.stack([row[keep], col[keep] - self.num_users])
        return torch.sparse_coo_tensor(
            index,
            matrix.values()[keep],
            (self.num_users, self.num_items),
            check_invariants=False,
        )

    def _views(self) -> tuple[Tensor, Tensor]:
        ego = self.user_emb.weight, self.item_emb.weight
        behavior = torch.cat(self.propagate(*ego, self.num_layers, self.norm_adj))
        views = []
        for i, name in enumerate(self.modalities):
            content = self.lins[name](self.features[name].weight)
            purified = self.item_emb.weight * torch.sigmoid(self.purifiers[i](content))
            item = torch.sparse.mm(self.item_adjs[name], purified)
            views.append(torch.cat([torch.sparse.mm(self.user_item, item), item]))
        logit = torch.cat([self.attention(x) for x in views], dim=-1)
        weight = torch.softmax(logit, dim=-1)
        common = sum(weight[:, i].unsqueeze(-1) * x for i, x in enumerate(views))
        side = common
        for x, gate in zip(views, self.gates):
            side = side + torch.sigmoid(gate(behavior)) * (x - common)
        return behavior, side / (len(views) + 1)

    def forward(self) -> tuple[Tensor, Tensor]:
        behavior, side = self._views()
        user, item = (behavior + side).split([self.num_users, self.num_items])
        return user, item

    def loss(self, user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        behavior, side = self._views()
        all_users, all_items = (behavior + side).split([self.num_users, self.num_items])
        u, p, n = all_users[user], all_items[pos], all_items[neg]
        reg = 0.5 * (u.pow(2).sum() + p.pow(2).sum() + n.pow(2).sum()) / user.size(0)
        contrast = torch.zeros_like(reg)
        for rows in (pos + self.num_users, user):
            contrast = contrast + self._contrast(side[rows], behavior[rows])
        total = bpr_loss(u, p, n) + self.reg_weight * reg
        return total + self.contrastive_weight * contrast

    def _contrast(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        anchor, candidate = F.normalize(anchor, dim=1), F.normalize(candidate, dim=1)
        positive = torch.exp((anchor * candidate).sum(dim=-1) / self.temperature)
        every = torch.exp(anchor @ candidate.t() / self.temperature).sum(dim=1)
        return -torch.log(positive / every).mean()

    def copy_from(self, model: Any) -> None:
        self._copy((self.user_emb, model.user_emb), (self.item_emb, model.item_emb))
        self._copy(*((lin, model.maps.lin(name)) for name, lin in self.lins.items()))
        self._copy((self.purifiers, model.purifiers), (self.gates, model.gates))
        self._copy((self.attention, model.attention))
