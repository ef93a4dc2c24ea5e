import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.pid.atoms import information
from mrdib_pyg.pid.explanation import Explanation
from mrdib_pyg.pid.joint_table import choose_bins, joint_table, quantile_bins
from mrdib_pyg.pid.labeled_pairs import sample_pairs
from mrdib_pyg.pid.model_sources import CONTENT, model_sources
from mrdib_pyg.pid.predictors import ALL, Predictors


class Explainer:
    r"""Explains the scores of a trained recommender, pair by pair. What it needs of the data is
    read once: see :func:`explain` for what it computes.

    Args:
        model (Recommender): The trained model, as it is now.
        data (HeteroData): Its data, with validation edges.
        negatives (str, optional): How non-edges are drawn, see :func:`measure`.
            (default: :obj:`"uniform"`)
        seed (int, optional): Seeds the draws. (default: :obj:`0`)

    Raises:
        TypeError: If the model is no recommender of this package.
        ValueError: If the model has no modality, or the data no validation edges.
    """

    def __init__(
        self, model: Recommender, data: HeteroData, negatives: str = 'uniform', seed: int = 0
    ) -> None:
        sources = {name: source.cpu() for name, source in model_sources(model).items()}
        pairs = sample_pairs(data, 'val', negatives, seed=seed)
        self.size = (model.num_users, model.num_items)
        self.predictors = Predictors(sources, model.modalities, pairs)
        logits = self.predictors(pairs.user, pairs.item)
        one, num_bins = torch.ones(1, len(pairs.y), dtype=torch.float64), choose_bins(len(pairs.y))
        known = {
            name: float(
                information(joint_table(one, quantile_bins(logits[name], num_bins), pairs.y))
            )
            for name in model.modalities
        }
        self.weakest = min(known, key=known.__getitem__)

    def __call__(self, user: int | Tensor, item: int | Tensor) -> list[Explanation]:
        r"""Explains pairs of a user and an item.

        Args:
            user (int or torch.Tensor): The users, ``[n]``.
            item (int or torch.Tensor): The items, ``[n]``.

        Raises:
            ValueError: If the numbers of users and items differ.
            IndexError: If a user or an item does not exist.
        """
        users, items = (torch.as_tensor(x).reshape(-1).cpu() for x in (user, item))
        if users.shape != items.shape:
            raise ValueError(
                f"'user' and 'item' must be as many (got {users.numel()} and {items.numel()})"
            )
        for name, x, size in zip(('user', 'item'), (users, items), self.size):
            if x.numel() > 0 and not 0 <= int(x.min()) <= int(x.max()) < size:
                raise IndexError(
                    f"'{name}' must lie in [0, {size}) (got {int(x.min())} to {int(x.max())})"
                )
        logits = self.predictors(users, items)
        said = {name: (logsigmoid(x) + math.log(2.0)).tolist() for name, x in logits.items()}
        out = []
        for i, (u, v) in enumerate(zip(users.tolist(), items.tolist())):
            alone = {name: said[name][i] for name in self.predictors.modalities}
            shared = alone[self.weakest] if len(alone) > 1 else 0.0
            unique = {name: x - shared for name, x in alone.items()}
            content, total = said[CONTENT][i], said[ALL][i]
            out.append(
                Explanation(
                    user=u,
                    item=v,
                    total=total,
                    redundant=shared,
                    unique=unique,
                    synergistic=content - shared - sum(unique.values()),
                    id=total - content if self.predictors.has_id else None,
                    weakest=self.weakest,
                )
            )
        return out


def explain(
    model: Recommender,
    user: int,
    item: int,
    data: HeteroData,
    *,
    negatives: str = 'uniform',
    seed: int = 0,
) -> Explanation:
    r"""Says in nats what speaks for a user taking an item: what the modalities share, what each
    adds, what only their fusion adds, and what the ID path adds.

    The scores of the model are made log-odds :math:`\ell` on the validation edges, as in
    :func:`measure`. A predictor says :math:`i = \ln \sigma(\ell) + \ln 2` of a pair, its pointwise
    information about the pair being an edge. With the predictors of one modality :math:`m`, of all
    codes, and of codes and IDs,

    .. math::
        r = i_{m^*}, \quad u_m = i_m - r, \quad s = i_{\mathrm{content}} - r - \sum_m u_m, \quad
        i_{\mathrm{all}} = r + \sum_m u_m + s + i_{\mathrm{id}}

    where :math:`m^*` is the modality that knows least of all validation edges. With three or more
    modalities, what only some of them share is in :math:`s`.

    These are statements about the model, not about what moves the user, and a single pair has no
    interval. To explain many pairs, make an :class:`Explainer`.

    Args:
        model (Recommender): The trained model.
        user (int): The user.
        item (int): The item.
        data (HeteroData): The data of the model, with validation edges.
        negatives (str, optional): How non-edges are drawn, see :func:`measure`.
            (default: :obj:`"uniform"`)
        seed (int, optional): Seeds the draws. (default: :obj:`0`)

    Returns:
        Explanation: The parts, their sum and a sentence.

    Raises:
        TypeError: If the model is no recommender of this package.
        ValueError: If the model has no modality, or the data no validation edges.
        IndexError: If the user or the item does not exist.
    """
    return Explainer(model, data, negatives, seed)(user, item)[0]
