"""The types of all models (batches, rows, embeddings), and helpers of their losses."""

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrdib_pyg.ops import NormalizedAdjacency, propagate_mean
from mrdib_pyg.ops._propagate import mean_of_rows

#: The users (if they have any) and items of one modality.
Pair = tuple[Tensor | None, Tensor]


class Triplets(NamedTuple):
    r"""A batch of users, positive and negative items, ``[B]`` each."""

    src_index: Tensor
    dst_pos_index: Tensor
    dst_neg_index: Tensor


class Rows(NamedTuple):
    r"""The ids of the users and items that a loss reads, sorted and without repeats."""

    user: Tensor
    item: Tensor


class Embeddings(NamedTuple):
    r"""The users and items whose inner product is the score, and named views a loss needs."""

    user: Tensor
    item: Tensor
    views: dict[str, tuple[Tensor, Tensor]] = {}

    def embed(self) -> 'Embeddings':
        r"""Returns itself, so that :func:`~mrdib_pyg.evaluation.evaluate` takes it as a model."""
        return self


def check_at_least(minimum: int, **values: int) -> None:
    r"""Raises :class:`ValueError` if a setting is below the minimum."""
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"'{name}' must be at least {minimum} (got {value})")


def bpr_loss(user: Tensor, item: Tensor, batch: Triplets) -> Tensor:
    r"""Computes the Bayesian personalized ranking loss (`arXiv:1205.2618
    <https://arxiv.org/abs/1205.2618>`_), the mean of :math:`-\log \sigma(s(u, i^+) - s(u, i^-))`.
    """
    src, pos, neg = batch
    # On CPU, `item[neg]` takes many times as long.
    difference = item.index_select(0, neg) - item.index_select(0, pos)
    return F.softplus((user.index_select(0, src) * difference).sum(dim=-1)).mean()


def batch_squares(user: Tensor, item: Tensor, batch: Triplets) -> Tensor:
    r"""Returns the sums of squared norms of the users, positive and negative items, ``[3]``."""
    src, pos, neg = batch
    # First of each row, then of the batch: no row is gathered.
    dtype = torch.promote_types(user.dtype, torch.float32)
    user, item = (x.square().sum(dim=-1, dtype=dtype) for x in (user, item))
    rows = ((user, src), (item, pos), (item, neg))
    return torch.stack([x.index_select(0, index).sum() for x, index in rows])


def batch_norms(user: Tensor, item: Tensor, batch: Triplets) -> Tensor:
    r"""Returns the sum of the Frobenius norms of a batch's users, positive and negative items. The
    gradient of a norm of zero is zero.
    """
    squares = batch_squares(user, item, batch)
    return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt().sum()


def weighted_sum(codes: list[Any], weight: Tensor) -> Tensor:
    r"""Returns the sum of the codes of all modalities by the weights of each row, ``[N, M]``."""
    terms = [x * w for x, w in zip(codes, weight.split(1, dim=1))]
    return functools.reduce(torch.add, terms)


def take_rows(user: Tensor, item: Tensor, rows: Rows | None) -> tuple[Tensor, Tensor]:
    r"""Returns the given rows of users and items, all of them for :obj:`None`."""
    if rows is None:
        return user, item
    return user.index_select(0, rows.user), item.index_select(0, rows.item)


# Tables of fewer entries stay near a core's cache, where whole layers are as fast as rows.
_MIN_ENTRIES = 2**22


def propagate_rows(
    x: tuple[Tensor, Tensor], adj: NormalizedAdjacency, num_layers: int, rows: Rows | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    r"""Returns some rows of :func:`~mrdib_pyg.ops.propagate_mean`, and the same rows of :obj:`x`.
    Large tables are summed over layers for these rows alone.
    """
    if rows is not None and sum(table.numel() for table in x) > _MIN_ENTRIES:
        return mean_of_rows(x, adj, num_layers, rows)
    return take_rows(*propagate_mean(x, adj, num_layers), rows), take_rows(*x, rows)


def to_local(batch: Triplets) -> tuple[Rows, Triplets]:
    r"""Returns the rows that a batch reads, and the batch in terms of these rows."""
    user, src = torch.unique(batch.src_index, return_inverse=True)
    both = torch.cat([batch.dst_pos_index, batch.dst_neg_index])
    item, dst = torch.unique(both, return_inverse=True)
    pos, neg = dst.chunk(2)
    return Rows(user, item), Triplets(src, pos, neg)
