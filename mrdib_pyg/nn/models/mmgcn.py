from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models.batch import check_at_least, take_rows, weighted_sum
from mrdib_pyg.nn.models.cold_start import NewItems
from mrdib_pyg.nn.models.features import ModalityDict, available, unit_rows
from mrdib_pyg.nn.models.recommender import (
    Embeddings,
    Layer,
    Pair,
    Recommender,
    Rows,
    Triplets,
    _sum,
)
from mrdib_pyg.ops import NormalizedAdjacency, propagate


class MMGCN(Recommender):
    r"""The model of `"MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation
    of Micro-video" <https://doi.org/10.1145/3343031.3351034>`_: the mean of one graph convolution
    per modality, all of which read one table of IDs.

    .. math::
        \mathbf{H} &= \sigma(\mathbf{D}^{-1} \mathbf{A} \mathbf{X}_m^{(l-1)} \mathbf{W}_1), \quad
        \hat{\mathbf{X}} = \sigma(\mathbf{X}_m^{(l-1)} \mathbf{W}_2 + \mathbf{b}_2) + \mathbf{E} \\
        \mathbf{X}_m^{(l)} &= \sigma(\mathbf{H} \mathbf{W}_3 + \mathbf{b}_3 + \hat{\mathbf{X}}),
        \quad \mathbf{Y} = \frac{1}{M} \sum_m \mathbf{X}_m^{(L)}, \quad
        s(u, i) = \langle \mathbf{y}_u, \mathbf{y}_i \rangle

    where :math:`\sigma` is a leaky ReLU, :math:`\mathbf{E}` the table of IDs and
    :math:`\mathbf{X}_m^{(0)}` the users' preferences :math:`\mathbf{Q}_m` and the items' features,
    each row of unit norm.

    MRdIB encodes users and items of :math:`\mathbf{X}_m^{(L)}`, before the mean. Given the user,
    the score is a sum over the item's modalities and cannot carry synergy.

    Differences from the public code of the published results, whose ways are in parentheses: the ID
    and preference tables are trained (keep their initial values); the given number of layers is
    combined element-wise (three, concatenated); all weights have Xavier's normal initialization and
    biases start at zero; features wider than :obj:`hidden_channels` are mapped to that width
    (images to 256, texts not at all); the regularizer covers all preference tables (that of the
    images). As in public code, modalities are averaged (the paper sums them), and the regularizer
    counts a user once per item.

    Where modalities are missing, a node's mean covers those it has. A node without any modality
    keeps the mean of all: its ID and the messages of its neighbors.

    An item unseen in training passes the layers without neighbors and with an ID of zero.

    Args:
        data (HeteroData): The training graph with item features.
        channels (int, optional): The width of the embeddings. (default: :obj:`64`)
        hidden_channels (int, optional): The largest width of a modality before the first layer.
            Wider features are mapped to it. (default: :obj:`256`)
        num_layers (int, optional): The number of layers :math:`L`. (default: :obj:`2`)
        reg_weight (float, optional): The default weight of :obj:`reg`, the mean squares of the
            batch's rows of the ID table and of the preferences. (default: :obj:`1e-3`)
        feature_scaling (str, optional): See :class:`Recommender`. (default: :obj:`None`)
        mrdib (MRdIB, optional): See :class:`Recommender`. (default: :obj:`None`)
        **kwargs (optional): :obj:`task` and :obj:`num_negatives` of :class:`Recommender`.

    Raises:
        ValueError: If a setting is out of range.
    """

    presets = {
        'baby': {'reg_weight': 1e-3},
        'sports': {'reg_weight': 0.0},
        'clothing': {'reg_weight': 1e-3},
    }

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        hidden_channels: int = 256,
        num_layers: int = 2,
        reg_weight: float = 1e-3,
        feature_scaling: str | None = None,
        mrdib: None | Layer | Mapping[str, Any] = None,
        **kwargs: Any,
    ) -> None:
        check_at_least(1, hidden_channels=hidden_channels, num_layers=num_layers)
        super().__init__(data, channels, mrdib, feature_scaling, **kwargs)
        self.hidden_channels = hidden_channels
        self.num_layers = num_layers
        self.reg_weight = reg_weight
        size, edge_index = (self.num_users, self.num_items), self.train_edge_index
        self.user_mean = NormalizedAdjacency(edge_index, num_nodes=size, normalization='left')
        self.item_mean = NormalizedAdjacency(
            edge_index.flip(0), num_nodes=size[::-1], normalization='left'
        )
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        self.preferences, self.lins, self.layers = (ModalityDict() for _ in range(3))
        for m in self.modalities:
            width = self.features(m).size(1)
            if width > hidden_channels:
                self.lins[m] = nn.Linear(width, hidden_channels)
                width = hidden_channels
            self.preferences[m] = nn.Embedding(self.num_users, width)
            widths = [width] + [channels] * (num_layers - 1)
            self.layers[m] = nn.ModuleList(_Layer(width, channels) for width in widths)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for block in (self.user_emb, self.item_emb, self.preferences, self.lins, self.layers):
            for module in block.modules():
                if isinstance(module, (nn.Embedding, nn.Linear)):
                    nn.init.xavier_normal_(module.weight)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def loss_weights(self) -> dict[str, float]:
        return {'task': 1.0, 'reg': self.reg_weight}

    def modality_embeddings(self, rows: Rows | None = None) -> dict[str, Pair]:
        present = self.present()
        out: dict[str, Pair] = {}
        for m in self.modalities:
            user: Any = self.preferences[m].weight
            item = self.item_features(m)
            if m in self.lins:
                item = self.lins[m](item)
            if present is not None:  # the bias of the map
                item = item * present[m][1].unsqueeze(-1)
            user, item = unit_rows(user), unit_rows(item)
            layers = list(self.layers[m].children())
            for i, layer in enumerate(layers):
                # Of the last layer, only the rows that the loss reads.
                last = rows if i == len(layers) - 1 else None
                pair = (None, None) if last is None else (last.user, last.item)
                user, item = (
                    layer(user, item, self.user_emb.weight, self.user_mean, pair[0]),
                    layer(item, user, self.item_emb.weight, self.item_mean, pair[1]),
                )
            out[m] = (user, item)
        return out

    def fuse(self, codes: Mapping[str, Pair], rows: Rows | None = None) -> Embeddings:
        present = self.present(rows)
        sides: list[Tensor] = []
        for side in (0, 1):
            terms: list[Any] = [code[side] for code in codes.values()]
            masks: Any = None if present is None else [pair[side] for pair in present.values()]
            sides.append(_mean(terms, masks))
        ego = (self.user_emb.weight, self.item_emb.weight)
        return Embeddings(sides[0], sides[1], {'ego': take_rows(*ego, rows)})

    def new_item_codes(self, new: NewItems) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for m, x in new.x.items():
            if m in self.lins:
                x = self.lins[m](x)
            x = unit_rows(x * new.present[m].unsqueeze(-1))
            for layer in self.layers[m].children():
                assert isinstance(layer, _Layer)
                x = layer.alone(x)
            out[m] = x
        return out

    def fuse_new_items(self, codes: Mapping[str, Tensor], new: NewItems) -> Tensor:
        return _mean(list(codes.values()), new.masks)

    def extra_losses(self, embeddings: Embeddings, batch: Triplets) -> dict[str, Tensor]:
        src, pos, neg = batch
        # First of each row, then of the batch: no row is gathered.
        user, item = (x.square().mean(dim=-1) for x in embeddings.views['ego'])
        reg = user[src].mean() + 0.5 * (item[pos].mean() + item[neg].mean())
        tables: list[Any] = [table.weight for table in self.preferences.children()]
        # From the norm, whose gradient is a single pass over the table.
        squares = [x.norm().square() / x.numel() for x in tables]
        return {'reg': reg + torch.stack(squares).mean()}


