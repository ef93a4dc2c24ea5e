r"""Plainly written models and loops that do what common implementations of multimodal recommenders
do: the baseline of :mod:`benchmarks.training`.

They compute the same losses as this package, which is tested, in the usual way: products with a
sparse COO matrix through autograd, features of *all* items projected in every step, trained along
with the model where that is the custom, Adam by its defaults, embeddings propagated anew for every
batch of users that is ranked, metrics and negatives in Python loops, and both validation and test
edges evaluated after every epoch.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn import MessagePassing


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
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        for table in (self.user_emb, self.item_emb):
            nn.init.xavier_uniform_(table.weight)

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

    def make_lins(self) -> nn.ModuleDict:
        r"""A map of the raw features of each modality."""
        widths = {name: table.embedding_dim for name, table in self.features.items()}
        return nn.ModuleDict({name: nn.Linear(n, self.channels) for name, n in widths.items()})

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
        self._copy((self.user_emb, model.user_emb), (self.item_emb, model.item_emb))

    def _copy(self, *pairs: tuple[nn.Module, nn.Module]) -> None:
        with torch.no_grad():
            for target, source in pairs:
                target.load_state_dict(source.state_dict())


def bpr_loss(user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    r"""The ranking loss of gathered rows."""
    difference = (user * pos).sum(dim=1) - (user * neg).sum(dim=1)
    return -F.logsigmoid(difference).mean()


def log_loss(user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    r"""The same, as older implementations write it."""
    difference = (user * pos).sum(dim=1) - (user * neg).sum(dim=1)
    return -torch.log(1e-10 + torch.sigmoid(difference)).mean()


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

    def forward(self) -> tuple[Tensor, Tensor]:
        ego = self.user_emb.weight, self.item_emb.weight
        return self.propagate(*ego, self.num_layers, self.norm_adj)

    def loss(self, user: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        all_users, all_items = self()
        bpr = log_loss(all_users[user], all_items[pos], all_items[neg])
        reg = norm_loss(self.user_emb(user), self.item_emb(pos), self.item_emb(neg))
        return bpr + self.reg_weight * reg


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
        width = sum(table.embedding_dim for table in self.features.values())
        self.lin = nn.Linear(width, channels)
        nn.init.xavier_uniform_(self.user_emb.weight)
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
        return log_loss(u, p, n) + self.reg_weight * norm_loss(u, p, n)

    @torch.no_grad()
    def copy_from(self, model: Any) -> None:
        super().copy_from(model)
        weights = [model.lins[name].weight for name in self.modalities]
        self.lin.weight.copy_(torch.cat(weights, dim=-1))
        self.lin.bias.copy_(model.bias)


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
        super().copy_from(model)
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
        self.lins = self.make_lins()
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
        super().copy_from(model)
        with torch.no_grad():
            for name, lin in self.lins.items():
                source = model.maps.lin(name)
                lin.weight.copy_(source.weight)
                # The bias cancels in the difference of two items; this package has none.
                lin.bias.zero_() if source.bias is None else lin.bias.copy_(source.bias)


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
        self.lins = self.make_lins()
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
        super().copy_from(model)
        self._copy((self.lins, model.lins), (self.predictor, model.predictor))


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(x, y, dim=-1).mean()


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
        self.lins = self.make_lins()
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
        super().copy_from(model)
        self._copy(*((lin, model.maps.lin(name)) for name, lin in self.lins.items()))
        self._copy((self.purifiers, model.purifiers), (self.gates, model.gates))
        self._copy((self.attention, model.attention))


#: The models by the names of this package.
COMMON_MODELS: dict[str, type[CommonModel]] = {
    'lightgcn': LightGCN,
    'vbpr': VBPR,
    'mmgcn': MMGCN,
    'freedom': FREEDOM,
    'bm3': BM3,
    'mgcn': MGCN,
}
