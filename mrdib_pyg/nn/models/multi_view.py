import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models.batch import check_at_least, propagate_rows
from mrdib_pyg.nn.models.cold_start import NewItems
from mrdib_pyg.nn.models.features import FeatureMaps
from mrdib_pyg.nn.models.recommender import Embeddings, Layer, Pair, Recommender, Rows, Triplets
from mrdib_pyg.ops import NormalizedAdjacency, propagate, propagate_mean
from mrdib_pyg.ops._contrastive_loss import contrastive_loss
from mrdib_pyg.ops._fixed_shapes import has_fixed_shapes


def weighted_graph(
    data: HeteroData,
    edge: tuple[str, str, str],
    transform: Callable[[HeteroData], HeteroData] | None = None,
    is_mean: bool = False,
) -> NormalizedAdjacency:
    r"""Returns edges of the data, or else of a transform, as a matrix with their own weights. If
    :obj:`is_mean`, it warns where the weights of a row do not sum to one.
    """
    if transform is not None and edge not in data.edge_types:
        data = transform(data)
    store = data[edge]
    if 'edge_weight' not in store:
        raise ValueError(f"the edges {edge} of 'data' must have an edge_weight (got none)")
    rows, cols = int(data[edge[0]].num_nodes), int(data[edge[2]].num_nodes)
    if is_mean:
        total = torch.zeros(rows, dtype=torch.double)
        row, weight = store.edge_index[0].cpu().long(), store.edge_weight.detach().cpu().double()
        total.index_add_(0, row, weight)
        if bool(((total - 1).abs() > 1e-3)[total != 0].any()):
            warnings.warn(
                f'the weights of {edge} do not sum to one per item, unlike those of the form '
                f"'binary'; remove these edges from the data to let the model build its own",
                stacklevel=3,
            )
    num_nodes = rows if edge[0] == edge[2] else (rows, cols)
    return NormalizedAdjacency(
        store.edge_index, store.edge_weight, num_nodes=num_nodes, normalization=None
    )


