from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.bottleneck import Posterior, product_of_experts
from mrdib_pyg.nn.modality_conv import ModalityConv
from mrdib_pyg.nn.models.batch import batch_squares, propagate_rows
from mrdib_pyg.nn.models.cold_start import NewItems
from mrdib_pyg.nn.models.features import ModalityDict
from mrdib_pyg.nn.models.recommender import (
    Embeddings,
    Layer,
    Pair,
    Recommender,
    Rows,
    Triplets,
    _sum,
)

FUSIONS = ('sum', 'attention', 'mlp', 'product_of_experts')


class MultimodalLightGCN(Recommender):
    r"""The reference model of this package: one :class:`~mrdib_pyg.nn.ModalityConv` per modality
    with learned user preferences, an ID channel propagated as in `"LightGCN: Simplifying and
    Powering Graph Convolution Network for Recommendation" <https://arxiv.org/abs/2002.02126>`_, and
    a fusion,

    .. math::
        \mathbf{y} = \mathbf{h}^{(id)} + \mathrm{fuse}(\mathbf{z}_1, \ldots, \mathbf{z}_M), \quad
        s(u, i) = \langle \mathbf{y}_u, \mathbf{y}_i \rangle

    MRdIB encodes users and items of each modality between its graph convolution and the fusion.
    With an ID channel, the encoded features :math:`\mathbf{x}` are divided by their width, so that
    codes start as small as IDs and learn no faster.

    Fusion and message passing leave missing modalities out. An item without any is scored by its
    ID. An item unseen in training counts as an item without edges, :math:`(\mathbf{x} \mathbf{W} +
    \mathbf{b}) / (L + 1)` per modality, with zero for the ID channel.

    Args:
        data (HeteroData): The training graph with item features.
        channels (int, optional): The width of every representation. (default: :obj:`64`)
        num_layers (int, optional): The number of propagation layers; 0 leaves the graph out.
            (default: :obj:`2`)
        fusion (str, optional): How codes become one embedding: :obj:`"sum"`; :obj:`"attention"`,
            a softmax over modalities per node; :obj:`"mlp"`, a two-layer perceptron on the item's
            concatenated codes (users are summed), the only one that can express synergy;
            :obj:`"product_of_experts"`, the product of the posteriors and a standard normal prior.
            (default: :obj:`"sum"`)
        id_channel (bool, optional): If set to :obj:`False`, the model scores by content alone.
            (default: :obj:`True`)
        num_encoder_layers (int, optional): 1 for a linear map of the features, 2 for a hidden
            layer of :obj:`2 * channels` before it. (default: :obj:`1`)
        l2_weight (float, optional): The default weight of :obj:`l2`, half the squared norms of the
            embedding rows of a batch, divided by its size. (default: :obj:`1e-4`)
        feature_scaling (str, optional): See :class:`Recommender`. (default: :obj:`"standard"`)
        mrdib (MRdIB, optional): See :class:`Recommender`. (default: :obj:`None`)
        **kwargs (optional): :obj:`task` and :obj:`num_negatives` of :class:`Recommender`.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    splits_channels = True

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 2,
        fusion: str = 'sum',
        id_channel: bool = True,
        num_encoder_layers: int = 1,
        l2_weight: float = 1e-4,
        feature_scaling: str | None = 'standard',
        mrdib: None | Layer | Mapping[str, Any] = None,
        **kwargs: Any,
    ) -> None:
        if fusion not in FUSIONS:
            raise ValueError(f"'fusion' must be one of {list(FUSIONS)} (got '{fusion}')")
        if num_encoder_layers not in (1, 2):
            raise ValueError(f"'num_encoder_layers' must be 1 or 2 (got {num_encoder_layers})")
        super().__init__(data, channels, mrdib, feature_scaling, **kwargs)
        self.num_layers = num_layers
        self.fusion = fusion
        self.fuse_posteriors = fusion == 'product_of_experts'
        self.id_channel = id_channel
        self.num_encoder_layers = num_encoder_layers
        self.l2_weight = l2_weight

        hidden = 2 * channels
        self.preferences, self.encoders, self.convs = (ModalityDict() for _ in range(3))
        for m in self.modalities:
            width = self.features(m).size(1)
            self.preferences[m] = nn.Embedding(self.num_users, channels)
            if num_encoder_layers == 2:
                self.encoders[m] = nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU())
                width = hidden
            self.convs[m] = ModalityConv(width, channels, num_layers)
        if id_channel:
            self.user_emb = nn.Embedding(self.num_users, channels)
            self.item_emb = nn.Embedding(self.num_items, channels)
        if fusion == 'attention':
            self.attention = nn.Sequential(
                nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, 1, bias=False)
            )
        elif fusion == 'mlp':
            self.mlp = nn.Sequential(
                nn.Linear(len(self.modalities) * channels, hidden),
                nn.ReLU(),
                nn.Linear(hidden, channels),
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.xavier_uniform_(module.weight)
        for conv in self.convs.values():
            conv.reset_parameters()  # type: ignore[operator]
        names = [name for name in ('attention', 'mlp') if hasattr(self, name)]
        for block in [*self.encoders.values(), *(getattr(self, name) for name in names)]:
            for module in block:
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    @property
    def loss_weights(self) -> dict[str, float]:
        return {'task': 1.0, 'l2': self.l2_weight}

    def modality_embeddings(self, rows: Rows | None = None) -> dict[str, Pair]:
        # Without a graph a row needs no other row's features.
        local = rows if self.num_layers == 0 else None
        present = self.present(local)
        out: dict[str, Pair] = {}
        for m in self.modalities:
            user: Any = self.preferences[m].weight
            conv = self.convs[m]
            assert isinstance(conv, ModalityConv)
            x = self.item_features(m, None if local is None else local.item)
            if local is not None:
                (user,) = self.whole(user.index_select(0, local.user))
                out[m] = (user, conv.lin(self._encode(m, x)))
                continue
            x = self.to_channels(self._encode(m, x, is_split=True), conv.lin)
            if present is not None:  # the map of missing features must not reach the neighbors
                x = x * present[m][1].unsqueeze(-1)
            (user, x), _ = propagate_rows((user, x), self.adj, self.num_layers, rows)
            user, x = self.whole(user, x)
            out[m] = (user, x)
        return out

    def new_item_codes(self, new: NewItems) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for m, x in new.x.items():
            conv = self.convs[m]
            assert isinstance(conv, ModalityConv)
            x = conv.lin(self._encode(m, x)) * new.present[m].unsqueeze(-1)
            out[m] = x / (self.num_layers + 1)  # the mean over layers, all others being zero
        return out

    def fuse_new_items(self, codes: Mapping[str, Any], new: NewItems) -> Tensor:
        return self._fuse(list(codes.values()), new.masks, side=1)

    def fuse(self, codes: Mapping[str, Any], rows: Rows | None = None) -> Embeddings:
        present = self.present(rows)
        user, item = (
            self._fuse(
                [code[side] for code in codes.values()],
                None if present is None else [present[m][side] for m in codes],  # type: ignore[misc]
                side,
            )
            for side in (0, 1)
        )
        views = {}
        if self.id_channel:
            ego = (self.user_emb.weight, self.item_emb.weight)
            (x, y), ego = propagate_rows(ego, self.adj, self.num_layers, rows)
            x, y, ego_user, ego_item = self.whole(x, y, *ego)
            views['id'], views['ego'] = (x, y), (ego_user, ego_item)
            user, item = views['id'][0] + user, views['id'][1] + item
        return Embeddings(user, item, views)

    def extra_losses(self, embeddings: Embeddings, batch: Triplets) -> dict[str, Tensor]:
        r"""Half the squared norms of the batch's rows: of the ID tables or, without an ID channel,
        of the final embeddings.
        """
        user, item = embeddings.views.get('ego', (embeddings.user, embeddings.item))
        total = batch_squares(user, item, batch).sum()
        return {'l2': 0.5 * total / batch.src_index.numel()}

    def _encode(self, name: str, x: Tensor, is_split: bool = False) -> Tensor:
        if name in self.encoders:
            encoder = self.encoders[name]
            x = self.repeat(encoder, x) if is_split else encoder(x)
        # Adam moves each weight by the learning rate. Divided by the width, a code starts as small
        # and moves as far as a row of the ID table. Otherwise features drown the ID channel.
        return x / x.size(-1) if self.id_channel else x

    def _fuse(self, codes: list[Any], masks: list[Tensor] | None, side: int) -> Tensor:
        # The codes of users (side 0) or items (side 1), and which of them have each modality.
        if self.fusion == 'product_of_experts':
            posteriors = [x if isinstance(x, Posterior) else Posterior(x, x) for x in codes]
            return product_of_experts(posteriors, masks, training=self.training).z
        if self.fusion == 'attention':
            return self._attend(torch.stack(codes, dim=1), masks)
        if masks is not None:
            codes = [x * mask.unsqueeze(-1) for x, mask in zip(codes, masks)]
        if self.fusion == 'sum' or side == 0:
            return _sum(codes)
        item = self.mlp(torch.cat(codes, dim=-1))
        if masks is not None:  # the output of the perceptron for zeros is not content
            item = item * torch.stack(masks).any(dim=0).unsqueeze(-1)
        return item

    def _attend(self, x: Tensor, masks: list[Tensor] | None) -> Tensor:
        logit = self.attention(x).squeeze(-1)
        if masks is not None:
            mask = torch.stack(masks, dim=1)
            logit = logit.masked_fill(~mask, float('-inf'))
            # A row without any modality would be a softmax over nothing.
            logit = torch.where(mask.any(dim=1, keepdim=True), logit, torch.zeros_like(logit))
            x = x * mask.unsqueeze(-1)
        return (logit.softmax(dim=1).unsqueeze(-1) * x).sum(dim=1)
