import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models.batch import check_at_least, take_rows, weighted_sum
from mrdib_pyg.nn.models.cold_start import NewItems
from mrdib_pyg.nn.models.features import ModalityDict, available, unit_rows
from mrdib_pyg.nn.models.multi_view import weighted_graph
from mrdib_pyg.nn.models.recommender import (
    Embeddings,
    Layer,
    Pair,
    Recommender,
    Rows,
    Triplets,
    _sum,
)
from mrdib_pyg.ops import propagate
from mrdib_pyg.transforms import UserCooccurrence

#: The weight of the task loss: the model was tuned with logarithms to base 2.
LOSS_SCALE = 1.0 / math.log(2.0)
USER_EDGE = ('user', 'cooccurrence', 'user')


class DualGNN(Recommender):
    r"""The model of `"DualGNN: Dual Graph Neural Network for Multimedia Recommendation"
    <https://doi.org/10.1109/TMM.2021.3138298>`_: one graph convolution per modality, weights of the
    modalities per user, and a second graph between users with common items.

    .. math::
        \mathbf{X}_m &= \sum_{l=0}^{L} \hat{\mathbf{A}}^l \, [\bar{\mathbf{Q}}_m;
        \overline{\mathrm{MLP}_m(\mathbf{F}_m)}], \quad
        \mathbf{g}_u = \sum_m \omega_{u,m} \mathbf{x}_{m,u} \\
        \mathbf{p}_u &= \mathbf{g}_u + \sum_v w_{uv} \mathbf{g}_v, \quad
        \mathbf{q}_i = \sum_m \mathbf{x}_{m,i}, \quad
        s(u, i) = \langle \mathbf{p}_u, \mathbf{q}_i \rangle

    where the bar scales rows to unit norm and :math:`w` are the weights of
    :class:`~mrdib_pyg.transforms.UserCooccurrence`. There is no ID table: an item consists of its
    content and its users' preferences :math:`\mathbf{Q}_m`.

    MRdIB encodes users and items of :math:`\mathbf{X}_m`, before :math:`\omega` and the user graph.
    Given the user, the score is a sum over the item's modalities and cannot carry synergy.

    Differences from public code: :math:`\omega` is a softmax of free logits that start at zero, our
    reading of the paper's attention (public code applies a softmax only to the initial weights);
    users with few neighbors get no random repeats in every epoch; the item weight table, which no
    score reads, is left out. In both, the hops are summed rather than averaged, and the task loss
    is scaled by :math:`1 / \ln 2`, here as its default weight.

    Where modalities are missing, an item's sum covers those it has, and a user's softmax those of
    the user's items. A node without any modality keeps the messages of its neighbors.

    An item unseen in training gets its features alone, :math:`\sum_m
    \overline{\mathrm{MLP}_m(\mathbf{F}_m)}`.

    Args:
        data (HeteroData): The training graph with item features. Edges ``('user', 'cooccurrence',
            'user')`` with an ``edge_weight``, if present, form the user graph.
        channels (int, optional): The width of the embeddings; the maps of the features have a
            hidden layer of four times this. (default: :obj:`64`)
        num_layers (int, optional): The number of hops :math:`L`. (default: :obj:`2`)
        num_neighbors (int, optional): The neighbors of a user in the user graph.
            (default: :obj:`40`)
        neighbor_weighting (str, optional): :obj:`"softmax"` over the numbers of common items, or
            :obj:`"mean"`. (default: :obj:`"softmax"`)
        reg_weight (float, optional): The default weight of :obj:`reg`, the mean squares of the
            batch's preferences and of :math:`\omega`. The default is the authors' for micro-videos;
            none is published for Baby, Sports or Clothing. (default: :obj:`0.1`)
        feature_scaling (str, optional): See :class:`Recommender`. (default: :obj:`None`)
        mrdib (MRdIB, optional): See :class:`Recommender`. (default: :obj:`None`)
        **kwargs (optional): :obj:`task` and :obj:`num_negatives` of :class:`Recommender`.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    # A user's embedding reads the codes of the neighbors in the user graph.
    row_wise = False

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 2,
        num_neighbors: int = 40,
        neighbor_weighting: str = 'softmax',
        reg_weight: float = 0.1,
        feature_scaling: str | None = None,
        mrdib: None | Layer | Mapping[str, Any] = None,
        **kwargs: Any,
    ) -> None:
        check_at_least(0, num_layers=num_layers)
        check_at_least(1, num_neighbors=num_neighbors)
        if neighbor_weighting not in ('softmax', 'mean'):
            raise ValueError(
                f"'neighbor_weighting' must be 'softmax' or 'mean' (got '{neighbor_weighting}')"
            )
        super().__init__(data, channels, mrdib, feature_scaling, **kwargs)
        self.num_layers = num_layers
        self.num_neighbors = num_neighbors
        self.neighbor_weighting = neighbor_weighting
        self.reg_weight = reg_weight
        transform = UserCooccurrence(num_neighbors, neighbor_weighting)
        self.user_adj = weighted_graph(data, USER_EDGE, transform)
        self.preferences, self.encoders = ModalityDict(), ModalityDict()
        for m in self.modalities:
            self.preferences[m] = nn.Embedding(self.num_users, channels)
            self.encoders[m] = nn.Sequential(
                nn.Linear(self.features(m).size(1), 4 * channels),
                nn.LeakyReLU(),
                nn.Linear(4 * channels, channels),
            )
        self.attention = nn.Parameter(torch.empty(self.num_users, len(self.modalities)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for m in self.modalities:
            nn.init.xavier_normal_(self.preferences[m].weight)  # type: ignore[arg-type]
            for module in self.encoders[m].modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
        nn.init.zeros_(self.attention)

    @property
    def loss_weights(self) -> dict[str, float]:
        return {'task': LOSS_SCALE, 'reg': self.reg_weight}

    def modality_embeddings(self, rows: Rows | None = None) -> dict[str, Pair]:
        present = self.present()
        out: dict[str, Pair] = {}
        for m in self.modalities:
            item = self.encoders[m](self.item_features(m))
            if present is not None:  # the map of missing features is not zero
                item = item * present[m][1].unsqueeze(-1)
            table: Any = self.preferences[m]
            x_user, x_item = user, item = unit_rows(table.weight), unit_rows(item)
            for _ in range(self.num_layers):
                x_user, x_item = propagate(x_item, self.adj), propagate(x_user, self.adj.t())
                user, item = user + x_user, item + x_item
            out[m] = take_rows(user, item, rows)
        return out

    def fuse(self, codes: Mapping[str, Pair], rows: Rows | None = None) -> Embeddings:
        if rows is not None:
            raise ValueError("'rows' must be None: the user graph needs the codes of all users")
        users: list[Any] = [pair[0] for pair in codes.values()]
        items = [pair[1] for pair in codes.values()]
        user = weighted_sum(users, self._omega())
        user = user + propagate(user, self.user_adj)
        present = self.present()
        masks = None if present is None else [pair[1] for pair in present.values()]
        return Embeddings(user, _sum_available(items, masks))

    def new_item_codes(self, new: NewItems) -> dict[str, Tensor]:
        return {
            m: unit_rows(self.encoders[m](x) * new.present[m].unsqueeze(-1))
            for m, x in new.x.items()
        }

    def fuse_new_items(self, codes: Mapping[str, Tensor], new: NewItems) -> Tensor:
        return _sum_available(list(codes.values()), new.masks)

    def extra_losses(self, embeddings: Embeddings, batch: Triplets) -> dict[str, Tensor]:
        tables: list[Any] = [table.weight for table in self.preferences.children()]
        rows = [table.index_select(0, batch.src_index) for table in tables]
        return {'reg': sum(x.square().mean() for x in rows) + self._omega().square().mean()}

    def _omega(self) -> Tensor:
        present = self.present()
        if present is None:
            return self.attention.softmax(dim=1)
        mask = available([pair[0] for pair in present.values()])  # type: ignore[misc]
        return self.attention.masked_fill(~mask, float('-inf')).softmax(dim=1)


def _sum_available(codes: list[Tensor], masks: list[Tensor] | None) -> Tensor:
    return _sum(codes) if masks is None else weighted_sum(codes, available(masks))
