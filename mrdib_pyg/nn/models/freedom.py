from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models.batch import (
    bpr_loss,
    check_at_least,
    propagate_rows,
    to_local,
    weighted_sum,
)
from mrdib_pyg.nn.models.cold_start import NewItems
from mrdib_pyg.nn.models.features import FeatureMaps
from mrdib_pyg.nn.models.multi_view import weighted_graph
from mrdib_pyg.nn.models.recommender import Embeddings, Layer, Pair, Recommender, Rows, Triplets
from mrdib_pyg.ops import NormalizedAdjacency, propagate
from mrdib_pyg.ops._fixed_shapes import has_fixed_shapes
from mrdib_pyg.ops.item_graphs import prune_edges
from mrdib_pyg.transforms import ItemGraphUnion, ItemKNN
from mrdib_pyg.transforms.item_graphs import item_weights, modality_weights, share

SLOTS = ('graph', 'projection')


class FREEDOM(Recommender):
    r"""FREEDOM from `"A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
    Recommendation" <https://arxiv.org/abs/2211.06924>`_: an ID channel, propagated over the
    user-item graph (in training a sample of its edges, redrawn in each epoch), and a frozen item
    graph built from the features,

    .. math::
        s(u, i) = \langle \tilde{\mathbf{u}}_u, \tilde{\mathbf{i}}_i + \mathbf{h}_i \rangle,
        \quad \mathbf{h} = \sum_m w_m \mathbf{S}_m \mathbf{E}_I

    with :math:`\mathbf{S}_m` of :class:`~mrdib_pyg.transforms.ItemKNN` in the binary form, or the
    edges ``('item', '<modality>_knn', 'item')`` of the data. The term :obj:`content` is
    the Bayesian personalized ranking loss of :math:`\langle \tilde{\mathbf{u}}_u, \mathbf{W}_m
    \mathbf{f}_{m,i} \rangle`, summed over modalities, over the triplets whose items both have the
    modality.

    MRdIB's paper does not name its place in FREEDOM. With :obj:`slot="graph"` it encodes
    :math:`\mathbf{S}_m \mathbf{E}_I`, which the score reads. With :obj:`slot="projection"` it
    encodes :math:`\mathbf{W}_m \mathbf{f}_{m,i}`, **which never reaches the ranking score**: the
    codes act through :obj:`content` alone and, with a weight, through a further term :obj:`joint`,
    the ranking loss of :math:`\langle \tilde{\mathbf{u}}_u, \tilde{\mathbf{i}}_i + \sum_m w_m
    \mathbf{z}_{m,i} \rangle`. Users have no representation per modality in either slot.

    Differences from public code: features are frozen unless :obj:`trainable_features` is set; edges
    are drawn by :func:`~mrdib_pyg.ops.prune_edges`; the projections have no bias, which would
    cancel in the difference of two scores; the weight of a missing modality is shared among the
    item's others.

    An item unseen in training gets :math:`\mathbf{h}_i` from its :math:`k - 1` nearest items by
    features, and zero for the ID channel.

    Args:
        data (HeteroData): The training graph with item features.
        channels (int, optional): The width of every representation. (default: :obj:`64`)
        num_layers (int, optional): The number of layers over the user-item graph.
            (default: :obj:`2`)
        k (int, optional): The number of neighbors in the item graph, the item included.
            (default: :obj:`10`)
        edge_dropout (float, optional): The ratio of edges dropped in an epoch; published are 0.8
            and 0.9. (default: :obj:`0.8`)
        content_weight (float, optional): The default weight of :obj:`content`; published are 0,
            1e-5, 1e-4 and 1e-3. (default: :obj:`1e-3`)
        modality_weights (dict[str, float], optional): The weight of each modality in the item
            graph. (default: :obj:`None`: 0.1 for images and 0.9 for texts where these are the two
            modalities, equal ones elsewhere)
        slot (str, optional): What MRdIB encodes: :obj:`"graph"` or :obj:`"projection"`.
            (default: :obj:`"graph"`)
        trainable_features (bool, optional): If set to :obj:`True`, features are parameters, as in
            published results. (default: :obj:`False`)
        feature_scaling (str, optional): See :class:`Recommender`; the item graph does not depend
            on it. (default: :obj:`None`)
        mrdib (MRdIB, optional): See :class:`Recommender`. (default: :obj:`None`)
        **kwargs (optional): :obj:`task` and :obj:`num_negatives` of :class:`Recommender`.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    user_codes = False
    splits_channels = True
    #: The best edge ratio and weight per data set are not published: choose them on the validation
    #: edges. These settings are common to all published results.
    presets = {
        name: {'k': 10, 'num_layers': 2, 'modality_weights': {'image': 0.1, 'text': 0.9}}
        for name in ('baby', 'sports', 'clothing')
    }

    item_weight: Tensor

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 2,
        k: int = 10,
        edge_dropout: float = 0.8,
        content_weight: float = 1e-3,
        modality_weights: Mapping[str, float] | None = None,
        slot: str = 'graph',
        trainable_features: bool = False,
        feature_scaling: str | None = None,
        mrdib: None | Layer | Mapping[str, Any] = None,
        **kwargs: Any,
    ) -> None:
        if slot not in SLOTS:
            raise ValueError(f"'slot' must be one of {list(SLOTS)} (got {slot!r})")
        if not 0 <= edge_dropout < 1:
            raise ValueError(f"'edge_dropout' must lie in [0, 1) (got {edge_dropout})")
        check_at_least(0, num_layers=num_layers)
        super().__init__(data, channels, mrdib, feature_scaling, **kwargs)
        self.num_layers = num_layers
        self.k = k
        self.edge_dropout = edge_dropout
        self.content_weight = content_weight
        self.modality_weights = None if modality_weights is None else dict(modality_weights)
        self.slot = slot
        self.trainable_features = trainable_features

        weight = item_weights(data, self.modalities, self.modality_weights)
        self.register_buffer('item_weight', weight, persistent=False)
        if slot == 'graph':
            for m in self.modalities:
                knn = ItemKNN(k, m, form='binary')
                graph = weighted_graph(data, ('item', f'{m}_knn', 'item'), knn, is_mean=True)
                setattr(self, f'item_adj_{m}', graph)
        else:  # by the weights of this model, as in the other slot
            union = ItemGraphUnion(self.modality_weights, k)(data)
            self.item_adj = weighted_graph(union, ('item', 'union', 'item'), is_mean=True)
        self.pruned_adj: NormalizedAdjacency | None = None

        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        self.maps = FeatureMaps(self.item_features, channels, False, trainable_features)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.xavier_uniform_(self.user_emb.weight)
        nn.init.xavier_uniform_(self.item_emb.weight)
        self.maps.reset_parameters(self.item_features)

    @property
    def loss_weights(self) -> dict[str, float]:
        weights = {'task': 1.0, 'content': self.content_weight}
        if self.slot == 'projection' and self.mrdib is not None:
            weights['joint'] = 0.0  # as the other terms of MRdIB
        return weights

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        r"""Draws the edges that are used in the training of this epoch."""
        if self.edge_dropout == 0:
            return
        num_nodes = (self.num_users, self.num_items)
        kept = prune_edges(
            self.train_edge_index, self.edge_dropout, num_nodes=num_nodes, generator=generator
        )
        adj = NormalizedAdjacency(self.train_edge_index[:, kept], num_nodes=num_nodes)
        self.pruned_adj = adj.to(self.item_emb.weight.dtype)

    def modality_embeddings(self, rows: Rows | None = None) -> dict[str, Pair]:
        ids = None if rows is None else rows.item
        if self.slot == 'projection':
            return {m: (None, self.maps(m, self.item_features, ids)) for m in self.modalities}
        out: dict[str, Pair] = {}
        for m in self.modalities:
            h = propagate(self.item_emb.weight, getattr(self, f'item_adj_{m}'))
            (h,) = self.whole(h if ids is None else h.index_select(0, ids))
            out[m] = (None, h)
        return out

    def fuse(self, codes: Mapping[str, Pair], rows: Rows | None = None) -> Embeddings:
        adj = self.adj
        if self.training and self.pruned_adj is not None:
            adj = self.pruned_adj
        ego = (self.user_emb.weight, self.item_emb.weight)
        (user, item), _ = propagate_rows(ego, adj, self.num_layers, rows)
        user, item = self.whole(user, item)
        views: dict[str, tuple[Tensor, Tensor]] = {}
        if rows is not None:
            views['rows'] = (rows.user, rows.item)
        if self.slot == 'graph':
            return Embeddings(user, item + self._weigh(codes, rows), views)
        h = propagate(self.item_emb.weight, self.item_adj)
        views['propagated'] = (user, item)
        for m, (_, code) in codes.items():
            views[f'code_{m}'] = (user, code)
        if self.mrdib is not None:
            views['joint'] = (user, item + self._weigh(codes, rows))
        (h,) = self.whole(h if rows is None else h.index_select(0, rows.item))
        return Embeddings(user, item + h, views)

    @property
    def joint_is_score(self) -> bool:
        r"""Whether the codes reach the ranking score."""
        return self.slot == 'graph'

    def joint(
        self, codes: Mapping[str, Pair], embeddings: Embeddings, rows: Rows | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.slot == 'graph':
            return super().joint(codes, embeddings, rows)
        # The codes do not reach the ranking score, but that of the term `joint`.
        if 'joint' in embeddings.views:
            return embeddings.views['joint']
        user, item = embeddings.views['propagated']
        return user, item + self._weigh(codes, rows)

    def new_item_codes(self, new: NewItems) -> dict[str, Tensor]:
        if self.slot == 'projection':
            return {m: self.maps.lin(m)(x) for m, x in new.x.items()}
        return {m: self._spread(m, new) for m in self.modalities}

    def fuse_new_items(self, codes: Mapping[str, Tensor], new: NewItems) -> Tensor:
        if self.slot == 'projection':  # the codes never reach the score
            codes = {m: self._spread(m, new) for m in self.modalities}
        given = list(modality_weights(self.modalities, self.modality_weights).values())
        has = torch.stack(list(new.present.values()), dim=1)
        first = next(iter(codes.values()))
        weight = share(first.new_tensor(given) * has)
        return torch.stack([w * x for w, x in zip(weight.split(1, 1), codes.values())]).sum(dim=0)

    def _spread(self, name: str, new: NewItems) -> Tensor:
        # A row of the item graph: the item itself, whose ID is zero, and its neighbors.
        row, col, _ = new.neighbors(name, self.k - 1)
        (table,) = self.whole(self.item_emb.weight)
        count = table.new_ones(new.num_items).index_add_(0, row, table.new_ones(row.numel()))
        out = table.new_zeros(new.num_items, self.channels)
        out.index_add_(0, row, table.index_select(0, col))
        return out / count.unsqueeze(-1)

    def extra_losses(self, embeddings: Embeddings, batch: Triplets) -> dict[str, Tensor]:
        views = embeddings.views
        src, pos, neg = batch
        user = embeddings.user.index_select(0, src)
        if 'rows' in views:
            ids = views['rows'][1]
            local = batch
        elif has_fixed_shapes():  # each item as often as the batch has it
            ids, place = torch.cat([pos, neg]), torch.arange(2 * pos.numel(), device=pos.device)
            local = Triplets(src, *place.chunk(2))
        else:  # all items are given, but only the features that the batch reads are projected
            rows, local = to_local(batch)
            ids = rows.item
        present = self.present()
        content = user.new_zeros(())
        for m in self.modalities:
            if self.slot == 'projection':
                x = views[f'code_{m}'][1]
                pos_x, neg_x = x.index_select(0, pos), x.index_select(0, neg)
            else:
                x = self.maps(m, self.item_features, ids)
                pos_x = x.index_select(0, local.dst_pos_index)
                neg_x = x.index_select(0, local.dst_neg_index)
            loss = F.softplus((user * (neg_x - pos_x)).sum(dim=-1))
            if present is None:
                content = content + loss.mean()
                continue
            has = present[m][1][ids]
            both = (has[local.dst_pos_index] & has[local.dst_neg_index]).to(loss.dtype)
            content = content + (loss * both).sum() / both.sum().clamp(min=1)
        terms = {'content': content}
        if 'joint' in views:
            terms['joint'] = bpr_loss(*views['joint'], batch)
        return terms

    def _weigh(self, codes: Mapping[str, Pair], rows: Rows | None) -> Tensor:
        weight = self.item_weight if rows is None else self.item_weight[rows.item]
        present = self.present(rows)
        if present is None:  # all rows are alike
            weight = weight[:1]
        elif self.item_features.is_dropping:  # shared among those left
            mask = torch.stack([present[m][1] for m in codes], dim=1)
            weight = share(weight * mask)
        return weighted_sum([item for _, item in codes.values()], weight)
