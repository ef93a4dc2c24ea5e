from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.bottleneck import module_key
from mrdib_pyg.nn.models.batch import check_at_least, take_rows
from mrdib_pyg.nn.models.cold_start import NewItems
from mrdib_pyg.nn.models.features import ModalityDict, reset_tables, trained_tables, unit_rows
from mrdib_pyg.nn.models.recommender import Embeddings, Layer, Pair, Recommender, Rows, Triplets
from mrdib_pyg.nn.mrdib import MRdIB
from mrdib_pyg.ops import propagate_mean
from mrdib_pyg.ops._fixed_shapes import has_fixed_shapes


class BM3(Recommender):
    r"""The model of `"Bootstrap Latent Representations for Multi-modal Recommendation"
    <https://arxiv.org/abs/2207.05969>`_, which learns from positive pairs alone: a predictor maps
    one view of a user or an item to a perturbed other view.

    .. math::
        [\mathbf{P}_0; \tilde{\mathbf{Q}}] &= \frac{1}{L+1} \sum_{l=0}^{L} \hat{\mathbf{A}}^l \,
        [\mathbf{E}_U; \mathbf{E}_I], \quad \mathbf{Q}_0 = \tilde{\mathbf{Q}} + \mathbf{E}_I \\
        \mathcal{L} &= \mathcal{C}(\mathcal{P}(\mathbf{p}_u), \hat{\mathbf{q}}_i) +
        \mathcal{C}(\mathcal{P}(\mathbf{q}_i), \hat{\mathbf{p}}_u) + \lambda_c \sum_m
        [\mathcal{C}(\mathcal{P}(\mathbf{t}_{m,i}), \hat{\mathbf{q}}_i) +
        \mathcal{C}(\mathcal{P}(\mathbf{t}_{m,i}), \hat{\mathbf{t}}_{m,i})] \\
        s(u, i) &= \langle \mathcal{P}(\mathbf{p}_u), \mathcal{P}(\mathbf{q}_i) \rangle

    where :math:`\mathcal{P}` is the predictor, a linear layer, :math:`\mathcal{C}` one minus the
    mean cosine over the batch, :math:`\mathbf{t}_m` a linear map of the features, and the hat stops
    the gradient and drops entries.

    MRdIB encodes :math:`\mathbf{t}_m` of items. **Its codes never reach the ranking score**: they
    shape the ID tables through the loss. So :obj:`synergistic` is a term of its own here, the loss
    of a joint predictor :math:`\langle \mathcal{P}(\mathbf{p}_u),
    \mathcal{P}(\mathbf{q}_i + \frac{1}{M} \sum_m \mathbf{z}_{m,i}) \rangle`, of weight zero by
    default. Only MRdIB's terms read the negatives of a batch.

    Differences from public code: features are frozen unless :obj:`trainable_features` is set, and
    only the rows of a batch are mapped and dropped out, with the same distribution. In both, the
    regularizer is the norms of the whole propagated tables over the number of items.

    Where modalities are missing, the terms of :math:`\mathbf{t}_m` are means over the items that
    have them. An item unseen in training has no :math:`\mathbf{q}_i`. This package replaces it by
    the mean direction of :math:`\mathcal{P}(\mathbf{t}_{m,i})`, which :obj:`content` aligns with
    :math:`\mathbf{q}_i`, times the mean norm of the known items.

    Args:
        data (HeteroData): The training graph with item features.
        channels (int, optional): The width of the embeddings. (default: :obj:`64`)
        num_layers (int, optional): The number of propagation layers :math:`L`.
            (default: :obj:`1`)
        dropout (float, optional): The ratio of entries dropped from the targets.
            (default: :obj:`0.5`)
        reg_weight (float, optional): The default weight of :obj:`reg`, the unsquared norms of the
            propagated tables, divided by the number of items. (default: :obj:`0.1`)
        content_weight (float, optional): The default weight :math:`\lambda_c` of :obj:`content`.
            (default: :obj:`2.0`)
        trainable_features (bool, optional): If set to :obj:`True`, features are parameters, as in
            published results. (default: :obj:`False`)
        feature_scaling (str, optional): See :class:`Recommender`. (default: :obj:`None`)
        mrdib (MRdIB, optional): See :class:`Recommender`. (default: :obj:`None`)
        **kwargs (optional): :obj:`task` and :obj:`num_negatives` of :class:`Recommender`.

    Raises:
        ValueError: If a setting is out of range.
    """

    user_codes = False
    splits_channels = True
    presets = {
        'baby': {'num_layers': 1, 'dropout': 0.5, 'reg_weight': 0.1},
        'sports': {'num_layers': 1, 'dropout': 0.5, 'reg_weight': 0.01},
        'electronics': {'num_layers': 2, 'dropout': 0.3, 'reg_weight': 0.1},
        'clothing': {'num_layers': 1, 'dropout': 0.3, 'reg_weight': 0.0},
    }

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 1,
        dropout: float = 0.5,
        reg_weight: float = 0.1,
        content_weight: float = 2.0,
        trainable_features: bool = False,
        feature_scaling: str | None = None,
        mrdib: None | Layer | Mapping[str, Any] = None,
        **kwargs: Any,
    ) -> None:
        check_at_least(0, num_layers=num_layers)
        if not 0 <= dropout < 1:
            raise ValueError(f"'dropout' must lie in [0, 1) (got {dropout})")
        super().__init__(data, channels, mrdib, feature_scaling, **kwargs)
        self.num_layers = num_layers
        self.dropout = dropout
        self.reg_weight = reg_weight
        self.content_weight = content_weight
        self.trainable_features = trainable_features
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        self.lins = ModalityDict(
            {m: nn.Linear(self.features(m).size(1), channels) for m in self.modalities}
        )
        self.tables = trained_tables(self.item_features) if trainable_features else None
        self.predictor = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.xavier_uniform_(self.user_emb.weight)
        nn.init.xavier_uniform_(self.item_emb.weight)
        for lin in (*self.lins.values(), self.predictor):
            assert isinstance(lin, nn.Linear)
            lin.reset_parameters()
            nn.init.xavier_normal_(lin.weight)
        if self.tables is not None:
            reset_tables(self.tables, self.item_features)

    @property
    def loss_weights(self) -> dict[str, float]:
        weights = {'task': 1.0, 'content': self.content_weight, 'reg': self.reg_weight}
        if isinstance(self.mrdib, MRdIB):
            weights['synergistic'] = 0.0
        return weights

    def modality_embeddings(self, rows: Rows | None = None) -> dict[str, Pair]:
        item = None if rows is None else rows.item
        out: dict[str, Pair] = {}
        for m in self.modalities:
            table = None if self.tables is None else self.tables[module_key(m)]
            out[m] = None, self.map_features(m, self.lins[m], item, table)
        return out

    def fuse(self, codes: Mapping[str, Pair], rows: Rows | None = None) -> Embeddings:
        ego = (self.user_emb.weight, self.item_emb.weight)
        user, item = propagate_mean(ego, self.adj, self.num_layers)
        item = item + self.item_emb.weight
        views = {'tables': (user, item)}
        user, item = self.whole(*take_rows(user, item, rows))
        views['propagated'] = (user, item)
        if rows is not None or has_fixed_shapes() or torch.is_grad_enabled():  # a loss may follow
            views['targets'] = (self._perturb(user), self._perturb(item))
            present = self.present(rows)
            for m, (_, z) in codes.items():
                views[f'content_{m}'] = (z, self.predictor(z))
                if present is not None:
                    views[f'has_{m}'] = (present[m][1], present[m][1])
        return Embeddings(self.predictor(user), self.predictor(item), views)

    def new_item_codes(self, new: NewItems) -> dict[str, Tensor]:
        return {m: self.lins[m](x) for m, x in new.x.items()}

    def fuse_new_items(self, codes: Mapping[str, Tensor], new: NewItems) -> Tensor:
        online = {m: unit_rows(self.predictor(z)) for m, z in codes.items()}
        direction = unit_rows(new.sum(online))
        _, item = propagate_mean(
            (self.user_emb.weight, self.item_emb.weight), self.adj, self.num_layers
        )
        (item,) = self.whole(item + self.item_emb.weight)
        norm = item.norm(dim=-1).mean()
        return self.predictor(norm * direction)

    def unimodal(
        self, codes: Mapping[str, Pair], embeddings: Embeddings
    ) -> dict[str, tuple[Tensor, Tensor]]:
        views = embeddings.views
        return {
            m: (
                embeddings.user,
                views[f'content_{m}'][1] if f'content_{m}' in views else self.predictor(z),
            )
            for m, (_, z) in codes.items()
        }

    def joint(
        self, codes: Mapping[str, Pair], embeddings: Embeddings, rows: Rows | None = None
    ) -> tuple[Tensor, Tensor]:
        item, masks = embeddings.views['propagated'][1], self.present(rows)
        total = self.sum_items(codes, rows)
        if masks is None:
            mean = total / len(codes)
        else:
            count = torch.stack([has for _, has in masks.values()]).sum(dim=0)
            mean = total / count.clamp(min=1).unsqueeze(-1)
        return embeddings.user, self.predictor(item + mean)

    def task_loss(self, embeddings: Embeddings, batch: Triplets) -> Tensor:
        r"""One minus the mean cosine, from users to items and back; no negative is read."""
        src, pos, _ = batch
        user, item = (unit_rows(x) for x in embeddings[:2])
        user_target, item_target = embeddings.views['targets']
        to_item = user.index_select(0, src) * item_target.index_select(0, pos)
        to_user = item.index_select(0, pos) * user_target.index_select(0, src)
        return 2.0 - (to_item + to_user).sum(dim=-1).mean()

    def extra_losses(self, embeddings: Embeddings, batch: Triplets) -> dict[str, Tensor]:
        views, content = embeddings.views, []
        # Of the items, each positive once; without MRdIB, these are all.
        num_items, dtype = embeddings.item.size(0), embeddings.item.dtype
        rows: Tensor | None
        if has_fixed_shapes():  # or all of them, most with a weight of zero
            one = torch.ones_like(batch.dst_pos_index, dtype=dtype)
            count = one.new_zeros(num_items).index_add(0, batch.dst_pos_index, one)
            rows = None
        else:
            rows, count = torch.unique(batch.dst_pos_index, return_counts=True)
            count = count.to(dtype)
            rows = None if rows.numel() == num_items else rows
        target = _take(views['targets'][1], rows)
        for m in self.modalities:
            z, online = (_take(x, rows) for x in views[f'content_{m}'])
            cosine = (unit_rows(online) * (target + self._perturb(z))).sum(dim=-1)
            has = views[f'has_{m}'][1] if f'has_{m}' in views else None
            weight = count if has is None else count * _take(has, rows)
            content.append(((2.0 - cosine) * weight).sum() / weight.sum().clamp(min=1))
        user, item = views['tables']
        reg = (self._norm(user) + self._norm(item)) / self.num_items
        return {'content': torch.stack(content).sum(), 'reg': reg}

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        r"""As :meth:`Recommender.loss`; negatives are read only with MRdIB or a control."""
        if self.mrdib is None:
            batch = batch._replace(dst_neg_index=batch.dst_pos_index)
        return super().loss(batch)

    def _norm(self, table: Tensor) -> Tensor:
        # Of a table of which this process may hold some columns.
        if self.columns is None:
            return table.norm()
        return self.columns.sum(table.square().sum()).sqrt()

    def _perturb(self, x: Tensor) -> Tensor:
        # A target: without a gradient, with entries dropped, of unit norm.
        return unit_rows(F.dropout(x.detach(), self.dropout, self.training))


def _take(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x.index_select(0, rows)