class MultiView(Recommender):
    r"""The common part of :class:`MGCN` and :class:`SOIL`: a behavior view of the user-item graph,
    a view of an item graph per modality, and the contrast of their fusion with the behavior view. A
    subclass calls :meth:`set_graphs` and implements :meth:`side`.
    """

    lr_decay = 0.96 ** (1 / 50)

    user_item_adj: NormalizedAdjacency
    k: int

    def __init__(
        self,
        data: HeteroData,
        channels: int,
        num_layers: int,
        temperature: float,
        trainable_features: bool,
        feature_scaling: str | None,
        mrdib: None | Layer | Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"'temperature' must be positive (got {temperature})")
        check_at_least(0, num_layers=num_layers)
        super().__init__(data, channels, mrdib, feature_scaling, **kwargs)
        self.num_layers = num_layers
        self.temperature = temperature
        self.trainable_features = trainable_features
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        self.maps = FeatureMaps(self.item_features, channels, trainable=trainable_features)
        self.purifiers = nn.ModuleList(nn.Linear(channels, channels) for _ in self.modalities)
        self.attention = nn.Sequential(
            nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, 1, bias=False)
        )

    def set_graphs(
        self, user_item: NormalizedAdjacency, items: Mapping[str, NormalizedAdjacency]
    ) -> None:
        r"""Sets the user-item graph and the item graph of each modality."""
        self.user_item_adj = user_item
        for name, adj in items.items():
            setattr(self, f'item_adj_{name}', adj)

    def side(self, x: list[Tensor], behavior: Tensor, masks: list[Tensor] | None) -> Tensor:
        r"""Fuses the codes of some rows, one tensor per modality, with masks of the rows that have
        it.
        """
        raise NotImplementedError

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.xavier_uniform_(self.user_emb.weight)
        nn.init.xavier_uniform_(self.item_emb.weight)
        self.maps.reset_parameters(self.item_features)
        for layer in [*self.purifiers, self.attention[0], self.attention[2]]:
            layer.reset_parameters()

    def modality_embeddings(self, rows: Rows | None = None) -> dict[str, Pair]:
        present = self.present()
        to_user = self.user_item_adj if rows is None else self.user_item_adj.select(rows.user)
        out: dict[str, Pair] = {}
        for m, purifier in zip(self.modalities, self.purifiers):
            # Nothing lies between projection and gate: as one map, they need no projected table.
            lin = self.maps.lin(m)
            assert isinstance(purifier, nn.Linear)
            weight, bias = purifier.weight @ lin.weight, purifier.weight @ lin.bias + purifier.bias
            gate = F.linear(self.maps.table(m, self.item_features), weight, bias).sigmoid()
            x = self.item_emb.weight * gate
            if present is not None:
                x = x * present[m][1].unsqueeze(-1)
            x = propagate(x, getattr(self, f'item_adj_{m}'))
            out[m] = (propagate(x, to_user), x if rows is None else x.index_select(0, rows.item))
        return out

    def fuse(self, codes: Mapping[str, Pair], rows: Rows | None = None) -> Embeddings:
        ego = (self.user_emb.weight, self.item_emb.weight)
        behavior, _ = propagate_rows(ego, self.user_item_adj, self.num_layers, rows)
        return self._fuse(codes, behavior, rows)

    def fuse_content(
        self, codes: Mapping[str, Any], held: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        # The behavior view is the ID path. It may gate the codes: hold it before the fusion.
        ego = (self.user_emb.weight, self.item_emb.weight)
        user, item = propagate_mean(ego, self.user_item_adj, self.num_layers)
        mean = (user.mean(dim=0).expand_as(user), item.mean(dim=0).expand_as(item))
        return self._encode_fused(*self._fuse(codes, mean, None)[:2])

    def _fuse(
        self, codes: Mapping[str, Pair], behavior: tuple[Tensor, Tensor], rows: Rows | None
    ) -> Embeddings:
        present = self.present(rows)
        sides = []
        for i, view in enumerate(behavior):
            x = [code[i] for code in codes.values()]
            masks = None if present is None else [present[m][i] for m in codes]
            sides.append(self.side(x, view, masks))  # type: ignore[arg-type]
        views = {'behavior': behavior, 'side': (sides[0], sides[1])}
        return Embeddings(behavior[0] + sides[0], behavior[1] + sides[1], views)

    def new_item_codes(self, new: NewItems) -> dict[str, Tensor]:
        ids = self.item_emb.weight
        out: dict[str, Tensor] = {}
        for m, purifier in zip(self.modalities, self.purifiers):
            row, col, cosine = new.neighbors(m, self.k - 1)
            weight = cosine.clamp(min=0.0)
            # Its similarity to itself is one, but its own ID is zero.
            degree = weight.new_ones(new.num_items).index_add_(0, row, weight)
            other = self.item_degree(m)
            other = degree[row] if other is None else other[col]
            weight = weight / (degree[row] * other).sqrt()
            known, place = torch.unique(col, return_inverse=True)
            table = self.maps.table(m, self.item_features).index_select(0, known)
            gate = purifier(self.maps.lin(m)(table)).sigmoid()
            x = ids.index_select(0, known) * gate
            x = x.index_select(0, place) * weight.unsqueeze(-1)
            out[m] = ids.new_zeros(new.num_items, self.channels).index_add_(0, row, x)
        return out

    def fuse_new_items(self, codes: Mapping[str, Tensor], new: NewItems) -> Tensor:
        behavior = self.item_emb.weight.new_zeros(new.num_items, self.channels)
        return self.side(list(codes.values()), behavior, new.masks)

    def item_degree(self, name: str) -> Tensor | None:
        r"""Returns the sum of similarities of each item to its neighbors, ``[I]``, :obj:`None` if
        unknown.
        """
        return None

    def attend(self, x: list[Tensor], masks: list[Tensor] | None) -> Tensor:
        r"""Returns the attention over modalities per row, ``[M, N, 1]``, zero for missing ones."""
        logit = self.attention(torch.stack(x))
        if masks is None:
            return logit.softmax(dim=0)
        mask = torch.stack(masks).unsqueeze(-1)
        # A row without any modality would be a softmax over nothing.
        logit = logit.masked_fill(~mask, float('-inf')).masked_fill(~mask.any(dim=0), 0.0)
        return logit.softmax(dim=0) * mask

    def divisor(self, x: list[Tensor], masks: list[Tensor] | None) -> float | Tensor:
        r"""Returns one plus the number of modalities of each row."""
        if masks is None:
            return len(x) + 1.0
        return 1.0 + torch.stack(masks).sum(dim=0).unsqueeze(-1)

    def contrast(
        self, anchor: Tensor, candidate: Tensor, anchor_index: Tensor, candidate_index: Tensor
    ) -> Tensor:
        r"""Contrasts rows by their cosine similarity, see
        :func:`~mrdib_pyg.ops.contrastive_loss`.
        """
        if not has_fixed_shapes():  # only the rows that the pairs name
            rows, anchor_index = torch.unique(anchor_index, return_inverse=True)
            anchor = anchor.index_select(0, rows)
            rows, candidate_index = torch.unique(candidate_index, return_inverse=True)
            candidate = candidate.index_select(0, rows)
        anchor, candidate = F.normalize(anchor, dim=-1), F.normalize(candidate, dim=-1)
        return contrastive_loss(anchor, candidate, anchor_index, candidate_index, self.temperature)

    def contrast_sides(self, embeddings: Embeddings, batch: Triplets) -> Tensor:
        r"""Contrasts the fused codes of users and of positive items with their behavior view."""
        side, behavior = embeddings.views['side'], embeddings.views['behavior']
        pairs = zip(side, behavior, batch[:2])
        return torch.stack([self.contrast(x, y, index, index) for x, y, index in pairs]).sum()
