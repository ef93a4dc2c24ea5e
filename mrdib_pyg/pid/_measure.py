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
    r"""Measures in nats how much of what a trained recommender knows of held-out edges is unique
    to a modality, redundant, or synergistic, and what its IDs know.

    The target :math:`Y` is whether a pair of a user and an item is a held-out edge (1) or a
    non-edge of the same user (0), half of each, so there are :math:`\ln 2 = 0.693` nats to know.
    *Usable* information is measured (`"A Theory of Usable Information Under Computational
    Constraints" <https://arxiv.org/abs/2002.10689>`_), given the user: that of the scores of this
    model, made log-odds by a logistic regression on the *validation* edges.

    * Each modality is a source :math:`X_m`, its score by its own code alone, see
      :meth:`~mrdib_pyg.nn.models.Recommender.unimodal`.
    * For each pair of modalities, :func:`~mrdib_pyg.pid.decompose` takes the joint table of the two
      log-odds, each in at most :obj:`num_bins` bins between its quantiles, and of :math:`Y`, and
      gives :math:`R`, :math:`U_1`, :math:`U_2`. Synergy is what the joint predictor knows beyond
      these. It reads the codes alone, by their two scores and the fused one, see
      :meth:`~mrdib_pyg.nn.models.Recommender.fuse_content`.
    * The ID path is a source of its own. :math:`I(\mathrm{content}; Y \mid \mathrm{id})` is what
      the predictor that reads everything knows beyond the one that reads the ID path.

    Two measures are given. **BROJA** is the one to read. Under **MMI** one of the unique parts is
    always zero. Under both, two modalities that say different things of equal strength have *no*
    unique information: it shows up as redundant and synergistic (see ``docs/PID.md``).

    Numbers are plug-in estimates from tables. They are too large by about the number of cells
    over :math:`2n`, which is reported and not subtracted; where it would exceed 0.01 there are
    fewer bins. A difference may be negative and stays so. Intervals are the percentiles 2.5 and
    97.5 of a bootstrap over users (all numbers from the same resamples, bins and calibration
    kept), shifted so that the estimate is their center.

    .. code-block:: python

        # Any model: one score for each modality and for their fusion; IDs are optional.
        scores = {
            'image': (model.user, image_codes),  # embeddings: their inner products score
            'text': text_scores,  # a matrix [U, I]
            'content': lambda user, item: model.score(user, item),
        }
        print(measure_pid(scores, data))

    Args:
        model (Recommender or Dict[str, Any]): The trained model, whose mode and parameters stay as
            they are; or the scores of any other model: each modality by its name,
            :obj:`"content"` for all modalities together, and optionally :obj:`"a+b"` for two of
            three or more, :obj:`"id"` for the ID path and :obj:`"score"` for the ranking. A score
            is a matrix ``[U, I]``, a pair of embeddings ``([U, C], [I, C])``, or a callable that
            takes users and items, ``[n]`` each, and returns their scores ``[n]``. Of each user
            that is read, a callable scores all items, since scores are taken relative to the
            user's own mean.
        data (HeteroData): The data, with the edges of the split and validation edges.
        split (str, optional): The held-out edges. (default: :obj:`"test"`)
        negatives (str or Sequence[str], optional): How non-edges are drawn: :obj:`"uniform"` from
            all items, :obj:`"popularity"` as often as items occur among the held-out edges, so that
            popularity alone says nothing. (default: both)
        groups (Sequence[str], optional): Groupings of the items that are measured each by itself,
            with non-edges from within the group: :obj:`"popularity"`, the tenths of the items by
            their number of training edges (1: fewest), or a categorical column of
            :obj:`data['item']`, an integer or boolean for each item.
            (default: :obj:`("popularity",)`)
        num_bins (int, optional): The largest number of bins, 2 to 12. (default: :obj:`12`)
        num_bootstrap (int, optional): The number of resamples. (default: :obj:`200`)
        seed (int, optional): Seeds all draws. (default: :obj:`0`)

    Returns:
        Measurement: The numbers with their intervals. Printed, it is a table; for JSON see
        :meth:`Measurement.to_dict`.

    Raises:
        TypeError: If the model is neither a recommender of this package nor scores.
        ValueError: If there is no modality, a score has another shape or is not finite, a split has
            no edges, or a setting is unknown or out of range.
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
    r"""Measures sources named as :func:`model_sources` names them, see :func:`measure_pid`. A
    source has a method ``features(user, item)`` that describes its score of pairs, ``[n, F]``.
    """
    overall: dict[str, Part] = {}
    found: dict[str, dict[str, dict[str, Part]]] = {}
    omitted: dict[str, dict[str, int]] = {}
    for way in negatives:
        predictors = Predictors(
            sources, modalities, sample_pairs(data, 'val', way, seed=_stream(seed, 0))
        )

        def part(pairs: LabeledPairs, predictors: Predictors = predictors) -> Part:
            return estimate(predictors, pairs, num_bins, num_bootstrap, _stream(seed, 2))

        overall[way] = part(sample_pairs(data, split, way, seed=_stream(seed, 1)))
        for grouping, masks in (groups or {}).items():
            found.setdefault(grouping, {})
            for group, mask in masks.items():
                pairs = sample_pairs(data, split, way, seed=_stream(seed, 1), items=mask)
                num_edges = int(pairs.y.sum())
                if num_edges < MIN_EDGES:
                    omitted.setdefault(grouping, {})[group] = num_edges
                else:
                    found[grouping].setdefault(group, {})[way] = part(pairs)
    return Measurement(name, split, list(modalities), overall, found, omitted, num_bootstrap, seed)


def estimate(
    predictors: Predictors, pairs: LabeledPairs, num_bins: int, num_bootstrap: int, seed: int
) -> Part:
    r"""Measures predictors on some pairs."""
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


def _stream(seed: int, stream: int) -> int:
    return 3 * seed + stream


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
            "'split' must be held out from calibration, which reads the validation edges; pass "
            "split='test'"
        )
    names = [groups] if isinstance(groups, str) else groups
    return ways, item_groups(data, names, num_nodes(data, 'item'))
