from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models.multi_view import MultiView, weighted_graph
from mrdib_pyg.nn.models.recommender import Embeddings, Layer, Triplets
from mrdib_pyg.ops import NormalizedAdjacency
from mrdib_pyg.ops.interest_graphs import RULES
from mrdib_pyg.transforms import InterestGraph, SecondOrderGraph


class SOIL(MultiView):
    r"""SOIL from "SOIL: Contrastive Second-Order Interest Learning for Multimodal Recommendation"
    (ACM Multimedia 2024): like :class:`MGCN`, but over interest-aware item graphs and over a
    user-item graph with second-order edges,

    .. math::
        \mathbf{X}_m &= [\mathbf{R}^+ \mathbf{H}_m; \mathbf{H}_m], \quad \mathbf{H}_m =
        \mathbf{G}_m (\mathbf{E}_I \odot \sigma(\Gamma_m(\mathbf{F}_m \mathbf{W}_m)))

        \mathbf{Y} &= \mathbf{B} + \frac{1}{M+1} \sum_m (1 - \alpha_m) \mathbf{X}_m, \quad
        \mathbf{R}^+ = \hat{\mathbf{R}} + \frac{1}{2} \hat{\mathbf{R}}^{a}

    with the behavior view :math:`\mathbf{B}` of :math:`\mathbf{R}^+` and an attention
    :math:`\alpha` over modalities per node (the larger the attention, the smaller the weight, as
    published; a single modality has the weight one). The graphs, :math:`\mathbf{G}_m` and that of
    the edges :math:`\mathbf{R}^{a}`, are those of
    :class:`~mrdib_pyg.transforms.InterestGraph` and
    :class:`~mrdib_pyg.transforms.SecondOrderGraph`, taken from ``('item', '<modality>_interest',
    'item')`` and ``('user', 'second_order', 'item')`` where the data has them.

    The terms are :obj:`contrastive`, between the fusion and :math:`\mathbf{B}` for the users and
    positive items of a batch, and :obj:`interest`, between users :math:`\mathbf{Y}` and both views
    of their positive items, all in-batch and by cosines. There is no penalty on norms.

    MRdIB encodes users and items of :math:`\mathbf{X}_m`, which score alone without
    :math:`\mathbf{B}`. Where modalities are missing, attention and sums cover the :math:`M` that a
    node has. Missing features spread nothing.

    For an item unseen in training, :math:`\mathbf{H}_m` is the mean of the purified ID embeddings
    of its :math:`k - 1` nearest items by features, weighted by similarity, and :math:`\mathbf{B}`
    zero.

    Differences from public code, whose ways are in parentheses: :math:`\mathbf{R}^+` is normalized
    by the degrees of users and items (users for both), and negative similarities count as zero
    (weights are raised to 1e-7, and two negative similarities attract). Differences from the paper,
    as in public code: the interest graph counts users (the paper reads as zero or one), the factor
    :math:`\frac{1}{M+1}`, and second-order edges by :obj:`second_order="public"`. Public results
    stop after 10 epochs without improvement rather than 20.

    Args:
        data (HeteroData): The training graph with item features.
        channels (int, optional): The width of every representation. (default: :obj:`64`)
        num_layers (int, optional): The number of layers over the user-item graph.
            (default: :obj:`2`)
        k (int, optional): The number of neighbors in the item graphs, the item included.
            (default: :obj:`10`)
        num_interests (int, optional): The number of items a user is interested in, per modality.
            (default: :obj:`10`)
        num_second_order (int, optional): The number of second-order edges of a user.
            (default: :obj:`2`)
        second_order (str, optional): :obj:`"public"`, the rule of public code, or
            :obj:`"unrecorded"`, that of the paper. See :func:`~mrdib_pyg.ops.second_order_edges`.
            (default: :obj:`"public"`)
        contrastive_weight (float, optional): The default weight of :obj:`contrastive`.
            (default: :obj:`1e-2`)
        interest_weight (float, optional): The default weight of :obj:`interest`.
            (default: :obj:`1e-2`)
        temperature (float, optional): The temperature of both. (default: :obj:`0.2`)
        feature_scaling (str, optional): See :class:`Recommender`; the graphs do not depend on it.
            (default: :obj:`None`)
        mrdib (MRdIB, optional): See :class:`Recommender`. (default: :obj:`None`)
        task (str, optional): See :class:`Recommender`. (default: :obj:`"bpr"`)
        num_negatives (int, optional): See :class:`Recommender`. (default: :obj:`128`)

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    #: Best by validation and by test in the logs of the authors.
    presets = {
        'baby': {
            'num_interests': 10,
            'num_second_order': 2,
            'contrastive_weight': 1e-2,
            'interest_weight': 1e-2,
        },
        'sports': {
            'num_interests': 5,
            'num_second_order': 6,
            'contrastive_weight': 1e-1,
            'interest_weight': 1e-2,
        },
        'clothing': {
            'num_interests': 5,
            'num_second_order': 3,
            'contrastive_weight': 1e-2,
            'interest_weight': 1e-3,
        },
    }

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 2,
        k: int = 10,
        num_interests: int = 10,
        num_second_order: int = 2,
        second_order: str = 'public',
        contrastive_weight: float = 1e-2,
        interest_weight: float = 1e-2,
        temperature: float = 0.2,
        feature_scaling: str | None = None,
        mrdib: None | Layer | Mapping[str, Any] = None,
        task: str = 'bpr',
        num_negatives: int = 128,
    ) -> None:
        if second_order not in RULES:
            raise ValueError(f"'second_order' must be one of {list(RULES)} (got {second_order!r})")
        super().__init__(
            data,
            channels,
            num_layers,
            temperature,
            False,
            feature_scaling,
            mrdib,
            task=task,
            num_negatives=num_negatives,
        )
        self.k = k
        self.num_interests = num_interests
        self.num_second_order = num_second_order
        self.second_order = second_order
        self.contrastive_weight = contrastive_weight
        self.interest_weight = interest_weight

        edges = {m: ('item', f'{m}_interest', 'item') for m in self.modalities}
        is_given = all(edge in data.edge_types for edge in edges.values())
        made = data if is_given else InterestGraph(num_interests, k)(data)  # for all modalities
        graphs = {
            m: weighted_graph(data if edge in data.edge_types else made, edge)
            for m, edge in edges.items()
        }
        transform = SecondOrderGraph(num_second_order, second_order)
        attracted = weighted_graph(data, ('user', 'second_order', 'item'), transform)
        self.set_graphs(_add(self.adj, attracted), graphs)
        self.reset_parameters()

    @property
    def loss_weights(self) -> dict[str, float]:
        return {
            'task': 1.0,
            'contrastive': self.contrastive_weight,
            'interest': self.interest_weight,
        }

    def side(self, x: list[Tensor], behavior: Tensor, masks: list[Tensor] | None) -> Tensor:
        weight = 1.0 - self.attend(x, masks)
        if masks is not None:
            mask = torch.stack(masks).unsqueeze(-1)
            weight = torch.where(mask.sum(dim=0) == 1, torch.ones_like(weight), weight) * mask
        elif len(x) == 1:
            weight = torch.ones_like(weight)
        out = torch.stack([w * x_m for w, x_m in zip(weight, x)]).sum(dim=0)
        return out / self.divisor(x, masks)

    def extra_losses(self, embeddings: Embeddings, batch: Triplets) -> dict[str, Tensor]:
        src, pos, _ = batch
        views = embeddings.views
        interest = [
            self.contrast(embeddings.user, views[name][1], src, pos)
            for name in ('behavior', 'side')
        ]
        return {
            'contrastive': self.contrast_sides(embeddings, batch),
            'interest': interest[0] + interest[1],
        }


def _add(adj: NormalizedAdjacency, second_order: NormalizedAdjacency) -> NormalizedAdjacency:
    # R + 1/2 R^a, with R^a normalized by its own weighted degrees.
    size = (int(adj.size(0)), int(adj.size(1)))  # type: ignore[arg-type]
    edge_index, edge_weight = second_order.to_edge_index()
    second_order = NormalizedAdjacency(edge_index, edge_weight, num_nodes=size)
    parts = adj.to_edge_index(), second_order.to_edge_index()
    return NormalizedAdjacency(
        torch.cat([parts[0][0], parts[1][0]], dim=1),
        torch.cat([parts[0][1], 0.5 * parts[1][1]]),
        num_nodes=size,
        normalization=None,
    )
