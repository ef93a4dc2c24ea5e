import math

import torch
from torch import Tensor


def choose_bins(num_pairs: int, max_bins: int = 12, max_bias: float = 0.01) -> int:
    r"""Returns the number of bins :math:`B \leq` :obj:`max_bins` of each of two scores with which
    the bias of their joint table, about :math:`B^2 / 2n` nats for :math:`n` pairs, stays below
    :obj:`max_bias`; at least 2.
    """
    return min(max_bins, max(2, int(math.sqrt(2 * max_bias * num_pairs))))


def quantile_bins(score: Tensor, num_bins: int) -> Tensor:
    r"""Returns the bin of each score between its quantiles, ``[n]``; equal scores share a bin."""
    edges = score.sort().values[torch.arange(1, num_bins) * len(score) // num_bins]
    return torch.bucketize(score, torch.unique(edges), right=True)


def user_weights(user: Tensor, num_samples: int, seed: int) -> Tensor:
    r"""Returns how often each pair counts in the sample itself and in resamples of its users with
    replacement, ``[1 + num_samples, n]``.
    """
    ids, inverse = torch.unique(user, return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    counts = torch.ones(1 + num_samples, len(ids), dtype=torch.float64)
    for row in counts[1:]:
        drawn = torch.randint(len(ids), (len(ids),), generator=generator)
        row.copy_(torch.bincount(drawn, minlength=len(ids)))
    return counts[:, inverse]


def joint_table(weights: Tensor, *bins: Tensor) -> Tensor:
    r"""Counts pairs by their bins, each pair by its weight, ``[R, n]`` to ``[R, B_1, B_2, ...]``,
    and divides each table by its sum.
    """
    sizes = [int(x.max()) + 1 for x in bins]
    cell = torch.zeros_like(bins[0])
    for x, size in zip(bins, sizes):
        cell = cell * size + x
    table = torch.zeros(math.prod(sizes), len(weights), dtype=weights.dtype)
    table.index_add_(0, cell, weights.t().contiguous())
    table = table.t() / weights.sum(dim=1, keepdim=True)
    return table.reshape(-1, *sizes)
