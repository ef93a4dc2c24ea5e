from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from benchmarks.training.common.base import CommonModel, bpr_loss, dense_neighbors, to_coo


class FREEDOM(CommonModel):
    r"""FREEDOM (`arXiv:2211.06924 <https://arxiv.org/abs/2211.06924>`_), the common way: raw
    features are trained, and those of all items are projected in every step.
    """

    trains_features = True

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 2,
        k: int = 10,
        edge_dropout: float = 0.8,
        content_weight: float = 1e-3,
        trainable_features: bool = True,
    ) -> None:
        super().__init__(data, channels, trainable_features)
        self.num_layers, self.edge_dropout = num_layers, edge_dropout
        self.content_weight = content_weight
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        for table in (self.user_emb, self.item_emb):
            nn.init.xavier_uniform_(table.weight)
        self.lins = nn.ModuleDict(
            {name: nn.Linear(x.embedding_dim, channels) for name, x in self.features.items()}
        )
        self.item_adj = self._item_graph(k)
        self.train_adj = self.norm_adj
        degree_user = torch.bincount(self.edge_index[0], minlength=self.num_users)
        degree_item = torch.bincount(self.edge_index[1], minlength=self.num_items)
        degrees = degree_user[self.edge_index[0]] * degree_item[self.edge_index[1]]
        self.edge_weight = degrees.to(torch.get_default_dtype()).pow(-0.5)

    def _item_graph(self, k: int) -> Tensor:
        weights = {'image': 0.1, 'text': 0.9}
        if set(self.modalities) != set(weights):
            weights = dict.fromkeys(self.modalities, 1.0 / len(self.modalities))
        total = None
        for name in self.modalities:
            x = self.features[name].weight.detach()
            index = dense_neighbors(x, k)[1]
            row = torch.arange(self.num_items, device=x.device).repeat_interleave(k)
            value = x.new_full((row.numel(),), weights[name] / k)
            graph = to_coo(row, index.view(-1), value, self.num_items)
            total = graph if total is None else total + graph
        assert total is not None
        return total.coalesce()

    def on_epoch_start(self) -> None:
        if self.edge_dropout == 0:
            return
        count = int(self.edge_weight.numel() * (1 - self.edge_dropout))
        kept = torch.multinomial(self.edge_weight, count)
        self.train_adj = self.make_norm_adj(self.edge_index[:, kept])

    def forward(self) -> tuple[Tensor, Tensor]:
        adj = self.train_adj if self.training else self.norm_adj
        ego = self.user_emb.weight, self.item_emb.weight
        user, item = self.propagate(*ego, self.num_layers, adj)
        return user, item + torch.sparse.mm(self.item_adj, self.item_emb.weight)

    def loss(self, user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        all_users, all_items = self()
        u = all_users[user]
        total = bpr_loss(u, all_items[pos], all_items[neg])
        for name, lin in self.lins.items():
            content = lin(self.features[name].weight)
            total = total + self.content_weight * bpr_loss(u, content[pos], content[neg])
        return total

    def copy_from(self, model: Any) -> None:
        self._copy((self.user_emb, model.user_emb), (self.item_emb, model.item_emb))
        with torch.no_grad():
            for name, lin in self.lins.items():
                source = model.maps.lin(name)
                lin.weight.copy_(source.weight)
                # The bias cancels in the difference of two items; this package has none.
                lin.bias.zero_() if source.bias is None else lin.bias.copy_(source.bias)
