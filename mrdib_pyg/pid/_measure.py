from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.interactions import num_nodes
from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.pid._decompose import (
    atoms,
    choose_bins,
    information,
    joint_table,
    quantile_bins,
    user_weights,
)
from mrdib_pyg.pid.measurement import Atoms, Estimate, Measurement, PairPID, Part
from mrdib_pyg.pid.pairs import NEGATIVES, LabeledPairs, item_groups, sample_pairs
from mrdib_pyg.pid.sources import ALL, CONTENT, ID, Predictors, model_sources, score_sources

#: The fewest edges of a group of items that are measured.
MIN_EDGES = 50


def measure_pid(
    model: Recommender | Mapping[str, Any],
    data: HeteroData,
    split: str = 'test',
    *,
    negatives: str | Sequence[str] = NEGATIVES,
    groups: Sequence[str] = ('popularity',),
    num_bins: int = 12,
    num_bootstrap: int = 200,
    seed: int = 0,
) -> Measurement:
    r"""Measures in nats which information of a trained recommender about held-out edges is unique
    to a modality, redundant or synergistic, and how much its IDs add.

    The target :math:`Y` is whether a pair of a user and an item is a held-out edge (1) or a
    non-edge of the same user (0), half of each. Certainty is :math:`\ln 2 = 0.693` nats. The
    measure is *usable* information (`"A Theory of Usable Information Under Computational
    Constraints" <https://arxiv.org/abs/2002.10689>`_) given the user: that of the scores of this
    model, turned into log-odds by a logistic regression on the *validation* edges.

    * Each modality is a source :math:`X_m`: the score by its own code alone, see
      :meth:`~mrdib_pyg.nn.models.Recommender.unimodal`.
    * For each pair of modalities, :func:`~mrdib_pyg.pid.decompose` computes :math:`R`, :math:`U_1`
      and :math:`U_2` from the joint table of :math:`Y` and the two log-odds, each in at most
      :obj:`num_bins` quantile bins. Synergy is what the joint predictor adds. It reads the two
      scores and their fused score, see
      :meth:`~mrdib_pyg.nn.models.Recommender.fuse_content`.
    * The ID path is another source. :math:`I(\mathrm{content}; Y \mid \mathrm{id})` is what the
      predictor that reads everything adds to the one that reads the ID path.

    There are two measures. Prefer **BROJA**. **MMI** always sets one unique part to zero. Under
    both, two equally strong modalities that tell different things have *no* unique information: it
    counts as redundant and synergistic (see ``docs/PID.md``).

    The numbers are plug-in estimates from tables. Their bias, about the number of cells over
    :math:`2n`, is reported and not subtracted. Fewer bins keep it below 0.01. Differences may be
    negative. Intervals are the percentiles 2.5 and 97.5 of a bootstrap over users with the same
    bins and calibration, shifted so that they center at the estimate.

    .. code-block:: python

        # Any model: a score for each modality and for their fusion. IDs are optional.
        scores = {
            'image': (model.user, image_codes),  # embeddings: their inner products score
            'text': text_scores,  # a matrix [U, I]
            'content': lambda user, item: model.score(user, item),
        }
        print(measure_pid(scores, data))

    Args:
        model (Recommender or Dict[str, Any]): The trained model, which is not changed, or the
            scores of any other model: each modality by its name, :obj:`"content"` for all
            modalities together, and optionally :obj:`"a+b"` for two of three or more, :obj:`"id"`
            for the ID path and :obj:`"score"` for the ranking. A score is a matrix ``[U, I]``, a
            pair of embeddings ``([U, C], [I, C])``, or a callable from users and items, ``[n]``
            each, to scores ``[n]``. A callable scores all items of each user, because scores are
            centered at the mean of the user.
        data (HeteroData): The data, with validation edges and the edges of the split.
        split (str, optional): The held-out edges. (default: :obj:`"test"`)
        negatives (str or Sequence[str], optional): How non-edges are drawn: :obj:`"uniform"` from
            all items, :obj:`"popularity"` as often as items occur among the held-out edges, so that
            popularity alone has no information. (default: both)
        groups (Sequence[str], optional): Groupings of the items to measure group by group, with
            non-edges from the same group: :obj:`"popularity"`, the tenths of the items by their
            number of training edges (1: fewest), or a column of :obj:`data['item']` with an integer
            or boolean per item. (default: :obj:`("popularity",)`)
        num_bins (int, optional): The largest number of bins, 2 to 12. (default: :obj:`12`)
        num_bootstrap (int, optional): The number of resamples. (default: :obj:`200`)
        seed (int, optional): Seeds all draws. (default: :obj:`0`)

    Returns:
        Measurement: The numbers with their intervals. It prints as a table; for JSON see
        :meth:`Measurement.to_dict`.

    Raises:
        TypeError: If the model is neither a recommender of this package nor scores.
        ValueError: If there is no modality, a score has the wrong shape or is not finite, a split
            has no edges, or a setting is unknown or out of range.
    """
    ways, masks = _check(data, split, negatives, groups, num_bins, num_bootstrap)
    if isinstance(model, Mapping):
        sources, modalities = score_sources(model, num_nodes(data, 'user'), num_nodes(data, 'item'))
        name = 'scores'
    else:
        sources = {name: source.cpu() for name, source in model_sources(model).items()}
        modalities, name = list(model.modalities), type(model).__name__
    return measure_sources(
        sources,
        modalities,
        data,
        split,
        name=name,
        negatives=ways,
        groups=masks,
        num_bins=num_bins,
        num_bootstrap=num_bootstrap,
        seed=seed,
    )


