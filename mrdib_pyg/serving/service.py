import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import IdMap
from mrdib_pyg.interactions import UserItems
from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.pid import PIDExplainer
from mrdib_pyg.serving.export import check_id_maps, finite_embeddings
from mrdib_pyg.serving.index import ItemIndex
from mrdib_pyg.serving.recommendations import restrict_pairs, select_items

Id = str | int

_BLOCK = 64  # users or items whose answers exist at a time


class UnknownId(KeyError):
    r"""There is no such user or item."""

    def __str__(self) -> str:
        return str(self.args[0])


class Unavailable(RuntimeError):
    r"""This model cannot answer the question."""


class Selection(NamedTuple):
    r"""The items that may be recommended."""

    searched: ItemIndex
    candidates: Tensor | None  # the items of the index, if not all
    denied: Tensor | None  # the items to leave out


class Service:
    r"""Answers questions about users and items with the current embeddings of a model.
    :func:`make_app` serves them over HTTP.

    Args:
        model (Recommender): A trained model.
        user_ids (IdMap, optional): The raw ids of the users. (default: :obj:`None`, the
            indices of the model)
        item_ids (IdMap, optional): The raw ids of the items. (default: :obj:`None`)
        approximate (bool, optional): Searches an approximate :class:`ItemIndex`.
            (default: :obj:`False`)
        data (HeteroData, optional): The data of the model, whose validation edges
            :meth:`explain` needs. (default: :obj:`None`)
        exclude (torch.Tensor, optional): Pairs of a user and an item that count as seen like the
            training edges, ``[2, n]``, such as :func:`known_pairs`. (default: :obj:`None`)
    """

    def __init__(
        self,
        model: Recommender,
        user_ids: IdMap | None = None,
        item_ids: IdMap | None = None,
        *,
        approximate: bool = False,
        data: HeteroData | None = None,
        exclude: Tensor | None = None,
    ) -> None:
        check_id_maps(model, user_ids, item_ids)
        self.model = model.eval()
        self.user_ids, self.item_ids = user_ids, item_ids
        self.seen_pairs: Callable[[Tensor], Tensor] = model.seen_pairs
        if exclude is not None:
            train = model.seen_pairs(torch.arange(model.num_users)).cpu()
            pairs = torch.cat([train, torch.as_tensor(exclude).cpu()], dim=1)
            self.seen_pairs = UserItems(pairs, model.num_users, model.num_items)
        with torch.no_grad():
            self.embeddings = finite_embeddings(model)
            self.modalities = modality_embeddings(model)
        self.index = ItemIndex(self.embeddings.item, approximate=approximate)
        self.similar_index = ItemIndex(self.embeddings.item, cosine=True, approximate=approximate)
        self.explainer: PIDExplainer | None = None
        self.why_not = "the service has no data; pass 'data'"
        if data is not None:
            try:
                self.explainer = PIDExplainer(model, data)
            except (TypeError, ValueError) as e:
                self.why_not = str(e)

    def recommend(
        self,
        users: Sequence[Id],
        k: int = 20,
        *,
        exclude_seen: bool = True,
        allow: Sequence[Id] | None = None,
        deny: Sequence[Id] | None = None,
        parts: bool = False,
    ) -> list[dict[str, Any]]:
        r"""Returns ``{'user': id, 'items': [{'item': id, 'score': float}, ...]}`` for each user,
        with at most :obj:`k` items by descending score.

        Args:
            users (Sequence[str or int]): The ids of the users.
            k (int, optional): The number of items. (default: :obj:`20`)
            exclude_seen (bool, optional): If set to :obj:`False`, items of the training edges and
                of :obj:`exclude` are candidates too. (default: :obj:`True`)
            allow (Sequence[str or int], optional): The only items that may be recommended.
                (default: :obj:`None`, all)
            deny (Sequence[str or int], optional): Items that may not be recommended.
                (default: :obj:`None`)
            parts (bool, optional): If set to :obj:`True`, each item also has ``'parts'``, its score
                by each modality alone. (default: :obj:`False`)

        Raises:
            UnknownId: If there is no such user or item.
            ValueError: If :obj:`allow` and :obj:`deny` leave no item.
        """
        selection = self.select(allow, deny)
        return self._recommend(_rows(self.user, users), k, exclude_seen, selection, parts)

    def select(self, allow: Sequence[Id] | None, deny: Sequence[Id] | None) -> Selection:
        r"""The items that an allow list and a deny list leave."""
        allowed, denied = (None if ids is None else _rows(self.item, ids) for ids in (allow, deny))
        left = select_items(self.model.num_items, allowed, denied)
        if left is not None and allowed is not None:
            left = left.to(self.embeddings.item.device)
            return Selection(ItemIndex(self.embeddings.item[left]), left, None)
        # A deny list becomes pairs: an index of all other items would copy the catalogue.
        return Selection(self.index, None, None if denied is None else denied.unique())

    def recommend_json(
        self,
        users: Sequence[Id],
        k: int,
        *,
        exclude_seen: bool,
        parts: bool,
        allow: Sequence[Id] | None = None,
        deny: Sequence[Id] | None = None,
    ) -> Iterator[bytes]:
        r"""The JSON text of :meth:`recommend` without its brackets, one block of users at a time.
        Errors are raised at the call.
        """
        user, selection = _rows(self.user, users), self.select(allow, deny)

        def rows(block: Tensor) -> list[dict[str, Any]]:
            return self._recommend(block, k, exclude_seen, selection, parts)

        return _json_blocks(user, rows)

    def similar_json(self, items: Sequence[Id], k: int) -> Iterator[bytes]:
        r"""The JSON text of :meth:`similar` without its brackets, one block of items at a time."""
        return _json_blocks(_rows(self.item, items), lambda block: self._similar(block, k))

    @torch.no_grad()
    def _recommend(
        self, user: Tensor, k: int, exclude_seen: bool, selection: Selection, parts: bool
    ) -> list[dict[str, Any]]:
        query = self.embeddings.user[user]
        mask = self.seen_pairs(user) if exclude_seen else user.new_empty(2, 0)
        index, candidates, denied = selection
        if candidates is not None:
            mask = restrict_pairs(mask, candidates, self.model.num_items)
        elif denied is not None:
            row = torch.arange(user.numel(), device=mask.device)
            pairs = torch.cartesian_prod(row, denied.to(mask.device)).view(-1, 2).t()
            mask = torch.cat([mask, pairs], dim=1)
        score, item = index.search(query, min(k, index.numel), mask)
        if candidates is not None:
            item = torch.where(item < 0, item, candidates[item])
        out = []
        for u, items, scores in zip(user.tolist(), item.tolist(), score.tolist()):
            rows = [self._row(i, s) for i, s in zip(items, scores) if i >= 0]
            if parts:
                found = torch.tensor([i for i in items if i >= 0], dtype=torch.long)
                self._add_parts(rows, u, found)
            out.append({'user': self.user_name(u), 'items': rows})
        return out

    def similar(self, items: Sequence[Id], k: int = 20) -> list[dict[str, Any]]:
        r"""Returns ``{'item': id, 'items': [{'item': id, 'score': float}, ...]}`` for each item:
        the :obj:`k` others of largest cosine.

        Raises:
            UnknownId: If there is no such item.
        """
        return self._similar(_rows(self.item, items), k)

    @torch.no_grad()
    def _similar(self, item: Tensor, k: int) -> list[dict[str, Any]]:
        itself = torch.stack([torch.arange(item.numel()), item])
        k = min(k, self.similar_index.numel)
        score, near = self.similar_index.search(self.similar_index.item[item], k, itself)
        return [
            {
                'item': self.item_name(i),
                'items': [self._row(j, s) for j, s in zip(*row) if j >= 0],
            }
            for i, row in zip(item.tolist(), zip(near.tolist(), score.tolist()))
        ]

    def explain(self, user: Id, item: Id) -> dict[str, Any]:
        r"""Returns the explanation of a score by :func:`mrdib_pyg.pid.explain_pair`, in nats.

        Raises:
            UnknownId: If there is no such user or item.
            Unavailable: If this model cannot be explained.
        """
        u, i = self.user(user), self.item(item)
        if self.explainer is None:
            raise Unavailable(f'this service cannot explain: {self.why_not}')
        told = self.explainer(u, i)[0]._replace(user=self.user_name(u), item=self.item_name(i))
        return {**told.to_dict(), 'parts': told.parts}

    def describe(self) -> dict[str, Any]:
        r"""Describes the model and its sizes, without any id."""
        return {
            'status': 'ok',
            'model': type(self.model).__name__,
            'mrdib': self.model.mrdib is not None,
            'num_users': self.model.num_users,
            'num_items': self.model.num_items,
            'modalities': list(self.modalities),
            'index': 'approximate' if self.index.approximate else 'exact',
            'explain': self.explainer is not None,
            'raw_ids': {'user': self.user_ids is not None, 'item': self.item_ids is not None},
        }

    def user(self, name: Id) -> int:
        r"""The index of a user, or :class:`UnknownId`."""
        return _index('user', name, self.user_ids, self.model.num_users)

    def item(self, name: Id) -> int:
        r"""The index of an item, or :class:`UnknownId`."""
        return _index('item', name, self.item_ids, self.model.num_items)

    def user_name(self, index: int) -> Id:
        r"""The raw id of a user, else the index."""
        return index if self.user_ids is None else self.user_ids[index]

    def item_name(self, index: int) -> Id:
        r"""The raw id of an item, else the index."""
        return index if self.item_ids is None else self.item_ids[index]

    def _row(self, item: int, score: float) -> dict[str, Any]:
        return {'item': self.item_name(item), 'score': score}

    def _add_parts(self, rows: list[dict[str, Any]], user: int, item: Tensor) -> None:
        scores = {m: (x[item] @ u[user]).tolist() for m, (u, x) in self.modalities.items()}
        for n, row in enumerate(rows):
            row['parts'] = {m: score[n] for m, score in scores.items()}


