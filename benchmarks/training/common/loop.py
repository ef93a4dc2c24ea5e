r"""The common way to draw negatives, to train and to evaluate."""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.training.common.models import CommonModel

BATCH_SIZE = 2_048


class PythonSampler:
    r"""Negatives drawn one by one: an item of the training edges that the user has no edge to.

    Args:
        edge_index (torch.Tensor): The training edges.
        seed (int, optional): Seeds the draws. (default: :obj:`0`)
    """

    def __init__(self, edge_index: Tensor, seed: int = 0) -> None:
        self.items = sorted(set(edge_index[1].tolist()))
        self.history: dict[int, set[int]] = {}
        for user, item in edge_index.t().tolist():
            self.history.setdefault(user, set()).add(item)
        self.random = random.Random(seed)

    def sample(self, users: list[int]) -> list[int]:
        r"""Draws a negative for each user."""
        negatives = []
        for user in users:
            item = self.random.choice(self.items)
            while item in self.history[user]:
                item = self.random.choice(self.items)
            negatives.append(item)
        return negatives


@torch.no_grad()
def dense_topk(
    user: Tensor, item: Tensor, k: int, seen: Tensor, batch_size: int = BATCH_SIZE
) -> Tensor:
    r"""The items of highest score of each user, from the dense scores of a batch of users, in which
    the items of :obj:`seen` are masked.
    """
    out = []
    rows, bounds = _by_user(seen, user.size(0), batch_size)
    for i, start in enumerate(range(0, user.size(0), batch_size)):
        scores = user[start : start + batch_size] @ item.t()
        part = rows[:, bounds[i] : bounds[i + 1]]
        scores[part[0] - start, part[1]] = -1e10
        out.append(torch.topk(scores, k, dim=-1)[1])
    return torch.cat(out)


def evaluate_in_loops(
    scores: Callable[[Tensor], Tensor],
    data: HeteroData,
    split: str,
    ks: Sequence[int] = (5, 10, 20, 50),
    batch_size: int = BATCH_SIZE,
) -> dict[str, float]:
    r"""Recall, NDCG, precision and MAP of a full ranking, the common way.

    Args:
        scores (Callable): Returns the scores of all items for a batch of users.
        data (HeteroData): The training and held-out edges.
        split (str): The held-out edges.
        ks (Sequence[int], optional): The cut-offs.
        batch_size (int, optional): Users scored at a time.
    """
    train = data['user', 'rates', 'item'].edge_index
    device = train.device
    known = set(train[0].tolist())
    positives: dict[int, list[int]] = {}
    for user, item in data['user', split, 'item'].edge_label_index.t().tolist():
        if user in known:
            positives.setdefault(user, []).append(item)
    users = sorted(positives)
    truth = [np.array(sorted(set(positives[user]))) for user in users]

    # The seen items of the users that are ranked, numbered by their place in the list.
    place = torch.full((int(data['user'].num_nodes),), -1, device=device)
    ranked = torch.tensor(users, device=device)
    place[ranked] = torch.arange(len(users), device=device)
    seen = torch.stack([place[train[0]], train[1]])
    rows, bounds = _by_user(seen[:, seen[0] >= 0], len(users), batch_size)
    lists = []
    with torch.no_grad():
        for i, start in enumerate(range(0, len(users), batch_size)):
            matrix = scores(ranked[start : start + batch_size])
            part = rows[:, bounds[i] : bounds[i + 1]]
            matrix[part[0] - start, part[1]] = -1e10
            lists.append(torch.topk(matrix, max(ks), dim=-1)[1].cpu().numpy())
    hits = []
    for items, row in zip(truth, np.concatenate(lists)):
        hits.append([item in items for item in row])
    return _metrics(np.array(hits, dtype=float), [len(items) for items in truth], ks)


def _metrics(hits: np.ndarray, counts: list[int], ks: Sequence[int]) -> dict[str, float]:
    out: dict[str, float] = {}
    for k in ks:
        recall, ndcg, precision, average = [], [], [], []
        for row, count in zip(hits, counts):
            found, dcg, ap = 0.0, 0.0, 0.0
            for position in range(k):
                if row[position]:
                    found += 1
                    dcg += 1 / math.log2(position + 2)
                    ap += found / (position + 1)
            ideal = sum(1 / math.log2(j + 2) for j in range(min(count, k)))
            recall.append(found / count)
            ndcg.append(dcg / ideal)
            precision.append(found / k)
            average.append(ap / min(count, k))
        for name, values in zip(
            ('recall', 'ndcg', 'precision', 'map'), (recall, ndcg, precision, average)
        ):
            out[f'{name}@{k}'] = float(np.mean(values))
    return out


def _by_user(pairs: Tensor, num_users: int, batch_size: int) -> tuple[Tensor, list[int]]:
    rows = pairs[:, pairs[0].argsort(stable=True)]
    bounds = torch.arange(0, num_users + batch_size, batch_size, device=rows.device)
    return rows, torch.searchsorted(rows[0].contiguous(), bounds).tolist()


class CommonLoop:
    r"""Training and evaluation the common way: shuffled edges, negatives from Python, Adam by its
    defaults (on CPU one tensor at a time), and both held-out splits after every epoch.

    Args:
        model (CommonModel): The model.
        data (HeteroData): Its data.
        batch_size (int, optional): Triplets per step. (default: :obj:`2048`)
        lr (float, optional): The learning rate. (default: :obj:`1e-3`)
    """

    def __init__(
        self, model: CommonModel, data: HeteroData, batch_size: int = 2048, lr: float = 1e-3
    ) -> None:
        self.model, self.data, self.batch_size = model, data, batch_size
        self.edge_index = data['user', 'rates', 'item'].edge_index
        self.sampler = PythonSampler(self.edge_index)
        self.optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)

    def step(self, user: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor) -> float:
        self.optimizer.zero_grad()
        loss = self.model.loss(user, pos, neg)
        if torch.isnan(loss):
            raise FloatingPointError('the loss is NaN')
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def epoch(self) -> float:
        self.model.train()
        self.model.on_epoch_start()
        edges = self.edge_index[
            :, torch.randperm(self.edge_index.size(1)).to(self.edge_index.device)
        ]
        total = 0.0
        for batch in edges.split(self.batch_size, dim=1):
            neg = self.sampler.sample(batch[0].tolist())
            total += self.step(batch[0], batch[1], torch.tensor(neg, device=batch.device))
        return total

    def evaluate(self, split: str) -> dict[str, float]:
        self.model.eval()
        return evaluate_in_loops(self.model.scores, self.data, split, self.cutoffs)

    @property
    def cutoffs(self) -> list[int]:
        return [k for k in (5, 10, 20, 50) if k <= self.model.num_items]
