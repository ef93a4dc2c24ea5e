from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models.batch import batch_norms, take_rows
from mrdib_pyg.nn.models.cold_start import NewItems
from mrdib_pyg.nn.models.features import ModalityDict
from mrdib_pyg.nn.models.recommender import Embeddings, Layer, Pair, Recommender, Rows, Triplets


class VBPR(Recommender):
    r"""The multimodal form of `"VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback"
    <https://arxiv.org/abs/1510.01784>`_, the usual baseline of multimodal recommendation, without
    item biases and with one content map per modality,

    .. math::
        s(u, i) = \langle \mathbf{p}_u, \mathbf{e}_i \rangle + \langle \theta_u, \mathbf{c}_i
        \rangle, \quad \mathbf{c}_i = \sum_m \mathbf{W}_m \mathbf{f}_{m,i} + \mathbf{b}

    MRdIB encodes :math:`\mathbf{W}_m \mathbf{f}_{m,i}`. Users have no code per modality and score
    by :math:`\theta_u`. Given the user, the score is a sum over modalities: it has no synergy.

    An item unseen in training gets its content :math:`\mathbf{c}_i`, and zero for
    :math:`\mathbf{e}_i`.

    Args:
        data (HeteroData): The training graph with item features.
        channels (int, optional): The width of the ID factors and of the content factors.
            (default: :obj:`64`)
        reg_weight (float, optional): The default weight of :obj:`reg`, the unsquared norms of the
            embeddings of a batch, divided by its size. (default: :obj:`1e-3`)
        feature_scaling (str, optional): See :class:`Recommender`. (default: :obj:`None`)
        mrdib (MRdIB, optional): See :class:`Recommender`. (default: :obj:`None`)
        **kwargs (optional): :obj:`task` and :obj:`num_negatives` of :class:`Recommender`.
    """

    user_codes = False
    splits_channels = True
    presets = {
        'baby': {'reg_weight': 1.0},
        'sports': {'reg_weight': 1.0},
        'clothing': {'reg_weight': 0.1},
    }

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        reg_weight: float = 1e-3,
        feature_scaling: str | None = None,
        mrdib: None | Layer | Mapping[str, Any] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data, channels, mrdib, feature_scaling, **kwargs)
        self.reg_weight = reg_weight
        self.user_emb = nn.Embedding(self.num_users, 2 * channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        self.lins = ModalityDict(
            {m: nn.Linear(self.features(m).size(1), channels, bias=False) for m in self.modalities}
        )
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.xavier_uniform_(self.user_emb.weight)
        nn.init.xavier_uniform_(self.item_emb.weight)
        # The maps are one linear layer on the concatenated features: they share its fan-in.
        fan_in = sum(self.features(m).size(1) for m in self.modalities)
        for lin in self.lins.values():
            assert isinstance(lin, nn.Linear)
            nn.init.normal_(lin.weight, std=(2.0 / (fan_in + self.channels)) ** 0.5)
        nn.init.zeros_(self.bias)

    @property
    def out_channels(self) -> int:
        r"""The width of the embeddings: ID factors and content factors side by side."""
        return 2 * self.channels

    @property
    def loss_weights(self) -> dict[str, float]:
        return {'task': 1.0, 'reg': self.reg_weight}

    def modality_embeddings(self, rows: Rows | None = None) -> dict[str, Pair]:
        item = None if rows is None else rows.item
        return {m: (None, self.map_features(m, self.lins[m], item)) for m in self.modalities}

    def fuse(self, codes: Mapping[str, Pair], rows: Rows | None = None) -> Embeddings:
        user, item = take_rows(self.user_emb.weight, self.item_emb.weight, rows)
        (user,), (item,) = self.whole(user, channels=2 * self.channels), self.whole(item)
        content = self.sum_items(codes, rows) + self.bias
        return Embeddings(user, torch.cat([item, content], dim=-1))

    def new_item_codes(self, new: NewItems) -> dict[str, Tensor]:
        return {m: self.lins[m](x) for m, x in new.x.items()}

    def fuse_new_items(self, codes: Mapping[str, Tensor], new: NewItems) -> Tensor:
        content = new.sum(codes) + self.bias
        return torch.cat([torch.zeros_like(content), content], dim=-1)

    def unimodal(
        self, codes: Mapping[str, Pair], embeddings: Embeddings
    ) -> dict[str, tuple[Tensor, Tensor]]:
        # Contiguous once, not once for each modality.
        theta = embeddings.user[:, self.channels :].contiguous()
        return {name: (theta, item) for name, (_, item) in codes.items()}

    def extra_losses(self, embeddings: Embeddings, batch: Triplets) -> dict[str, Tensor]:
        norms = batch_norms(embeddings.user, embeddings.item, batch)
        return {'reg': norms / batch.src_index.numel()}
