import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrdib_pyg.nn.bottleneck import Posterior
from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.pid.pairs import LabeledPairs


class Calibration:
    r"""The log-odds of a held-out edge given some numbers, fit on validation edges and non-edges: a
    logistic regression on cubic splines of each number or on the numbers and their products, all
    by scikit-learn.

    Args:
        features (torch.Tensor): The numbers of the validation pairs, ``[n, F]``.
        y (torch.Tensor): Their labels, 0 or 1, ``[n]``.
        products (bool, optional): If set to :obj:`True`, the regression is on the numbers and
            their products of two (squares too) in place of splines. (default: :obj:`False`)
    """

    def __init__(self, features: Tensor, y: Tensor, products: bool = False) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import PolynomialFeatures, SplineTransformer, StandardScaler

        x = features.double()
        self.mean = x.mean(dim=0)
        std = x.std(dim=0, unbiased=False)
        # A constant says nothing: it becomes zero rather than rounding blown up.
        varies = std > 1e-9 * x.abs().amax(dim=0)
        self.scale = torch.where(varies, 1.0 / std, torch.zeros_like(std))
        shape = PolynomialFeatures(2, include_bias=False)
        if not products:
            # Knots at equal distances, since quantiles may coincide; beyond them, lines.
            shape = SplineTransformer(5, knots='uniform', extrapolation='linear')
        standardized = self._standardize(x)
        self.regression = make_pipeline(shape, StandardScaler(), LogisticRegression(max_iter=500))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that it has not converged to the last digit
            self.regression.fit(standardized, y.numpy())

    def __call__(self, features: Tensor) -> Tensor:
        r"""Returns the log-odds of pairs by their numbers, ``[n, F]`` to ``[n]``."""
        x = self._standardize(features.double())
        return torch.from_numpy(np.asarray(self.regression.decision_function(x), dtype=np.float64))

    def _standardize(self, x: Tensor) -> np.ndarray:
        # Far beyond the validation pairs nothing is known.
        return ((x - self.mean) * self.scale).clamp(-5.0, 5.0).numpy()


class ScoreSource(NamedTuple):
    r"""Users and items whose inner product is a score, as a source of information about whether a
    user takes an item.

    The scale and the offset of a score differ between users and say nothing about an item, so a
    score is described given the user: by what exceeds the user's mean over all items, and by the
    user's standard deviation over all items.

    Args:
        user (torch.Tensor): The users, ``[U, C]``.
        item (torch.Tensor): The items, ``[I, C]``.
        has_user (torch.Tensor, optional): Which users have this source, boolean ``[U]``.
            (default: :obj:`None`, all of them)
        has_item (torch.Tensor, optional): Which items have it, boolean ``[I]``.
            (default: :obj:`None`, all of them)
    """

    user: Tensor
    item: Tensor
    has_user: Tensor | None = None
    has_item: Tensor | None = None

    def cpu(self) -> 'ScoreSource':
        r"""Returns the source on the CPU, where measuring takes place."""
        return ScoreSource(*(None if x is None else x.cpu() for x in self))  # type: ignore[arg-type]

    @property
    def varies(self) -> bool:
        r"""Whether the score tells any two items apart."""
        spread = (self.item - self.item.mean(dim=0)).abs().amax()
        return bool(spread > 1e-5 * self.item.abs().amax())

    def features(self, user: Tensor, item: Tensor) -> Tensor:
        r"""Describes the score of pairs of a user and an item.

        Args:
            user (torch.Tensor): The users, ``[n]``.
            item (torch.Tensor): The items, ``[n]``.

        Returns:
            torch.Tensor: The centered score :math:`d = s - \bar{s}_u`, the standardized score
            :math:`d / \sigma_u` and :math:`\sigma_u^2`, ``[n, 3]``, in double precision. Were the
            scores of a user normal and :math:`\exp(a s)` the odds of an item, then
            :math:`a d - a^2 \sigma_u^2 / 2` would be the logarithm of these odds over those of an
            item drawn at random. Where the user or the item lacks the source, the score is the
            mean: it says nothing.
        """
        known = self.item if self.has_item is None else self.item[self.has_item]
        centered = (known - known.mean(dim=0)).double()
        covariance = centered.t() @ centered / max(len(centered), 1)
        ids, inverse = torch.unique(user, return_inverse=True)
        x = self.user.index_select(0, ids).double()
        variance = ((x @ covariance) * x).sum(dim=-1).clamp(min=0.0)
        mean = (x @ known.mean(dim=0).double())[inverse]
        score = (x[inverse] * self.item.index_select(0, item).double()).sum(dim=-1)
        d, variance = score - mean, variance[inverse]
        for has, index in ((self.has_user, user), (self.has_item, item)):
            if has is not None:
                d = torch.where(has[index], d, torch.zeros_like(d))
        # A user to whom all items are alike has scores that differ by rounding alone.
        scale = (self.user.abs().amax() * known.abs().amax()).double() if len(known) else variance
        d = torch.where(variance.sqrt() > 1e-7 * scale, d, torch.zeros_like(d))
        standardized = torch.where(d == 0, d, d / variance.sqrt())
        return torch.stack([d, standardized, variance], dim=-1)


