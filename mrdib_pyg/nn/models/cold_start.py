from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrdib_pyg.nn.bottleneck import Posterior
from mrdib_pyg.nn.models.modality_features import ModalityFeatures
from mrdib_pyg.nn.models.new_items import NewItems
from mrdib_pyg.nn.models.ranker import Ranker


class ColdStart(Ranker):
    r"""The part of a recommender that represents items and users unseen in training, without
    training again.

    A new item is treated as an item of the catalogue that nobody has interacted with and whose ID
    embedding is zero, where the penalty on IDs would leave it. A model says what that is by
    :meth:`new_item_codes` and :meth:`fuse_new_items`, the counterparts of
    :meth:`Recommender.modality_embeddings` and :meth:`Recommender.fuse` on the side of items. The
    bottlenecks of MRdIB lie between the two, as in training.
    """

    mrdib: Any
    multimodal: bool
    train_edge_index: Tensor
    fuse_posteriors: bool
    item_features: ModalityFeatures

    def new_item_codes(self, new: NewItems) -> dict[str, Tensor]:
        r"""Returns the representations of new items per modality, ``[n, C]`` each, before MRdIB."""
        raise NotImplementedError(self._why_not('new_item_codes'))

    def fuse_new_items(self, codes: Mapping[str, Any], new: NewItems) -> Tensor:
        r"""Makes of the codes, plain tensors or posteriors as :meth:`Recommender.fuse` takes them,
        the new items whose inner product with the users is the score.
        """
        raise NotImplementedError(self._why_not('fuse_new_items'))

    @torch.no_grad()
    def encode_items(
        self,
        features: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        head: Any = None,
    ) -> Tensor:
        r"""Returns the embeddings of items unseen in training from their features: rows to be
        ranked with, or next to, those of ``embed().item``.

        .. code-block:: python

            new = model.encode_items({'image': image, 'text': text})
            score, index = masked_topk(model.embed().user, new, k=10)

        What an item gets depends on the model, whose docstring says so; an item without any
        modality gets what is left: the same for all, and nothing that tells items apart.

        Args:
            features (Dict[str, torch.Tensor]): Per modality the features of the items, ``[n, F]``,
                of the same kind as in the data; they are scaled as those were. A modality that is
                not named is one that none of them has.
            present (Dict[str, torch.Tensor], optional): Per modality a boolean ``[n]`` that tells
                which of the items have it. (default: :obj:`None`, all)
            head (EvidenceHead, optional): A head fitted to this model, whose embeddings are
                returned in place of the model's own; with one, a model that reads no modality
                knows new items too. (default: :obj:`None`)

        Returns:
            torch.Tensor: The embeddings ``[n, out_channels]``.

        Raises:
            ValueError: If the model reads no modality, one is unknown, there is none, or shapes do
                not fit.
            NotImplementedError: If the model does not say what a new item gets.
        """
        if head is not None:
            return head.encode(features, present).to(self.train_edge_index.device)
        if not self.multimodal:
            raise ValueError(
                f'{type(self).__name__} scores by IDs alone and knows nothing of an item without '
                f"interactions; pass a 'head' (mrdib_pyg.evidence.EvidenceHead), use a model that "
                f'reads item features, or train again'
            )
        new = NewItems(self.item_features, features, present)
        with self.evaluation_mode():
            codes: dict[str, Any] = self.new_item_codes(new)
            if self.mrdib is None:
                return self.fuse_new_items(codes, new)
            posteriors = self.mrdib({m: (None, x) for m, x in codes.items()})
            codes = {
                m: item if self.fuse_posteriors else item.z for m, (_, item) in posteriors.items()
            }
            out = self.fuse_new_items(codes, new)
            if getattr(self.mrdib, 'fused_bottleneck', None) is not None:
                _, posterior = self.mrdib.encode_fused((None, out))
                assert isinstance(posterior, Posterior)
                out = posterior.z
            return out

    @torch.no_grad()
    def encode_users(
        self, edge_index: Tensor, num_users: int | None = None, shrinkage: float = 10.0
    ) -> Tensor:
        r"""Returns the embeddings of users unseen in training from their interactions alone.

        Given the embeddings :math:`\mathbf{q}_i` of the :math:`n` items, which stay as they are, a
        user who has interacted with the items :math:`\mathcal{N}_u` gets the vector whose scores
        come closest to one there and to zero on average, as in `"Collaborative Filtering for
        Implicit Feedback Datasets" <https://doi.org/10.1109/ICDM.2008.22>`_,

        .. math::
            \mathbf{p}_u = \left( \frac{1}{n} \sum_i \mathbf{q}_i \mathbf{q}_i^{\top} + \lambda
            \, \bar{q}^2 \mathbf{I} \right)^{-1} \frac{1}{|\mathcal{N}_u|} \sum_{i \in
            \mathcal{N}_u} \mathbf{q}_i

        where :math:`\bar{q}^2` is the mean square of the entries of :math:`\mathbf{q}`. Only the
        direction of the vector matters to a ranking: it is scaled to the mean norm of the users of
        the data. A user without any interaction gets the mean of these users. It is the same for
        all models, as all score by an inner product.

        Args:
            edge_index (torch.Tensor): The interactions of the new users, ``[2, m]``: users, counted
                from zero, and items of the data. A repeated one counts once.
            num_users (int, optional): The number of the new users. (default: :obj:`None`, the
                largest id plus one)
            shrinkage (float, optional): The weight :math:`\lambda`; the larger, the closer to the
                mean of the items. (default: :obj:`10.0`)

        Returns:
            torch.Tensor: The embeddings ``[num_users, out_channels]``.

        Raises:
            ValueError: If the shape or :obj:`shrinkage` is wrong.
            IndexError: If a user or an item does not exist.
        """
        user, item, num_users = self._check_edges(edge_index, num_users)
        if not shrinkage > 0:
            raise ValueError(f"'shrinkage' must be positive (got {shrinkage})")
        emb = self.embed()
        x = emb.item
        mean = x.new_zeros(num_users, x.size(1)).index_add_(0, user, x.index_select(0, item))
        count = x.new_zeros(num_users).index_add_(0, user, torch.ones_like(user, dtype=x.dtype))
        mean = mean / count.clamp(min=1).unsqueeze(-1)
        gram = x.double().t() @ x.double() / x.size(0)
        gram += (
            shrinkage
            * gram.diagonal().mean().clamp(min=1e-30)
            * torch.eye(x.size(1), dtype=gram.dtype, device=gram.device)
        )
        out = torch.linalg.solve(gram, mean.double().t()).t()
        norm = emb.user.double().norm(dim=1).mean()
        out = out * (norm / out.norm(dim=1, keepdim=True).clamp(min=1e-30))
        return torch.where(count.unsqueeze(-1) > 0, out.to(x.dtype), emb.user.mean(dim=0))

    def _check_edges(self, edge_index: Tensor, num_users: int | None) -> tuple[Tensor, Tensor, int]:
        if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.is_floating_point():
            raise ValueError(
                f"'edge_index' must hold pairs of a new user and an item, [2, m] (got "
                f'{edge_index.dtype} of the shape {list(edge_index.shape)})'
            )
        edge_index = edge_index.long().to(self.train_edge_index.device)
        edge_index = torch.unique(edge_index, dim=1)
        user, item = edge_index
        if num_users is None:
            num_users = int(user.max()) + 1 if user.numel() > 0 else 0
        for name, ids, size in (('users', user, num_users), ('items', item, self.num_items)):
            if ids.numel() > 0 and not 0 <= int(ids.min()) <= int(ids.max()) < size:
                raise IndexError(
                    f"the {name} of 'edge_index' must lie in [0, {size}) (got {int(ids.min())} to "
                    f'{int(ids.max())})'
                )
        return user, item, num_users

    def _why_not(self, method: str) -> str:
        return (
            f'{type(self).__name__} does not say what an item unseen in training gets; implement '
            f"'{method}' as the documentation of ColdStart tells"
        )
