from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrdib_pyg.evaluation._mode import evaluation_mode
from mrdib_pyg.nn.bottleneck import Posterior
from mrdib_pyg.nn.models.features import ModalityFeatures
from mrdib_pyg.nn.models.ranking import Ranker
from mrdib_pyg.ops import masked_topk
from mrdib_pyg.ops.rows import normalize_rows


class NewItems:
    r"""Items unseen in training: per modality :attr:`x`, their features scaled as those of the data
    (zeros where missing), and :attr:`present` ``[n]``. :attr:`masks` lists the latter, or is
    :obj:`None` if nothing is missing.
    """

    def __init__(
        self,
        items: ModalityFeatures,
        features: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
    ) -> None:
        present = {} if present is None else present
        _check_names(items, features, present)
        first = next(iter(features))
        self.num_items = int(features[first].size(0)) if features[first].dim() > 0 else 0
        self._items = items
        self._raw: dict[str, Tensor] = {}
        self.x: dict[str, Tensor] = {}
        self.present: dict[str, Tensor] = {}
        for name in items.names:
            known = items(name)
            has = torch.zeros(self.num_items, dtype=torch.bool, device=known.device)
            x = known.new_zeros(self.num_items, known.size(1))
            if name in features:
                x = features[name].to(device=known.device, dtype=known.dtype)
                has = self._mask(name, present.get(name), known.device)
                if x.shape != (self.num_items, known.size(1)):
                    raise ValueError(
                        f"'features' of '{name}' must have the shape [{self.num_items}, "
                        f'{known.size(1)}], as the features of the data (got {list(x.shape)})'
                    )
                x = torch.where(has.unsqueeze(-1), x, torch.zeros_like(x))
                bad = (~x.isfinite().all(dim=1)).nonzero()
                if bad.numel() > 0:
                    raise ValueError(
                        f"row {int(bad[0])} of 'features' of '{name}' holds NaN or infinity; "
                        f"repair it, or mark it as missing in 'present'"
                    )
            self._raw[name], self.present[name] = x, has
            self.x[name] = items.scale(name, x, has)
        every = all(bool(has.all()) for has in self.present.values())
        self.masks: list[Tensor] | None = None if every else list(self.present.values())

    def _mask(self, name: str, mask: Tensor | None, device: torch.device) -> Tensor:
        if mask is None:
            return torch.ones(self.num_items, dtype=torch.bool, device=device)
        if mask.dtype != torch.bool:
            raise TypeError(f"'present' of '{name}' must be boolean (got {mask.dtype})")
        if mask.shape != (self.num_items,):
            raise ValueError(
                f"'present' of '{name}' must have one entry for each of the {self.num_items} items "
                f'(got the shape {list(mask.shape)})'
            )
        return mask.to(device)

    def sum(self, codes: Mapping[str, Tensor]) -> Tensor:
        r"""Returns the sum of the codes over the modalities that each item has."""
        terms = list(codes.values())
        if self.masks is not None:
            terms = [x * mask.unsqueeze(-1) for x, mask in zip(terms, self.masks)]
        return torch.stack(terms).sum(dim=0)

    def neighbors(self, name: str, k: int) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the nearest items of the data by cosine, up to :obj:`k` for each new item that
        has the modality: rows of new items, ids of their neighbors, and cosines.
        """
        x = normalize_rows(self._items.unscaled(name))
        # A row of zeros has no direction, hence no neighbors.
        candidates = getattr(self._items, f'nonzero_{name}').nonzero().view(-1)
        rows = (self.present[name] & (self._raw[name] != 0).any(dim=1)).nonzero().view(-1)
        k = min(k, candidates.numel())
        if k < 1 or rows.numel() == 0:
            empty = rows.new_empty(0)
            return empty, empty, x.new_empty(0)
        query = normalize_rows(self._raw[name][rows])
        cosine, index = masked_topk(query, x[candidates], k)
        row = rows.repeat_interleave(k)
        return row, candidates[index.view(-1)], cosine.view(-1).clamp(-1, 1)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.num_items}, modalities={list(self.x)})'


def _check_names(
    items: ModalityFeatures, features: Mapping[str, Tensor], present: Mapping[str, Tensor]
) -> None:
    if len(features) == 0:
        raise ValueError(
            f"'features' must name at least one of {items.names} (got none); mark missing rows in "
            f"'present'"
        )
    for name in features:
        if name not in items.names:
            raise ValueError(
                f"'features' must name modalities of the model, {items.names} (got '{name}')"
            )
    for name in present:
        if name not in features:
            raise ValueError(
                f"'present' must name modalities of 'features' (got '{name}'); leave it out"
            )


class ColdStart(Ranker):
    r"""The part of a recommender that represents unseen items and users without further training. A
    new item is an item without interactions, whose ID embedding is zero. A model implements
    :meth:`new_item_codes` and :meth:`fuse_new_items`, and MRdIB sits between the two.
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
        r"""Turns the codes, in the form of :meth:`Recommender.fuse`, into the new items whose inner
        product with the users is the score.
        """
        raise NotImplementedError(self._why_not('fuse_new_items'))

    @torch.no_grad()
    def encode_items(
        self,
        features: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        head: Any = None,
    ) -> Tensor:
        r"""Returns the embeddings of items unseen in training from their features, to be ranked
        alone or next to those of ``embed().item``.

        .. code-block:: python

            new = model.encode_items({'image': image, 'text': text})
            score, index = masked_topk(model.embed().user, new, k=10)

        The docstring of each model says how. All items without any modality get one and the same
        embedding.

        Args:
            features (Dict[str, torch.Tensor]): Per modality the raw features of the items,
                ``[n, F]``. No item has a modality that is left out.
            present (Dict[str, torch.Tensor], optional): Per modality a boolean mask ``[n]`` of the
                items that have it. (default: :obj:`None`, all items)
            head (EvidenceHead, optional): A head fitted to this model, whose embeddings take the
                place of the model's own. With it, a model that reads no modality represents new
                items too. (default: :obj:`None`)

        Returns:
            torch.Tensor: The embeddings ``[n, out_channels]``.

        Raises:
            ValueError: If the model reads no modality, one is unknown, there is none, or shapes do
                not fit.
            NotImplementedError: If the model does not represent new items.
        """
        if head is not None:
            return head.encode(features, present).to(self.train_edge_index.device)
        if not self.multimodal:
            raise ValueError(
                f'{type(self).__name__} reads no item features and cannot encode new items; pass a '
                f"'head' (mrdib_pyg.evidence.EvidenceHead), or use a model that does"
            )
        new = NewItems(self.item_features, features, present)
        with evaluation_mode(self):
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
        r"""Returns the embeddings of users unseen in training from their interactions.

        The embeddings :math:`\mathbf{q}_i` of the :math:`n` items stay fixed. A user of the items
        :math:`\mathcal{N}_u` gets the vector whose scores come closest to one there and to zero on
        average, as in `"Collaborative Filtering for Implicit Feedback Datasets"
        <https://doi.org/10.1109/ICDM.2008.22>`_,

        .. math::
            \mathbf{p}_u = \left( \frac{1}{n} \sum_i \mathbf{q}_i \mathbf{q}_i^{\top} + \lambda
            \, \bar{q}^2 \mathbf{I} \right)^{-1} \frac{1}{|\mathcal{N}_u|} \sum_{i \in
            \mathcal{N}_u} \mathbf{q}_i

        with :math:`\bar{q}^2` the mean square of the entries of :math:`\mathbf{q}`. The vector is
        scaled to the mean norm of the known users, which changes no ranking. A user without
        interactions gets the mean of the known users.

        Args:
            edge_index (torch.Tensor): The interactions of the new users, ``[2, m]``: users, counted
                from zero, and items of the data. Repeats count once.
            num_users (int, optional): The number of the new users. (default: :obj:`None`, the
                largest id plus one)
            shrinkage (float, optional): The weight :math:`\lambda`. A large one draws users to the
                mean of their items. (default: :obj:`10.0`)

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
                f"'edge_index' must hold integer pairs of a new user and an item, [2, m] (got "
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
            f'{type(self).__name__} does not represent items unseen in training; implement '
            f"'{method}' (see ColdStart)"
        )
