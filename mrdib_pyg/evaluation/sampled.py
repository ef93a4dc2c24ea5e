from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.evaluation.full_ranking import check_k, embed
from mrdib_pyg.interactions import catalogue_size, has_train_edge, labels


def evaluate_sampled(
    model: Any,
    data: HeteroData,
    split: str,
    negatives: Tensor,
    k: int | Iterable[int] = (1, 3, 10),
    *,
    batch_size: int = 1024,
) -> dict[str, float]:
    r"""Mean reciprocal rank and hits at ``k`` of each held-out edge among sampled candidates.

    The rank of a held-out item among its own candidates is one plus the number of candidates with
    a larger score plus half the number of candidates with the same score, as in
    ``ogb.linkproppred.Evaluator`` for ``ogbl-citation2``. Hits at ``k`` is the share of edges with
    a rank of at most ``k``, MRR the mean of one over the rank.

    Averages run over held-out *edges* (not users); edges of users without a training edge are
    dropped. Sampled candidates make the task easier than the full ranking of
    :func:`~mrdib_pyg.evaluation.evaluate` and may order models differently: use this function to
    compare with work that reports it.

    Args:
        model (Any): A model with a method ``embed()``, as in
            :func:`~mrdib_pyg.evaluation.evaluate`.
        data (HeteroData): Users, items, training and held-out edges.
        split (str): The held-out edges, ``'val'`` or ``'test'``.
        negatives (torch.Tensor): Item ids of shape ``[num_edges, num_candidates]``, one row for
            each edge of ``data['user', split, 'item'].edge_label_index``; ``-1`` is no candidate.
        k (int or Iterable[int]): The cut-offs. (default: ``(1, 3, 10)``)
        batch_size (int): Held-out edges scored at a time; bounds memory and has no influence on
            the result. (default: ``1024``)

    Returns:
        ``{'mrr': float, 'hits@1': float, ...}``.

    Raises:
        TypeError: If ``model`` has no ``embed()``, or ``k`` is no integer.
        ValueError: If ``split``, ``negatives``, ``k`` or ``batch_size`` is not possible for
            ``data``, there is nothing to evaluate, or embeddings or scores are not numbers.
    """
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be at least 1, got {batch_size}")
    label = labels(data, split)
    num_items = catalogue_size(data)[1]
    ks = check_k(k, num_items)
    if negatives.dim() != 2 or negatives.size(0) != label.size(1) or negatives.size(1) == 0:
        raise ValueError(
            f"'negatives' must have shape [{label.size(1)}, num_candidates], one row for each "
            f'held-out edge of split {split!r}, got {list(negatives.shape)}'
        )
    low, high = int(negatives.min()), int(negatives.max())
    if low < -1 or high >= num_items:
        raise ValueError(
            f"'negatives' holds item id {low if low < -1 else high}, but ids must lie in "
            f'0..{num_items - 1}, or be -1 for no candidate'
        )
    keep = has_train_edge(data, label[0])
    if not keep.any():
        raise ValueError(
            f'no user with held-out edges in split {split!r} has a training edge, there is '
            f'nothing to evaluate: check how data was split'
        )
    x_user, x_item = embed(model, data)
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
                f'scores of {int(score.isnan().any(dim=1).sum())} edges in split {split!r} are '
                f'NaN: the embeddings are too large for {x_user.dtype}, check the training loss'
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
