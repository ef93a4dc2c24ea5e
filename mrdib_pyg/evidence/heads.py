r"""Heads that rank items unseen in training by a trained recommender and by the interactions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.evidence.linear_gaussian import Evidence, check_names, evidence
from mrdib_pyg.nn.models import Embeddings, Recommender
from mrdib_pyg.ops import masked_topk

KINDS = ('both', 'embeddings', 'interactions')


class EvidenceHead:
    r"""Ranks items unseen in training, without training again and without anything to tune.

    Two linear-Gaussian models of largest :func:`evidence` are fitted to the items of the training:

    * ``'embeddings'``: the targets are the item embeddings of a trained recommender, of whatever
      kind. A new item gets their posterior mean, and its score is the inner product with the user.
    * ``'interactions'``: the targets are the training interactions, each user's divided by the
      square root of their number. The posterior mean is the score; no recommender is needed.
    * ``'both'``: the sum of the two scores, each centred per user and divided by its standard
      deviation over users and new items.

    The recommender is only read: what it says of the items of the training stays the same.

    .. code-block:: python

        head = EvidenceHead(model, data)
        new = head({'image': image, 'text': text})
        score, item = new.recommend(user, k=10)  # ids count the new items
        evaluate(new, data, 'test', node_type='cold_item')

    Args:
        model (Recommender, optional): A trained recommender, which need not read any features;
            :obj:`None` for the kind ``'interactions'``.
        data (HeteroData): What it was trained on: training edges, and features
            ``data['item'].x_<modality>`` with masks ``data['item'].has_<modality>`` where some are
            missing. Items without a training edge are left out of the fit.
        kind (str, optional): ``'both'``, ``'embeddings'`` or ``'interactions'``.
            (default: ``'both'``)
        modalities (List[str], optional): The modalities to use. (default: :obj:`None`, all)
        max_size (int, optional): See :func:`evidence`. (default: :obj:`5000`)
        seed (int, optional): See :func:`evidence`. (default: :obj:`0`)

    Attributes:
        embeddings (Evidence, optional): The model of the embeddings, with its amplitudes.
        interactions (Evidence, optional): The model of the interactions.

    Raises:
        ValueError: If the kind or a modality is unknown, there is no modality, or the model does
            not fit the data.
    """

    def __init__(
        self,
        model: Recommender | None,
        data: HeteroData,
        kind: str = 'both',
        modalities: list[str] | None = None,
        *,
        max_size: int = 5000,
        seed: int = 0,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"'kind' must be one of {', '.join(KINDS)} (got {kind!r})")
        if model is None and kind != 'interactions':
            raise ValueError(f"'kind' {kind!r} needs a 'model'; without one, pass 'interactions'")
        features, present = item_features(data, modalities)
        num_users, num_items = int(data['user'].num_nodes), int(data['item'].num_nodes)
        edge_index = data['user', 'rates', 'item'].edge_index.cpu()
        used = torch.bincount(edge_index[1], minlength=num_items) > 0
        features = {name: x[used] for name, x in features.items()}
        present = {name: x[used] for name, x in present.items()}

        self.kind, self.modalities = kind, list(features)
        self.embeddings: Evidence | None = None
        self.interactions: Evidence | None = None
        self._user: Tensor | None = None
        if model is not None and kind != 'interactions':
            emb = model.embed()
            if (len(emb.user), len(emb.item)) != (num_users, num_items):
                raise ValueError(
                    f"'model' has {len(emb.user)} users and {len(emb.item)} items, but 'data' "
                    f'{num_users} and {num_items}; pass the data that it was trained on'
                )
            self._user = emb.user.detach().cpu()
            item = emb.item.detach().cpu()[used]
            self.embeddings = evidence(features, item, present, max_size=max_size, seed=seed)
        if kind != 'embeddings':
            targets = interaction_targets(edge_index, num_users, num_items)[used.numpy()]
            self.interactions = evidence(features, targets, present, max_size=max_size, seed=seed)

    def encode(
        self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        r"""Returns the posterior means of the embeddings of new items, ``[n, C]``: rows to be
        ranked with those of ``model.embed().item``, as :meth:`Recommender.encode_items` returns
        them.

        Args:
            features (Dict[str, torch.Tensor]): Per modality the features of the items, ``[n, F]``.
                A modality that is not named is one that none of them has.
            present (Dict[str, torch.Tensor], optional): Per modality a boolean ``[n]`` that tells
                which of the items have it. (default: :obj:`None`, all)

        Raises:
            ValueError: If the head knows of no embeddings, or as :meth:`Evidence.predict`.
        """
        if self.embeddings is None or self._user is None:
            raise ValueError(
                f"a head of the kind {self.kind!r} has no embeddings; pass kind='embeddings' or "
                f"'both'"
            )
        return self.embeddings.predict(features, present).to(self._user.dtype)

    def __call__(
        self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> 'NewItemScores':
        r"""Scores new items for all users.

        Args:
            features (Dict[str, torch.Tensor]): As in :meth:`encode`.
            present (Dict[str, torch.Tensor], optional): As in :meth:`encode`.
                (default: :obj:`None`)

        Returns:
            NewItemScores: The scores. Those of ``'both'`` depend on the items that are scored
            together.

        Raises:
            ValueError: As :meth:`Evidence.predict`.
        """
        parts = []
        if self.embeddings is not None and self._user is not None:
            parts.append((self._user.double(), self.embeddings.predict(features, present)))
        if self.interactions is not None:
            user = self.interactions.coefficients().t()
            parts.append((user, self.interactions.encode(features, present)))
        if self.kind == 'both':
            parts = [_standardize(user, item) for user, item in parts]
        dtype = torch.get_default_dtype()
        return NewItemScores(
            torch.cat([user for user, _ in parts], dim=1).to(dtype),
            torch.cat([item for _, item in parts], dim=1).to(dtype),
        )

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.kind!r}, modalities={self.modalities})'


class NewItemScores:
    r"""The scores of new items for all users, as inner products.

    Has :meth:`embed` like a model, so it can be evaluated as one.

    Args:
        user (torch.Tensor): ``[U, C]``.
        item (torch.Tensor): ``[n, C]``.
    """

    def __init__(self, user: Tensor, item: Tensor) -> None:
        self._embeddings = Embeddings(user, item)
        self.num_users, self.num_items = len(user), len(item)

    def embed(self) -> Embeddings:
        r"""Returns users and new items whose inner product is the score."""
        return self._embeddings

    def score(self, user: Tensor | None = None) -> Tensor:
        r"""Returns the scores of all new items for users.

        Args:
            user (torch.Tensor, optional): The ids of the users, ``[B]``.
                (default: :obj:`None`, all)

        Returns:
            torch.Tensor: The scores ``[B, n]``.

        Raises:
            IndexError: If a user does not exist.
        """
        return self._rows(user) @ self._embeddings.item.t()

    def recommend(self, user: Tensor | None = None, k: int = 20) -> tuple[Tensor, Tensor]:
        r"""Returns the scores and places of the :obj:`k` best new items of each user.

        Args:
            user (torch.Tensor, optional): The ids of the users, ``[B]``.
                (default: :obj:`None`, all)
            k (int, optional): The number of items. (default: :obj:`20`)

        Returns:
            Tuple[torch.Tensor, torch.Tensor]: Scores and rows of the features, ``[B, k]`` each.

        Raises:
            ValueError: If :obj:`k` exceeds the number of new items.
            IndexError: If a user does not exist.
        """
        if not 1 <= k <= self.num_items:
            raise ValueError(f"'k' must be between 1 and the {self.num_items} items (got {k})")
        return masked_topk(self._rows(user), self._embeddings.item, k)

    def _rows(self, user: Tensor | None) -> Tensor:
        if user is None:
            return self._embeddings.user
        user = torch.as_tensor(user).reshape(-1).cpu().long()
        if user.numel() > 0 and not 0 <= int(user.min()) <= int(user.max()) < self.num_users:
            raise IndexError(
                f"'user' must lie in [0, {self.num_users}) (got {int(user.min())} to "
                f'{int(user.max())})'
            )
        return self._embeddings.user[user]

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.num_users} users, {self.num_items} items)'


def interaction_targets(edge_index: Tensor, num_users: int, num_items: int) -> Any:
    r"""Returns interactions as targets of :func:`evidence`: a sparse matrix of items and users with
    :math:`1 / \sqrt{|\mathcal{N}_u|}` for each item that a user has taken.

    Args:
        edge_index (torch.Tensor): The interactions, ``[2, E]``: users and items. A repeated one
            counts once.
        num_users (int): The number of users.
        num_items (int): The number of items.

    Returns:
        scipy.sparse.csr_array: ``[num_items, num_users]``.

    Raises:
        ValueError: If an id does not exist.
    """
    edge_index = torch.unique(edge_index.detach().cpu().long(), dim=1)
    for name, ids, size in zip(('user', 'item'), edge_index, (num_users, num_items)):
        if ids.numel() > 0 and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise ValueError(
                f"the {name}s of 'edge_index' must lie in [0, {size}) (got {int(ids.min())} to "
                f'{int(ids.max())})'
            )
    user, item = edge_index.numpy()
    degree = np.bincount(user, minlength=num_users)
    value = 1 / np.sqrt(degree[user].astype(np.float64))
    return sparse.csr_array((value, (item, user)), shape=(num_items, num_users))


def item_features(
    data: HeteroData, modalities: list[str] | None = None, node_type: str = 'item'
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r"""Returns the features and the masks of items by modality.

    Raises:
        ValueError: If there is none, or one that is asked for is unknown.
    """
    store = data[node_type]
    known = sorted(key[2:] for key in store.keys() if key.startswith('x_'))
    if not known:
        raise ValueError(
            f"'data' has no item features; set data['{node_type}'].x_<modality>, such as x_image"
        )
    names = known if modalities is None else list(modalities)
    if modalities is not None:
        check_names(dict.fromkeys(names), {}, known)
    features = {name: store[f'x_{name}'] for name in names}
    present = {name: store[f'has_{name}'].bool() for name in names if f'has_{name}' in store}
    return features, present


def _standardize(user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    # Centred over the new items the scores of each user are, too.
    item = item - item.mean(dim=0)
    # The mean square of all scores, without a matrix of them.
    square = float(((user.t() @ user) * (item.t() @ item)).sum()) / (len(user) * max(len(item), 1))
    return user / max(square, 1e-300) ** 0.5 if square > 0 else user, item
