from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from mrdib_pyg.pid.calibration import Calibration
from mrdib_pyg.pid.labeled_pairs import LabeledPairs
from mrdib_pyg.pid.model_sources import CONTENT, ID, SCORE

#: The predictor that reads everything: codes and ID path.
ALL = 'all'


class Predictors:
    r"""Predicts from the scores of some sources whether a user takes an item: per modality from its
    own score; per pair of modalities from their two scores and their joint score; as
    :obj:`"content"` from all of these; as :obj:`"id"` from the ID path; and as :obj:`"all"` from
    everything, the ranking score included. Each score is made log-odds by itself, and what reads
    several is a regression on theirs.

    Args:
        sources (Dict[str, ScoreSource]): The sources, as :func:`model_sources` names them.
        modalities (List[str]): Those that are a modality.
        pairs (LabeledPairs): Validation edges and non-edges, on which each predictor is fit.
    """

    def __init__(
        self, sources: Mapping[str, Any], modalities: Sequence[str], pairs: LabeledPairs
    ) -> None:
        self.sources = dict(sources)
        self.modalities = list(modalities)
        reads: dict[str, list[str]] = {name: [name] for name in self.modalities}
        joint = ['+'.join(names) for names in combinations(self.modalities, 2)]
        for name, (a, b) in zip(joint, combinations(self.modalities, 2)):
            reads[name] = [a, b, name]
        # Of two modalities the joint score is that of all.
        joint = joint if len(self.modalities) > 2 else []
        reads[CONTENT] = [*self.modalities, *joint, CONTENT]
        reads[ALL] = reads[CONTENT]
        if ID in self.sources:
            reads[ID] = [ID]
            reads[ALL] = [*reads[CONTENT], ID, SCORE]
        self.reads = reads
        names = list(dict.fromkeys(x for read in reads.values() for x in read))
        features = {x: self.sources[x].features(pairs.user, pairs.item) for x in names}
        self.alone = {x: Calibration(features[x], pairs.y) for x in names}
        odds = {x: self.alone[x](features[x]) for x in names}
        self.together = {
            name: Calibration(_stack(odds, read), pairs.y, products=True)
            for name, read in reads.items()
            if len(read) > 1
        }

    @property
    def has_id(self) -> bool:
        r"""Whether there is an ID path."""
        return ID in self.reads

    def __call__(self, user: Tensor, item: Tensor) -> dict[str, Tensor]:
        r"""Returns the log-odds by each predictor for pairs of a user and an item, ``[n]`` each."""
        odds = {x: f(self.sources[x].features(user, item)) for x, f in self.alone.items()}
        return {
            name: self.together[name](_stack(odds, read)) if len(read) > 1 else odds[read[0]]
            for name, read in self.reads.items()
        }


def _stack(odds: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([odds[name] for name in names], dim=-1)
