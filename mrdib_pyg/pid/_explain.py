import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.pid._decompose import choose_bins, information, joint_table, quantile_bins
from mrdib_pyg.pid.pairs import sample_pairs
from mrdib_pyg.pid.sources import ALL, CONTENT, Predictors, model_sources


class PairExplanation(NamedTuple):
    r"""The score of one user and item in parts that add up, in nats.

    Each number is pointwise information: by how much the log-probability of an edge rises, where
    half of all pairs are edges. Certainty is :math:`\ln 2 = 0.693`. A negative number speaks
    against the item and has no lower limit.

    Args:
        user (int or str): The user.
        item (int or str): The item.
        total (float): The sum of all parts.
        redundant (float): The information of the weakest modality, which all share. 0 with a single
            modality.
        unique (Dict[str, float]): What each modality alone adds to it. 0 for the weakest.
        synergistic (float): What only the fusion of the codes adds.
        id (float, optional): What the ID path adds; :obj:`None` for a model without one.
        weakest (str): The modality with the least information about the validation edges.
    """

    user: int | str
    item: int | str
    total: float
    redundant: float
    unique: dict[str, float]
    synergistic: float
    id: float | None
    weakest: str

    @property
    def parts(self) -> dict[str, float]:
        r"""The parts by name. Their sum is :obj:`total`."""
        out = {'shared': self.redundant} if len(self.unique) > 1 else {}
        out.update({f'{name} alone': x for name, x in self.unique.items()})
        out['fusion'] = self.synergistic
        if self.id is not None:
            out['id'] = self.id
        return out

    @property
    def sentence(self) -> str:
        r"""The parts in words, the largest first."""
        words = {'shared': 'what the modalities share', 'fusion': 'their fusion'}
        words['id'] = 'the IDs of user and item'
        if len(self.unique) == 1:
            words['fusion'] = 'the rest of the content path'
        said = []
        for name, x in sorted(self.parts.items(), key=lambda part: -abs(part[1])):
            if len(self.unique) > 1 and name == f'{self.weakest} alone':
                continue  # zero by definition
            said.append(f'{words.get(name, name)} {_signed(x)}')
        if abs(self.total) < 0.005:
            verdict = 'says next to nothing about'
        else:
            verdict = 'speaks ' + ('for' if self.total > 0 else 'against')
        return (
            f'The model {verdict} item {self.item} for user {self.user} ({_signed(self.total)} of '
            f'at most +0.69 nats): {", ".join(said)}.'
        )

    def to_dict(self) -> dict[str, Any]:
        r"""Returns everything as strict JSON, with the sentence and the unit."""
        return {'unit': 'nats', **self._asdict(), 'sentence': self.sentence}

    def __repr__(self) -> str:
        width = max(map(len, [*self.parts, 'total'])) + 2
        lines = [f'{name:{width}}{x:+.4f}' for name, x in self.parts.items()]
        return '\n'.join([*lines, f'{"total":{width}}{self.total:+.4f}', self.sentence])


def _signed(x: float) -> str:
    text = f'{x:+.2f}'
    return '0.00' if text in ('+0.00', '-0.00') else text


class PIDExplainer:
    r"""Explains many scores of a trained recommender as :func:`explain_pair` does, but fits the
    validation edges once.

    Args:
        model (Recommender): The trained model. Later changes of it have no effect.
        data (HeteroData): The data of the model, with validation edges.
        negatives (str, optional): How non-edges are drawn, see :func:`measure_pid`.
            (default: :obj:`"uniform"`)
        seed (int, optional): Seeds the draws. (default: :obj:`0`)

    Raises:
        TypeError: If the model is not a recommender of this package.
        ValueError: If the model has no modality, or the data have no validation edges.
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

    def __call__(self, user: int | Tensor, item: int | Tensor) -> list[PairExplanation]:
        r"""Explains pairs of users and items, ``[n]`` each.

        Raises:
            ValueError: If the numbers of users and items differ.
            IndexError: If a user or an item does not exist.
        """
        users, items = (torch.as_tensor(x).reshape(-1).cpu() for x in (user, item))
        if users.shape != items.shape:
            raise ValueError(
                f"'user' and 'item' must have one length (got {users.numel()} and {items.numel()})"
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
                PairExplanation(
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


def explain_pair(
    model: Recommender,
    user: int,
    item: int,
    data: HeteroData,
    *,
    negatives: str = 'uniform',
    seed: int = 0,
) -> PairExplanation:
    r"""Splits one score in nats into the information that the modalities share and what each
    modality, their fusion and the ID path add.

    The scores of the model become log-odds :math:`\ell` by a fit on the validation edges, see
    :func:`measure_pid`. The pointwise information of a predictor about an edge is
    :math:`i = \ln \sigma(\ell) + \ln 2`. With the predictors of one modality :math:`m`, of all
    codes, and of codes and IDs,

    .. math::
        r = i_{m^*}, \quad u_m = i_m - r, \quad s = i_{\mathrm{content}} - r - \sum_m u_m, \quad
        i_{\mathrm{all}} = r + \sum_m u_m + s + i_{\mathrm{id}}

    where :math:`m^*` is the modality with the least information about the validation edges. With
    three or more modalities, :math:`s` includes what only some of them share.

    The parts describe the model, not the motives of the user, and have no interval. To explain many
    pairs, use :class:`PIDExplainer`.

    Args:
        model (Recommender): The trained model.
        user (int): The user.
        item (int): The item.
        data (HeteroData): The data of the model, with validation edges.
        negatives (str, optional): How non-edges are drawn, see :func:`measure_pid`.
            (default: :obj:`"uniform"`)
        seed (int, optional): Seeds the draws. (default: :obj:`0`)

    Returns:
        PairExplanation: The parts, their sum and a sentence.

    Raises:
        TypeError: If the model is not a recommender of this package.
        ValueError: If the model has no modality, or the data have no validation edges.
        IndexError: If the user or the item does not exist.
    """
    return PIDExplainer(model, data, negatives, seed)(user, item)[0]