def _mean(codes: list[Tensor], masks: list[Tensor] | None) -> Tensor:
    # Over the modalities of each row.
    if masks is None:
        return _sum(codes) / len(codes)
    weight = available(masks).to(codes[0].dtype)
    weight = weight / weight.sum(dim=1, keepdim=True)
    return weighted_sum(codes, weight)


class _Layer(nn.Module):
    # One layer for users or for items, whose neighbors are the other side.

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lin_neighbors = nn.Linear(in_channels, in_channels, bias=False)
        self.lin_self = nn.Linear(in_channels, out_channels)
        self.lin_out = nn.Linear(in_channels, out_channels)

    def forward(
        self,
        x: Tensor,
        neighbors: Tensor,
        ids: Tensor,
        adj: NormalizedAdjacency,
        rows: Tensor | None,
    ) -> Tensor:
        hidden = self.aggregate(neighbors, adj, rows)
        if rows is not None:
            x, ids = x.index_select(0, rows), ids.index_select(0, rows)
        own = F.leaky_relu(self.lin_self(x), inplace=True) + ids
        return F.leaky_relu(self.lin_out(hidden) + own, inplace=True)

    def alone(self, x: Tensor) -> Tensor:
        # A row without neighbors, whose ID is zero.
        own = F.leaky_relu(self.lin_self(x))
        return F.leaky_relu(self.lin_out.bias + own)

    def aggregate(
        self, neighbors: Tensor, adj: NormalizedAdjacency, rows: Tensor | None = None
    ) -> Tensor:
        # (D^-1 A X) W = D^-1 A (X W), both as wide: multiply by W where there are fewer rows.
        num_rows = adj.rowptr.numel() - 1 if rows is None else rows.numel()
        before = neighbors.size(0) <= num_rows
        out = propagate(self.lin_neighbors(neighbors) if before else neighbors, adj)
        if rows is not None:
            out = out.index_select(0, rows)
        return F.leaky_relu(out if before else self.lin_neighbors(out), inplace=True)
