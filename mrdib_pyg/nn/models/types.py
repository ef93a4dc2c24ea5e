"""What models take and return: batches, rows, embeddings; and the loss they share."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: The users (if they have any) and items of one modality.
Pair = tuple[Tensor | None, Tensor]


class Triplets(NamedTuple):
    r"""A batch of users, items they have interacted with, and items drawn as negatives, ``[B]``
    each.
    """

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


def bpr_loss(user: Tensor, item: Tensor, batch: Triplets) -> Tensor:
    r"""Computes the Bayesian personalized ranking loss of `arXiv:1205.2618
    <https://arxiv.org/abs/1205.2618>`_, the mean of :math:`-\log \sigma(s(u, i^+) - s(u, i^-))`
    over triplets, in nats.
    """
    src, pos, neg = batch
    return F.softplus((user[src] * (item[neg] - item[pos])).sum(dim=-1)).mean()


def to_local(batch: Triplets) -> tuple[Rows, Triplets]:
    r"""Returns the rows that a batch reads, and the batch as indices into these rows."""
    user, src = torch.unique(batch.src_index, return_inverse=True)
    both = torch.cat([batch.dst_pos_index, batch.dst_neg_index])
    item, dst = torch.unique(both, return_inverse=True)
    pos, neg = dst.chunk(2)
    return Rows(user, item), Triplets(src, pos, neg)