def measure_sources(
    sources: Mapping[str, Any],
    modalities: Sequence[str],
    data: HeteroData,
    split: str = 'test',
    name: str = 'scores',
    negatives: Sequence[str] = NEGATIVES,
    groups: Mapping[str, Mapping[str, Tensor]] | None = None,
    num_bins: int = 12,
    num_bootstrap: int = 200,
    seed: int = 0,
) -> Measurement:
    r"""Measures sources named as :func:`model_sources` names them."""
    overall: dict[str, Part] = {}
    found: dict[str, dict[str, dict[str, Part]]] = {}
    omitted: dict[str, dict[str, int]] = {}
    for way in negatives:
        predictors = Predictors(sources, modalities, sample_pairs(data, 'val', way, 3 * seed))

        def part(pairs: LabeledPairs, predictors: Predictors = predictors) -> Part:
            return estimate(predictors, pairs, num_bins, num_bootstrap, 3 * seed + 2)

        overall[way] = part(sample_pairs(data, split, way, 3 * seed + 1))
        for grouping, masks in (groups or {}).items():
            found.setdefault(grouping, {})
            for group, mask in masks.items():
                pairs = sample_pairs(data, split, way, 3 * seed + 1, mask)
                num_edges = int(pairs.y.sum())
                if num_edges < MIN_EDGES:
                    omitted.setdefault(grouping, {})[group] = num_edges
                else:
                    found[grouping].setdefault(group, {})[way] = part(pairs)
    return Measurement(name, split, list(modalities), overall, found, omitted, num_bootstrap, seed)


def estimate(
    predictors: Predictors, pairs: LabeledPairs, num_bins: int, num_bootstrap: int, seed: int
) -> Part:
    r"""Measures predictors on some pairs, ``num_bootstrap`` resamples at once."""
    logits = predictors(pairs.user, pairs.item)
    num_bins = choose_bins(len(pairs.y), num_bins)
    bins = {name: quantile_bins(x, num_bins) for name, x in logits.items()}
    weights = user_weights(pairs.user, num_bootstrap, seed)
    known = {name: information(joint_table(weights, x, pairs.y)) for name, x in bins.items()}
    out: dict[str, PairPID] = {}
    for a, b in combinations(predictors.modalities, 2):
        table = joint_table(weights, bins[a], bins[b], pairs.y)
        total = known[f'{a}+{b}']
        cells = int((table[0].sum(dim=-1) > 0).sum())
        broja, mmi = (_atoms((a, b), atoms(table, name), total) for name in ('broja', 'mmi'))
        out[f'{a}+{b}'] = PairPID(broja, mmi, bias=(cells - 1) / (2 * len(pairs.y)))
    names = [*predictors.modalities, CONTENT, *([ID] if predictors.has_id else []), ALL]
    beyond: list[Estimate | None] = [None, None]
    if predictors.has_id:
        beyond = [_estimate(known[ALL] - known[x]) for x in (ID, CONTENT)]
    return Part(
        num_edges=int(pairs.y.sum()),
        num_users=len(torch.unique(pairs.user)),
        num_bins=num_bins,
        bias=(num_bins - 1) / (2 * len(pairs.y)),
        informations={name: _estimate(known[name]) for name in names},
        content_given_id=beyond[0],
        id_given_content=beyond[1],
        pairs=out,
    )


def _atoms(names: tuple[str, str], values: Tensor, total: Tensor) -> Atoms:
    redundant, unique_1, unique_2, synergistic, _ = values.unbind(dim=1)
    return Atoms(
        _estimate(redundant),
        {name: _estimate(x) for name, x in zip(names, (unique_1, unique_2))},
        _estimate(total - redundant - unique_1 - unique_2),
        _estimate(synergistic),
        _estimate(total),
    )


def _estimate(values: Tensor) -> Estimate:
    # A resample repeats users, so its table is emptier and its plug-in estimate larger: the
    # interval has the spread of the resamples around the estimate, not around their mean.
    value, resampled = float(values[0]), values[1:]
    if len(resampled) == 0:
        return Estimate(value, value, value)
    q = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=values.dtype))
    low, high = (q - resampled.mean()).tolist()
    return Estimate(value, value + min(low, 0.0), value + max(high, 0.0))


def _check(
    data: HeteroData,
    split: str,
    negatives: str | Sequence[str],
    groups: Sequence[str],
    num_bins: int,
    num_bootstrap: int,
) -> tuple[list[str], dict[str, dict[str, Tensor]]]:
    ways = [negatives] if isinstance(negatives, str) else list(negatives)
    unknown = [way for way in ways if way not in NEGATIVES]
    if unknown or not ways:
        raise ValueError(f"'negatives' must be some of {list(NEGATIVES)} (got {negatives!r})")
    if not 2 <= num_bins <= 12:
        raise ValueError(f"'num_bins' must lie in [2, 12] (got {num_bins})")
    if num_bootstrap < 0:
        raise ValueError(f"'num_bootstrap' must not be negative (got {num_bootstrap})")
    if split == 'val':
        raise ValueError(
            "'split' must not be the validation edges, which calibrate the scores (got 'val'); "
            "pass split='test'"
        )
    names = [groups] if isinstance(groups, str) else groups
    return ways, item_groups(data, names, num_nodes(data, 'item'))