def _rows(index: Callable[[Id], int], names: Sequence[Id]) -> Tensor:
    return torch.tensor([index(name) for name in names], dtype=torch.long)


def _json_blocks(ids: Tensor, rows: Callable[[Tensor], list[dict[str, Any]]]) -> Iterator[bytes]:
    for n, block in enumerate(ids.split(_BLOCK)):
        yield (b',' if n > 0 else b'') + json.dumps(rows(block), ensure_ascii=False).encode()[1:-1]


def modality_embeddings(model: Recommender) -> dict[str, tuple[Tensor, Tensor]]:
    r"""The embeddings of users and items by each modality alone, ``[U, d]`` and ``[I, d]``. Their
    inner product is a score.
    """
    if not model.multimodal:
        return {}
    x: Mapping[str, Any] = model.modality_embeddings()
    if model.mrdib is not None:
        encoded = model.mrdib(x)
        x = {m: (None if u is None else u.z, i.z) for m, (u, i) in encoded.items()}
    pairs = model.unimodal(x, model.embed())
    return {m: (user.detach(), item.detach()) for m, (user, item) in pairs.items()}


def _index(kind: str, name: Id, ids: IdMap | None, size: int) -> int:
    if ids is not None:
        if str(name) not in ids:
            raise UnknownId(f'there is no {kind} {str(name)[:80]!r}')
        return ids.index(name)
    text = str(name)
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text) < size):
        raise UnknownId(f'there is no {kind} {text[:80]!r}; ids run from 0 to {size - 1}')
    return int(text)
