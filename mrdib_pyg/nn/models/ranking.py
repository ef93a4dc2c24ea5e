import torch
from torch import Tensor, nn

from mrdib_pyg.evaluation._mode import evaluation_mode
from mrdib_pyg.interactions import entries_of
from mrdib_pyg.nn.models.batch import Embeddings
from mrdib_pyg.ops import NormalizedAdjacency, masked_topk


class Ranker(nn.Module):
    r"""The part of a recommender that scores and ranks by inner products of users and items. A
    subclass sets :attr:`num_users`, :attr:`num_items` and :attr:`adj`, the training edges.
    """

    num_users: int
    num_items: int
    adj: NormalizedAdjacency

    def __init__(self) -> None:
        super().__init__()
        self._cache: tuple[tuple[int, ...], Embeddings] | None = None
        self._may_change = False

    def forward(self) -> Embeddings:
        r"""Returns the embeddings of all users and items."""
        raise NotImplementedError

    @torch.no_grad()
    def embed(self) -> Embeddings:
        r"""Returns the embeddings of all users and items in evaluation mode, not to be written to.
        A model in evaluation mode keeps them until a parameter or the mode changes. Call
        :meth:`forget` after an in-place change of ``param.data``, which leaves no trace.
        """
        if self.training:
            with evaluation_mode(self):
                return _freeze(self())
        if self._may_change:
            return _freeze(self())
        # Versions tell of in-place changes, such as a loaded state; addresses tell of replaced
        # tensors (`param.data = ...`).
        key = tuple(
            n
            for t in (*self.parameters(), *self.buffers())
            for n in (id(t), t._version, t.data_ptr())
        )
        if self._cache is None or self._cache[0] != key:
            with torch.inference_mode(False), torch.no_grad():  # they may enter a loss later on
                self._cache = (key, _freeze(self()))
        return self._cache[1]

    def train(self, mode: bool = True) -> 'Ranker':
        r"""Sets the mode, as in :class:`torch.nn.Module`."""
        self.forget()
        self._may_change = False
        return super().train(mode)

    def forget(self, until_mode_is_set: bool = False) -> None:
        r"""Forgets the embeddings that :meth:`embed` keeps. With :obj:`until_mode_is_set`, none are
        kept until ``train()`` or ``eval()``: a fused optimizer does not change the versions of
        parameters.
        """
        self._cache = None
        self._may_change = self._may_change or until_mode_is_set

    @torch.no_grad()
    def predict(self, edge_label_index: Tensor) -> Tensor:
        r"""Returns the scores of pairs of a user and an item, ``[2, n]`` to ``[n]``.

        Raises:
            IndexError: If a user or an item does not exist.
        """
        user, item = self.embed()[:2]
        for name, row, size in zip(('user', 'item'), edge_label_index, (len(user), len(item))):
            if row.numel() > 0 and not 0 <= int(row.min()) <= int(row.max()) < size:
                raise IndexError(
                    f"the {name}s of 'edge_label_index' must lie in [0, {size}) (got "
                    f'{int(row.min())} to {int(row.max())})'
                )
        return (user[edge_label_index[0]] * item[edge_label_index[1]]).sum(dim=-1)

    @torch.no_grad()
    def recommend(
        self, user: Tensor | None = None, k: int = 20, exclude_seen: bool = True
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the scores and ids of the :obj:`k` best items of each user.

        Args:
            user (torch.Tensor, optional): The ids of the users. (default: :obj:`None`, all)
            k (int, optional): The number of items. Where fewer remain, the row is filled up with
                ids of :obj:`-1`. (default: :obj:`20`)
            exclude_seen (bool, optional): If set to :obj:`False`, items of the training edges are
                candidates too. (default: :obj:`True`)

        Raises:
            ValueError: If :obj:`k` exceeds the number of items.
            TypeError: If ids are not integers.
            IndexError: If a user does not exist.
        """
        emb = self.embed()
        device = emb.user.device
        if user is None:
            user = torch.arange(self.num_users, device=device)
        user = torch.as_tensor(user, device=device).reshape(-1)
        if user.numel() == 0:  # an empty list makes a tensor of floats
            user = user.long()
        elif user.is_floating_point() or user.dtype == torch.bool:
            raise TypeError(f"'user' must hold integer ids (got {user.dtype})")
        user = user.long()  # 8-bit ids would index as a mask
        if user.numel() > 0 and not 0 <= int(user.min()) <= int(user.max()) < self.num_users:
            raise IndexError(
                f"'user' must lie in [0, {self.num_users}) (got {int(user.min())} to "
                f'{int(user.max())})'
            )
        mask = self.seen_pairs(user) if exclude_seen else None
        return masked_topk(emb.user[user], emb.item, k, mask)

    def seen_pairs(self, user: Tensor) -> Tensor:
        r"""Returns the training edges of users ``[B]``, repeats included, as the mask of
        :func:`~mrdib_pyg.ops.masked_topk`: pairs ``[2, n]`` of a row of :obj:`user` and an item.
        """
        row, entry = entries_of(self.adj.rowptr, user)
        return torch.stack([row, self.adj.col[entry]])


def _freeze(embeddings: Embeddings) -> Embeddings:
    # A table that is returned as an embedding would change with the model.
    def copy(x: Tensor) -> Tensor:
        is_table = isinstance(x, nn.Parameter) or x.requires_grad or x._is_view()
        return x.detach().clone() if is_table else x

    views = {name: (copy(user), copy(item)) for name, (user, item) in embeddings.views.items()}
    return Embeddings(copy(embeddings.user), copy(embeddings.item), views)
