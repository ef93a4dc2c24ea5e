from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models.batch import batch_norms, check_at_least
from mrdib_pyg.nn.models.recommender import Embeddings, Layer, Pair, Recommender, Rows, Triplets
from mrdib_pyg.ops import propagate_mean
from mrdib_pyg.ops._propagate import mean_of_rows


class LightGCN(Recommender):
    r"""The ID-only model of `"LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation" <https://arxiv.org/abs/2002.02126>`_,

    .. math::
        [\mathbf{P}; \mathbf{Q}] = \frac{1}{L+1} \sum_{l=0}^{L} \hat{\mathbf{A}}^l \,
        [\mathbf{E}_U; \mathbf{E}_I], \quad s(u, i) = \langle \mathbf{p}_u, \mathbf{q}_i \rangle

    It reads no item features: it has nothing for MRdIB to encode, and cannot encode items unseen in
    training. As in other multimodal toolboxes, the regularizer takes *unsquared* norms. The paper
    squares them, which needs other weights.

    Args:
        data (HeteroData): The training graph.
        channels (int, optional): The width of the embeddings. (default: :obj:`64`)
        num_layers (int, optional): The number of propagation layers :math:`L`; 0 is matrix
            factorization. (default: :obj:`3`)
        reg_weight (float, optional): The default weight of :obj:`reg`, the unsquared norms of the
            embeddings of a batch before propagation, divided by its size. (default: :obj:`1e-4`)
        mrdib (optional): Refused: the model has no modality. (default: :obj:`None`)
        task (str, optional): See :class:`Recommender`. (default: :obj:`"bpr"`)
        num_negatives (int, optional): See :class:`Recommender`. (default: :obj:`128`)

    Raises:
        ValueError: If :obj:`num_layers` is negative or :obj:`mrdib` is given.
    """

    multimodal = False
    user_codes = False
    splits_channels = True
    presets = {
        'baby': {'num_layers': 3},
        'sports': {'num_layers': 2},
        'clothing': {'num_layers': 3},
    }

    def __init__(
        self,
        data: HeteroData,
        channels: int = 64,
        num_layers: int = 3,
        reg_weight: float = 1e-4,
        mrdib: None | Layer | Mapping[str, Any] = None,
        task: str = 'bpr',
        num_negatives: int = 128,
    ) -> None:
        check_at_least(0, num_layers=num_layers)
        super().__init__(data, channels, mrdib, task=task, num_negatives=num_negatives)
        self.num_layers = num_layers
        self.reg_weight = reg_weight
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.xavier_uniform_(self.user_emb.weight)
        nn.init.xavier_uniform_(self.item_emb.weight)

    @property
    def loss_weights(self) -> dict[str, float]:
        return {'task': 1.0, 'reg': self.reg_weight}

    def modality_embeddings(self, rows: Rows | None = None) -> dict[str, Pair]:
        return {}

    def fuse(self, codes: Mapping[str, Pair], rows: Rows | None = None) -> Embeddings:
        ego = (self.user_emb.weight, self.item_emb.weight)
        if rows is None:
            user, item = propagate_mean(ego, self.adj, self.num_layers)
        else:
            (user, item), ego = mean_of_rows(ego, self.adj, self.num_layers, rows)
        user, item, ego_user, ego_item = self.whole(user, item, *ego)
        return Embeddings(user, item, {'ego': (ego_user, ego_item)})

    def extra_losses(self, embeddings: Embeddings, batch: Triplets) -> dict[str, Tensor]:
        return {'reg': batch_norms(*embeddings.views['ego'], batch) / batch.src_index.numel()}
