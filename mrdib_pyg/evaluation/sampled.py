from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.evaluation.full_ranking import check_k, embeddings_of
from mrdib_pyg.interactions import has_training_edge, label_edges, num_nodes


def evaluate_sampled(
    model: Any,
    data: HeteroData,
    split: str,
    negatives: Tensor,
    k: int | Iterable[int] = (1, 3, 10),
    *,
    batch_size: int = 1024,
) -> dict[str, float]:
    r"""Computes the mean reciprocal rank (MRR) and the hits at ``k`` of held-out edges among
    sampled candidates.

    The rank of a held-out item is one plus the number of candidates with a larger score plus half
    the number with the same score, as in ``ogb.linkproppred.Evaluator`` for ``ogbl-citation2``.
    Hits at ``k`` is the share of edges with a rank of at most ``k``.

    Averages run over held-out *edges*, without those of users who have no training edge. Sampled
    candidates are an easier task than the full ranking of :func:`~mrdib_pyg.evaluation.evaluate`
    and may order models differently. Use them only to compare with work that reports them.

    Args:
        model (Any): A model with a method ``embed()``, as in
            :func:`~mrdib_pyg.evaluation.evaluate`.
        data (HeteroData): Users, items, training and held-out edges.
        split (str): The held-out edges, ``'val'`` or ``'test'``.
        negatives (torch.Tensor): Item ids of shape ``[num_edges, num_candidates]``, one row for
            each edge of ``data['user', split, 'item'].edge_label_index``; ``-1`` is no candidate.
        k (int or Iterable[int], optional): The cut-offs. (default: ``(1, 3, 10)``)
        batch_size (int, optional): The number of held-out edges to score at a time, which bounds
            memory. (default: ``1024``)

    Returns:
        ``{'mrr': float, 'hits@1': float, ...}``.

    Raises:
        TypeError: If ``model`` has no ``embed()``, or ``k`` is no integer.
        ValueError: If ``split``, ``negatives``, ``k`` or ``batch_size`` does not fit ``data``,
            there is nothing to evaluate, or embeddings or scores are NaN.
    """
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be at least 1 (got {batch_size})")
    label = label_edges(data, split)
    num_items = num_nodes(data, 'item')
    ks = check_k(k, num_items)
    if negatives.dim() != 2 or negatives.size(0) != label.size(1) or negatives.size(1) == 0:
        raise ValueError(
            f"'negatives' must have the shape [{label.size(1)}, num_candidates], one row for each "
            f'held-out edge of split {split!r} (got {list(negatives.shape)})'
        )
    low, high = int(negatives.min()), int(negatives.max())
    if low < -1 or high >= num_items:
        raise ValueError(
            f"'negatives' must hold item ids in [0, {num_items}), or -1 for no candidate (got "
            f'{low if low < -1 else high})'
        )
    keep = has_training_edge(data, label, split)
    x_user, x_item = embeddings_of(model, data)
    device = x_user.device
    label = label[:, keep].to(device)
    negatives = negatives[keep.to(negatives.device)]

    ranks: list[Tensor] = []
    for start in range(0, label.size(1), batch_size):
        user, item = label[:, start : start + batch_size]
        candidates = negatives[start : start + batch_size].to(device)
        candidates = torch.cat([item.view(-1, 1), candidates], dim=1)
        # The item's own score comes from the same kernel, so that equal embeddings tie exactly.
        score = (x_user[user].unsqueeze(1) * x_item[candidates.clamp(min=0)]).sum(dim=-1)
        if score.isnan().any():
            raise ValueError(
                f'the scores of split {split!r} must be numbers (got NaN for '
                f'{int(score.isnan().any(dim=1).sum())} edges); check the training loss'
            )
        own, other, valid = score[:, :1], score[:, 1:], candidates[:, 1:] >= 0
        larger = ((other > own) & valid).sum(dim=1)
        equal = ((other == own) & valid).sum(dim=1)
        ranks.append(1 + larger + 0.5 * equal)

    rank = torch.cat(ranks)
    out = {'mrr': float((1 / rank).mean(dtype=torch.float64))}
    for value in ks:
        out[f'hits@{value}'] = float((rank <= value).double().mean())
    return out