class ScoreRows(NamedTuple):
    r"""Scores of all items for some users, as a source, see :class:`ScoreSource`.

    Args:
        name (str): The name of the source, for messages.
        num_items (int): The number of items :math:`I`.
        rows (Callable): Takes users ``[n]`` to their scores ``[n, I]``.
    """

    name: str
    num_items: int
    rows: Callable[[Tensor], Tensor]

    def features(self, user: Tensor, item: Tensor) -> Tensor:
        r"""Describes the score of pairs as :meth:`ScoreSource.features` does, ``[n, 3]``."""
        order = user.argsort(stable=True)
        ids, counts = torch.unique(user, return_counts=True)
        out, begin = torch.zeros(len(user), 3, dtype=torch.float64), 0
        for chunk, count in zip(*(x.split(max(1, _MAX_SCORES // self.num_items))
                                  for x in (ids, counts))):  # fmt: skip
            score = self.rows(chunk).detach().cpu().double()
            if score.shape != (len(chunk), self.num_items):
                raise ValueError(
                    f"the score '{self.name}' must give one number for each user and item (got "
                    f'{list(score.shape)} for {len(chunk)} users and {self.num_items} items)'
                )
            if not bool(score.isfinite().all()):
                raise ValueError(f"the score '{self.name}' must be finite (got NaN or infinity)")
            place = order[begin : begin + int(count.sum())]
            begin += len(place)
            row = torch.arange(len(chunk)).repeat_interleave(count)
            mean, std = score.mean(dim=1)[row], score.std(dim=1, unbiased=False)[row]
            d = score[row, item[place]] - mean
            d = torch.where(std > 1e-7 * score.abs().amax(dim=1)[row], d, 0.0)
            standardized = torch.where(d == 0, d, d / std)
            out[place] = torch.stack([d, standardized, std.square()], dim=-1)
        return out


_MAX_SCORES = 2**22  # that are held at once

#: The predictor that reads everything: codes and ID path.
ALL = 'all'


class Predictors:
    r"""Predicts from the scores of some sources whether a user takes an item: per modality from its
    own score; per pair of modalities from their two scores and their joint score; as
    :obj:`"content"` from all of these; as :obj:`"id"` from the ID path; and as :obj:`"all"` from
    everything, the ranking score included. Each score is made log-odds by itself, and what reads
    several is a regression on theirs.

    Args:
        sources (Dict[str, ScoreSource]): The sources, as :func:`model_sources` names them. Joint
            scores of two of three or more modalities, and the ranking score, may be absent.
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
            reads[name] = [a, b, name] if name in sources else [a, b]
        # Of two modalities the joint score is that of all.
        joint = [x for x in joint if x in sources] if len(self.modalities) > 2 else []
        reads[CONTENT] = [*self.modalities, *joint, CONTENT]
        reads[ALL] = reads[CONTENT]
        if ID in self.sources:
            reads[ID] = [ID]
            reads[ALL] = [*reads[CONTENT], ID, *([SCORE] if SCORE in sources else [])]
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


#: The names of the sources that are no modality.
CONTENT, ID, SCORE = 'content', 'id', 'score'


def score_sources(
    scores: Mapping[str, Any], num_users: int, num_items: int
) -> tuple[dict[str, ScoreSource | ScoreRows], list[str]]:
    r"""Returns the sources of given scores, and the names of those that are a modality. See
    :func:`mrdib_pyg.pid.measure_pid` for the forms of a score.

    Raises:
        TypeError: If a score has none of these forms.
        ValueError: If there is no modality, the score of all together is missing, or a name or a
            shape does not fit.
    """
    modalities = [x for x in scores if '+' not in x and x not in (CONTENT, ID, SCORE, ALL)]
    joint = ['+'.join(names) for names in combinations(modalities, 2)]
    if not modalities:
        raise ValueError(f"'model' must hold the score of a modality (got {sorted(scores)})")
    unknown = set(scores) - {*modalities, *joint, CONTENT, ID, SCORE}
    if unknown:
        raise ValueError(
            f"'model' has the score {sorted(unknown)[0]!r}; besides modalities there can be "
            f'{[*joint, CONTENT, ID, SCORE]}'
        )
    if CONTENT not in scores and len(modalities) > 1:
        raise ValueError(f"'model' must hold '{CONTENT}', the score of {modalities} together")
    out = {name: _given(name, score, num_users, num_items) for name, score in scores.items()}
    out.setdefault(CONTENT, out[modalities[0]])
    if len(modalities) == 2:
        out.setdefault(joint[0], out[CONTENT])
    return out, modalities


def _given(name: str, score: Any, num_users: int, num_items: int) -> ScoreSource | ScoreRows:
    if isinstance(score, Tensor):
        if score.shape != (num_users, num_items):
            raise ValueError(
                f"the score '{name}' must have the shape {[num_users, num_items]} (got "
                f'{list(score.shape)})'
            )
        return ScoreRows(name, num_items, lambda user: score[user.to(score.device)])
    if isinstance(score, (tuple, list)) and len(score) == 2:
        user, item = (torch.as_tensor(x).detach().cpu() for x in score)
        if user.dim() != 2 or (user.size(0), item.shape) != (num_users, (num_items, user.size(1))):
            raise ValueError(
                f"the score '{name}' must be embeddings of {num_users} users and {num_items} items "
                f'of one width (got {list(user.shape)} and {list(item.shape)})'
            )
        _check_finite(name, user, item)
        return ScoreSource(user, item)
    if not callable(score):
        raise TypeError(
            f"the score '{name}' must be a matrix, a pair of embeddings or a callable (got "
            f'{type(score).__name__})'
        )

    @torch.no_grad()
    def rows(user: Tensor) -> Tensor:
        item = torch.arange(num_items).repeat(len(user))
        found = torch.as_tensor(score(user.repeat_interleave(num_items), item))
        return found.view(len(user), -1) if found.numel() % len(user) == 0 else found

    return ScoreRows(name, num_items, rows)


def _check_finite(name: str, *embeddings: Tensor) -> None:
    if not all(bool(x.isfinite().all()) for x in embeddings):
        raise ValueError(
            f"the scores by '{name}' must be finite (got NaN or infinity); check the training "
            f'loss, or lower the learning rate'
        )


@torch.no_grad()
def model_sources(model: Recommender) -> dict[str, ScoreSource]:
    r"""Returns what a trained recommender can score a user and an item with.

    Args:
        model (Recommender): The model; its mode and parameters stay as they are.

    Returns:
        Dict[str, ScoreSource]: Per modality its own score, that of :meth:`Recommender.unimodal`,
        which reads this code alone; per pair of modalities, by the names joined by a plus sign, and
        as :obj:`"content"` for all modalities, the joint score, see
        :meth:`Recommender.fuse_content`, in which what is not named is held at its mean;
        :obj:`"id"`, the ranking score with all codes held at their mean, left out where that tells
        no two items apart; and :obj:`"score"`, the ranking score.

    Raises:
        TypeError: If the model is no :class:`Recommender`.
        ValueError: If the model has no modality, one has the name of another source, or a score is
            not finite.
    """
    if not isinstance(model, Recommender):
        raise TypeError(
            f"'model' must be a Recommender of mrdib_pyg.nn.models (got {type(model).__name__}); "
            f'of any other model pass the scores to pid.measure_pid'
        )
    if len(model.modalities) == 0:
        raise ValueError(
            f'{type(model).__name__} reads no modality, so there is nothing to decompose; measure '
            f'a model with modalities'
        )
    taken = sorted({CONTENT, ID, SCORE, ALL} & set(model.modalities))
    if taken:
        raise ValueError(
            f'the modality {taken[0]!r} has the name of a source of its own in a measurement; '
            f'rename it'
        )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        out = _sources(model)
    finally:
        if any(mode for _, mode in modes):
            model.train()  # first as a whole, so that a cache of embeddings is dropped
            for module, mode in modes:
                module.training = mode
    out = {  # a table that is an embedding as it is would carry a gradient
        name: ScoreSource(source.user.detach(), source.item.detach(), *source[2:])
        for name, source in out.items()
    }
    for name, source in out.items():
        _check_finite(name, source.user, source.item)
    return out


def _sources(model: Recommender) -> dict[str, ScoreSource]:
    embeddings, posteriors, codes, *_ = model._embed(None)
    present = model.present()
    given: dict[str, Any] = dict(posteriors if model.fuse_posteriors and posteriors else codes)
    held = {
        name: tuple(
            None if code is None else _hold(code, None if present is None else present[name][side])
            for side, code in enumerate(pair)
        )
        for name, pair in given.items()
    }
    out: dict[str, ScoreSource] = {}
    for name, (user, item) in model.unimodal(codes, embeddings).items():
        masks = (None, None) if present is None else present[name]
        out[name] = ScoreSource(user, item, *masks)
    groups: dict[str, tuple[str, ...]] = {
        '+'.join(names): names for names in combinations(model.modalities, 2)
    }
    groups[CONTENT] = tuple(model.modalities)
    for name, names in groups.items():
        mixed = {m: given[m] if m in names else held[m] for m in given}
        out[name] = ScoreSource(*model.fuse_content(mixed, held))
    plain: Any = {m: tuple(getattr(x, 'z', x) for x in pair) for m, pair in held.items()}
    alone = model.fuse(held if model.fuse_posteriors else plain)
    source = ScoreSource(*model._encode_fused(alone.user, alone.item))
    if _varies_within_patterns(model, source.item):
        out[ID] = source
    else:  # nothing was there to be held at its mean
        for name, names in groups.items():
            if len(names) == len(model.modalities):
                out[name] = ScoreSource(*model._fuse_all(given))
    out[SCORE] = ScoreSource(embeddings.user, embeddings.item)
    return out


def _hold(code: Any, has: Tensor | None) -> Any:
    # The same for every row: the mean over those that have the modality.
    if isinstance(code, Posterior):
        held = (None if x is None else _hold(x, has) for x in code)
        return Posterior(*held)  # type: ignore[arg-type]
    rows = code if has is None or not bool(has.any()) else code[has]
    return rows.mean(dim=0).expand_as(code)


def _varies_within_patterns(model: Recommender, item: Tensor) -> bool:
    # Items that lack the same modalities differ, with codes at their mean, by their IDs alone.
    present = model.present()
    if present is None:
        return ScoreSource(item, item).varies
    pattern = torch.stack([pair[1] for pair in present.values()], dim=1)
    _, inverse, count = torch.unique(pattern, dim=0, return_inverse=True, return_counts=True)
    mean = item.new_zeros(len(count), item.size(1)).index_add(0, inverse, item)
    mean = mean / count.unsqueeze(1)
    spread = (item - mean[inverse]).abs().amax()
    return bool(spread > 1e-5 * item.abs().amax())
