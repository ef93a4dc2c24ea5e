from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models.batch import batch_squares
from mrdib_pyg.nn.models.multi_view import MultiView, weighted_graph
from mrdib_pyg.nn.models.recommender import Embeddings, Layer, Triplets
from mrdib_pyg.transforms import ItemKNN


class MGCN(MultiView):
    r"""MGCN from `"Multi-View Graph Convolutional Network for Multimedia Recommendation"
    <https://arxiv.org/abs/2308.03588>`_: the features of each modality purify the ID embeddings,
    which spread over its item graph and on to users, and are fused under the guidance of the
    behavior view, that of the user-item graph,

    .. math::
        \mathbf{X}_m &= [\hat{\mathbf{R}} \mathbf{H}_m; \mathbf{H}_m], \quad \mathbf{H}_m =
        \mathbf{S}_m (\mathbf{E}_I \odot \sigma(\Gamma_m(\mathbf{F}_m \mathbf{W}_m)))

        \mathbf{Y} &= \mathbf{B} + \frac{1}{M+1} \left( \mathbf{C} + \sum_m \sigma(\Pi_m(
        \mathbf{B})) \odot (\mathbf{X}_m - \mathbf{C}) \right), \quad \mathbf{C} = \sum_m \alpha_m
        \mathbf{X}_m

    with the LightGCN embeddings :math:`\mathbf{B}` as the behavior view, an attention
    :math:`\alpha` over modalities per node, and :math:`\mathbf{S}_m` of
    :class:`~mrdib_pyg.transforms.ItemKNN` in the similarity form, or the edges ``('item',
    '<modality>_knn', 'item')`` of the data. The terms are :obj:`contrastive`, between the fusion
    and :math:`\mathbf{B}` for the users and positive items of a batch, and :obj:`reg`, half the
    squared norms of the final embeddings over the size of the batch.

    MRdIB encodes users and items of :math:`\mathbf{X}_m`, which score alone without
    :math:`\mathbf{B}`. Where modalities are missing, attention and sums cover the :math:`M` that a
    node has. Missing features spread nothing.

    An item unseen in training gets :math:`\mathbf{H}_m` from its :math:`k - 1` nearest items by
    features, and zero for :math:`\mathbf{B}`.

    Differences from public code: features are frozen unless :obj:`trainable_features` is set,
    negative similarities count as zero, and a last, short batch divides :obj:`reg` by its own size.

    Args:
        data (HeteroData): The training graph with item features.
        channels (int, optional): The width of every representation. (default: :obj:`64`)
        num_layers (int, optional): The number of layers over the user-item graph.
            (default: :obj:`2`)
        k (int, optional): The number of neighbors in the item graphs, the item included.
            (default: :obj:`10`)
        contrastive_weight (float, optional): The default weight of :obj:`contrastive`; published
            are 1e-3, 1e-2 and 1e-1. (default: :obj:`1e-2`)
        temperature (float, optional): The temperature of :obj:`contrastive`.
            (default: :obj:`0.2`)
        reg_weight (float, optional): The default weight of :obj:`reg`. (default: :obj:`1e-4`)
        trainable_features (bool, optional): If set to :obj:`True`, features are parameters, as in
            published results. (default: :obj:`False`)
        feature_scaling (str, optional): See :class:`Recommender`; the item graphs do not depend
            on it. (default: :obj:`None`)
        mrdib (MRdIB, optional): See :class:`Recommender`. (default: :obj:`None`)
        **kwargs (optional): :obj:`task` and :obj:`num_negatives` of :class:`Recommender`.
    """

    #: The best weight of :obj:`contrastive` per data set is not published. Most later papers use
    #: 1e-2.
    presets = {
        name: {'k': 10, 'num_layers': 2, 'contrastive_weight': 1e-2, 'reg_weight': 1e-4}
        for name in ('baby', 'sports', 'clothing')
    }

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 2,
        k: int = 10,
        contrastive_weight: float = 1e-2,
        temperature: float = 0.2,
        reg_weight: float = 1e-4,
        trainable_features: bool = False,
        feature_scaling: str | None = None,
        mrdib: None | Layer | Mapping[str, Any] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            data,
            channels,
            num_layers,
            temperature,
            trainable_features,
            feature_scaling,
            mrdib,
            **kwargs,
        )
        self.k = k
        self.contrastive_weight = contrastive_weight
        self.reg_weight = reg_weight
        self.set_graphs(
            self.adj,
            {
                m: weighted_graph(data, ('item', f'{m}_knn', 'item'), ItemKNN(k, m))
                for m in self.modalities
            },
        )
        self.gates = nn.ModuleList(nn.Linear(channels, channels) for _ in self.modalities)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for gate in self.gates:
            gate.reset_parameters()  # type: ignore[operator]

    @property
    def loss_weights(self) -> dict[str, float]:
        return {'task': 1.0, 'reg': self.reg_weight, 'contrastive': self.contrastive_weight}

    def side(self, x: list[Tensor], behavior: Tensor, masks: list[Tensor] | None) -> Tensor:
        alpha = self.attend(x, masks)
        common = torch.stack([a * x_m for a, x_m in zip(alpha, x)]).sum(dim=0)
        out = common
        for m, (x_m, gate) in enumerate(zip(x, self.gates)):
            own = gate(behavior).sigmoid() * (x_m - common)
            out = out + (own if masks is None else own * masks[m].unsqueeze(-1))
        return out / self.divisor(x, masks)

    def item_degree(self, name: str) -> Tensor | None:
        edge_index, weight = getattr(self, f'item_adj_{name}').to_edge_index()
        is_loop = edge_index[0] == edge_index[1]
        # An item's similarity to itself is one: the weight of its loop is one over its degree. The
        # graph of a user may have no loops.
        has_edge = torch.zeros(self.num_items, dtype=torch.bool, device=weight.device)
        has_edge[edge_index[0]] = True
        if int(is_loop.sum()) < int(has_edge.sum()):
            return None
        degree = weight.new_ones(self.num_items)
        return degree.index_copy_(0, edge_index[0, is_loop], 1.0 / weight[is_loop])

    def extra_losses(self, embeddings: Embeddings, batch: Triplets) -> dict[str, Tensor]:
        total = batch_squares(embeddings.user, embeddings.item, batch).sum()
        contrastive = self.contrast_sides(embeddings, batch)
        return {'reg': 0.5 * total / batch.src_index.numel(), 'contrastive': contrastive}
