import math
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrdib_pyg.datasets import Planted
from mrdib_pyg.interactions import SPLITS
from mrdib_pyg.pid._decompose import atoms

KINDS = ('v', 't', 'r', 's')
#: The kinds of bits that tell of the target in each modality; a factor of a product tells nothing.
SEEN = {'image': ('v', 'r'), 'text': ('t', 'r')}
_MAX_POINTS = 2**23


class PlantedTruth(NamedTuple):
    r"""The decomposition of planted data, computed from its generator, in nats.

    Args:
        redundant (float): The redundant information.
        unique (Dict[str, float]): The unique information of each modality.
        synergistic (float): The synergistic information.
        total (float): The information of all bits.
        error (float): How far each of these may be off, by the number of bins.
    """

    redundant: float
    unique: dict[str, float]
    synergistic: float
    total: float
    error: float


class LogOdds(NamedTuple):
    r"""A source of known log-odds, one for each user and item.

    Args:
        table (torch.Tensor): The log-odds, ``[U, I]``.
    """

    table: Tensor

    def features(self, user: Tensor, item: Tensor) -> Tensor:
        r"""Returns the log-odds of pairs, ``[n, 1]``."""
        return self.table[user, item].unsqueeze(-1)


class PlantedGenerator:
    r"""What the generator of :class:`~mrdib_pyg.datasets.Planted` knows: the log-odds of an edge
    against a non-edge, given the user and the bits that each modality shows, or all of them.

    An item with utility :math:`w` comes first by its Gumbel noise in proportion to :math:`e^w`.
    Among many items, a user takes those whose exponential clock of rate :math:`e^w` rings before a
    time :math:`\tau_u`, so an item is taken with the probability :math:`\pi = 1 - e^{-\tau_u e^w}`
    where :math:`\tau_u` makes their mean the share of the items that a user takes. Held-out edges
    are a random part of these. Items are those of the whole population of bits, which is uniform,
    not of the catalogue; users are those of the data.

    Args:
        dataset (Planted): The data.
    """

    def __init__(self, dataset: Planted) -> None:
        data = dataset[0]
        num_edges = sum(data['user', name, 'item'][key].size(1) for name, key in SPLITS.values())
        self.num_users = int(data['user'].num_nodes)
        self.share = num_edges / self.num_users / int(data['item'].num_nodes)
        self.kinds = [kind for kind in KINDS if dataset.weights[kind] != 0]
        if not self.kinds:
            raise ValueError("all 'weights' are zero, so there is nothing to know")
        self.preference = {k: dataset.weights[k] * dataset.preference[k].double() for k in KINDS}
        self.words = torch.tensor(list(product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
        place = torch.tensor([8, 4, 2, 1])
        self.index = {k: (dataset.bits[k] > 0).long() @ place for k in self.kinds}

    def log_odds(self, users: Tensor) -> dict[str, Tensor]:
        r"""Returns by modality, and as :obj:`"content"` for both, the log-odds given the user and
        the words of bits, ``[U, 16, 16, ...]`` with an axis of 16 words for each kind that
        matters, of size 1 where the words are not seen; and as :obj:`"taken"` the probability of
        each word to be taken.
        """
        shape = [len(users), *([1] * len(self.kinds))]
        utility = torch.zeros(shape, dtype=torch.float64)
        for axis, kind in enumerate(self.kinds, start=1):
            view = [len(users), *(16 if k == kind else 1 for k in self.kinds)]
            utility = utility + (self.preference[kind][users] @ self.words.t()).view(view)
            shape[axis] = 16
        utility = utility.reshape(shape)
        taken = -torch.expm1(-(self._log_time(utility.flatten(1)).view(-1, *[1] * len(self.kinds))
                               + utility).exp())  # fmt: skip
        out = {'taken': taken, 'content': taken}
        for name, kinds in SEEN.items():
            unseen = [axis for axis, k in enumerate(self.kinds, start=1) if k not in kinds]
            out[name] = taken.mean(dim=unseen, keepdim=True) if unseen else taken
        prior = math.log(self.share / (1 - self.share))
        # What is taken all but surely has odds beyond what a double can hold.
        return {k: x if k == 'taken' else x.logit(1e-12) - prior for k, x in out.items()}

    def sources(self) -> dict[str, LogOdds]:
        r"""Returns the generator's own scores of the items of the catalogue, as sources for
        :func:`measure_sources`.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in (*SEEN, 'content')}
        for users in self._chunks():
            odds = self.log_odds(users)
            for name, tables in found.items():
                x = odds[name]
                index: list[Any] = [
                    self.index[kind] if x.size(axis) > 1 else torch.zeros(1, dtype=torch.long)
                    for axis, kind in enumerate(self.kinds, start=1)
                ]
                found_odds = x[tuple([slice(None)] + index)]
                tables.append(found_odds.expand(-1, len(self.index[self.kinds[0]])))
        out = {name: LogOdds(torch.cat(tables)) for name, tables in found.items()}
        return {**out, '+'.join(SEEN): out['content'], 'score': out['content']}

    def truth(self, num_bins: int = 64) -> PlantedTruth:
        r"""Computes the decomposition by BROJA over the population of bits: the informations
        exactly, :math:`\ln 2` less the mean entropy of :math:`Y` given the log-odds, and the
        unique parts from a table of :obj:`num_bins` bins of the probability of an edge. What these
        bins do not tell apart, and the difference to half as many bins, is the error.
        """
        known = dict.fromkeys((*SEEN, 'content'), 0.0)
        tables = {name: torch.zeros(2, num_bins, dtype=torch.float64) for name in SEEN}
        for users in self._chunks():
            odds = self.log_odds(users)
            mass = odds['taken'] / self.share, (1 - odds['taken']) / (1 - self.share)
            for name in known:
                unseen = [a for a in range(1, mass[0].dim()) if odds[name].size(a) == 1]
                # Edges and non-edges of words that the source does not tell apart.
                seen = [m.mean(dim=unseen, keepdim=True) if unseen else m for m in mass]
                p = odds[name].sigmoid()
                known[name] += float(_gain(odds[name], p, *seen).flatten(1).mean(1).sum())
                if name in SEEN:
                    bins = (p * num_bins).long().clamp(max=num_bins - 1).flatten()
                    for row, m in zip(tables[name], (seen[1], seen[0])):
                        row.index_add_(0, bins, m.expand_as(p).flatten() / p[0].numel())
        known = {name: x / self.num_users for name, x in known.items()}
        first, second = (known[name] for name in SEEN)
        total = known['content']
        fine, coarse = (
            _unique(*(x.view(2, -1, n).sum(-1) for x in tables.values())) for n in (1, 2)
        )
        # Bins lose less of a unique part, a difference, than of a redundant one.
        redundant = min(max(first - fine[0], second - fine[1]), first, second)
        error = max(abs(x - y) for x, y in zip(fine, coarse))
        error += max(abs(_information(tables[name]) - known[name]) for name in SEEN)
        return PlantedTruth(
            redundant,
            {name: known[name] - redundant for name in SEEN},
            total - first - second + redundant,
            total,
            error,
        )

    def _log_time(self, utility: Tensor) -> Tensor:
        # Solves mean(1 - exp(-tau e^w)) = share for each user by bisection, in log(tau).
        low = math.log(self.share) - utility.amax(dim=1) - 1.0
        high = -utility.amin(dim=1) + 5.0
        for _ in range(100):
            middle = (low + high) / 2
            share = -torch.expm1(-(middle.unsqueeze(1) + utility).exp()).mean(dim=1)
            low = torch.where(share < self.share, middle, low)
            high = torch.where(share < self.share, high, middle)
        return (low + high) / 2

    def _chunks(self) -> list[Tensor]:
        users = torch.arange(self.num_users)
        return list(users.split(max(1, _MAX_POINTS // 16 ** len(self.kinds))))


def _gain(odds: Tensor, p: Tensor, edge: Tensor, non_edge: Tensor) -> Tensor:
    # Of half edges and half non-edges: ln 2 less the entropy, weighted by the mass of each word.
    entropy = -(p * torch.nn.functional.logsigmoid(odds)
                + (1 - p) * torch.nn.functional.logsigmoid(-odds))  # fmt: skip
    return 0.5 * (edge + non_edge) * (math.log(2.0) - entropy)


def _joint(first: Tensor, second: Tensor) -> Tensor:
    # The decomposition depends on what each source says alone: any coupling will do.
    x, y = (t / t.sum(dim=1, keepdim=True) for t in (first, second))
    return 0.5 * (x.unsqueeze(2) * y.unsqueeze(1)).permute(1, 2, 0)


def _unique(first: Tensor, second: Tensor) -> list[float]:
    joint = _joint(first, second)
    joint = joint[joint.sum((1, 2)) > 0][:, joint.sum((0, 2)) > 0]
    return atoms(joint[None], 'broja')[0, 1:3].tolist()


def _information(table: Tensor) -> float:
    joint = _joint(table, torch.ones(2, 1, dtype=torch.float64))
    return float(atoms(joint[None], 'mmi')[0, 4])
