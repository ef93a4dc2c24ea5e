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
    r"""The log-odds of a held-out edge given features ``[n, F]``: a logistic regression on cubic
    splines of each feature or, with ``products``, on features and their products of two, fit on
    validation pairs with labels ``y`` ``[n]``.
    """

    def __init__(self, features: Tensor, y: Tensor, products: bool = False) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import PolynomialFeatures, SplineTransformer, StandardScaler

        x = features.double()
        self.mean = x.mean(dim=0)
        std = x.std(dim=0, unbiased=False)
        # A constant feature becomes zero. Scaling would blow up its rounding errors.
        varies = std > 1e-9 * x.abs().amax(dim=0)
        self.scale = torch.where(varies, 1.0 / std, torch.zeros_like(std))
        shape = PolynomialFeatures(2, include_bias=False)
        if not products:
            # Knots at equal distances, since quantiles may coincide; beyond them, lines.
            shape = SplineTransformer(5, knots='uniform', extrapolation='linear')
        standardized = self._standardize(x)
        self.regression = make_pipeline(shape, StandardScaler(), LogisticRegression(max_iter=500))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of missing convergence in the last digits
            self.regression.fit(standardized, y.numpy())

    def __call__(self, features: Tensor) -> Tensor:
        r"""The log-odds of pairs, ``[n, F]`` to ``[n]``."""
        x = self._standardize(features.double())
        return torch.from_numpy(np.asarray(self.regression.decision_function(x), dtype=np.float64))

    def _standardize(self, x: Tensor) -> np.ndarray:
        # The fit says nothing far beyond the validation pairs.
        return ((x - self.mean) * self.scale).clamp(-5.0, 5.0).numpy()


class ScoreSource(NamedTuple):
    r"""A source of information: embeddings whose inner product is a score. The offset and scale of
    the scores of a user say nothing about an item, so features are relative to the mean and the
    standard deviation of the user over all items.
    """

    user: Tensor  # [U, C]
    item: Tensor  # [I, C]
    has_user: Tensor | None = None  # boolean [U], None for all
    has_item: Tensor | None = None  # boolean [I], None for all

    def cpu(self) -> 'ScoreSource':
        r"""The source on the CPU."""
        return ScoreSource(*(None if x is None else x.cpu() for x in self))  # type: ignore[arg-type]

    @property
    def varies(self) -> bool:
        r"""Whether the score tells any two items apart."""
        spread = (self.item - self.item.mean(dim=0)).abs().amax()
        return bool(spread > 1e-5 * self.item.abs().amax())

    def features(self, user: Tensor, item: Tensor) -> Tensor:
        r"""Describes the scores of pairs by :math:`d = s - \bar{s}_u`, :math:`d / \sigma_u` and
        :math:`\sigma_u^2`, ``[n, 3]``, in double precision. If the scores of a user were normal and
        :math:`\exp(a s)` the odds of an item, :math:`a d - a^2 \sigma_u^2 / 2` would be its
        log-odds over a random item. Without the source, :math:`d` is 0.
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
        # Equal scores of a user differ by rounding.
        scale = (self.user.abs().amax() * known.abs().amax()).double() if len(known) else variance
        d = torch.where(variance.sqrt() > 1e-7 * scale, d, torch.zeros_like(d))
        standardized = torch.where(d == 0, d, d / variance.sqrt())
        return torch.stack([d, standardized, variance], dim=-1)


class ScoreRows(NamedTuple):
    r"""Like :class:`ScoreSource`, from scores that a function computes."""

    name: str  # for messages
    num_items: int
    rows: Callable[[Tensor], Tensor]  # users [n] to scores [n, I]

    def features(self, user: Tensor, item: Tensor) -> Tensor:
        r"""See :meth:`ScoreSource.features`."""
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


_MAX_SCORES = 2**22  # held at once

#: The predictor that reads everything: codes and ID path.
ALL = 'all'


class Predictors:
    r"""Log-odds of an edge by each source and by several: each modality, each pair of modalities,
    :obj:`"content"` (all modalities), :obj:`"id"` and :obj:`"all"`. Each score is calibrated alone
    on validation ``pairs``. Predictors of several scores are regressions on their log-odds.
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
        r"""Whether the model has an ID path."""
        return ID in self.reads

    def __call__(self, user: Tensor, item: Tensor) -> dict[str, Tensor]:
        r"""The log-odds of pairs by each predictor, ``[n]`` each."""
        odds = {x: f(self.sources[x].features(user, item)) for x, f in self.alone.items()}
        return {
            name: self.together[name](_stack(odds, read)) if len(read) > 1 else odds[read[0]]
            for name, read in self.reads.items()
        }


def _stack(odds: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([odds[name] for name in names], dim=-1)


#: The names of the sources that are not modalities.
CONTENT, ID, SCORE = 'content', 'id', 'score'


def score_sources(
    scores: Mapping[str, Any], num_users: int, num_items: int
) -> tuple[dict[str, ScoreSource | ScoreRows], list[str]]:
    r"""Returns the sources of given scores, in the forms that
    :func:`mrdib_pyg.pid.measure_pid` takes, and the names of the modalities.
    """
    modalities = [x for x in scores if '+' not in x and x not in (CONTENT, ID, SCORE, ALL)]
    joint = ['+'.join(names) for names in combinations(modalities, 2)]
    if not modalities:
        raise ValueError(f"'model' must hold the score of a modality (got {sorted(scores)})")
    unknown = set(scores) - {*modalities, *joint, CONTENT, ID, SCORE}
    if unknown:
        raise ValueError(
            f"'model' must hold modalities and some of {[*joint, CONTENT, ID, SCORE]} (got "
            f'{sorted(unknown)[0]!r})'
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
    r"""Returns the sources of a trained recommender, which is not changed.

    They are, by name: each modality (:meth:`Recommender.unimodal`), each pair ``a+b`` and
    :obj:`"content"` (:meth:`Recommender.fuse_content`, with other codes at their mean),
    :obj:`"score"` (the ranking), and :obj:`"id"` (the ranking with all codes at their mean), unless
    that tells no two items apart.
    """
    if not isinstance(model, Recommender):
        raise TypeError(
            f"'model' must be a Recommender of mrdib_pyg.nn.models (got {type(model).__name__}); "
            f'for any other model, pass its scores to pid.measure_pid'
        )
    if len(model.modalities) == 0:
        raise ValueError(
            f"'model' must read a modality (got {type(model).__name__}, which reads none); measure "
            f'a multimodal model'
        )
    taken = sorted({CONTENT, ID, SCORE, ALL} & set(model.modalities))
    if taken:
        raise ValueError(
            f"'model' must have modalities of other names than {[CONTENT, ID, SCORE, ALL]} (got "
            f'{taken[0]!r}); rename it'
        )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        out = _sources(model)
    finally:
        if any(mode for _, mode in modes):
            model.train()  # first as a whole, which drops cached embeddings
            for module, mode in modes:
                module.training = mode
    out = {  # an embedding may be a parameter, which carries a gradient
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
    else:  # there is no ID path
        for name, names in groups.items():
            if len(names) == len(model.modalities):
                out[name] = ScoreSource(*model._fuse_all(given))
    out[SCORE] = ScoreSource(embeddings.user, embeddings.item)
    return out


def _hold(code: Any, has: Tensor | None) -> Any:
    # In every row the mean over the rows that have the modality.
    if isinstance(code, Posterior):
        held = (None if x is None else _hold(x, has) for x in code)
        return Posterior(*held)  # type: ignore[arg-type]
    rows = code if has is None or not bool(has.any()) else code[has]
    return rows.mean(dim=0).expand_as(code)


def _varies_within_patterns(model: Recommender, item: Tensor) -> bool:
    # With codes at their mean, items that lack the same modalities differ only by their IDs.
    present = model.present()
    if present is None:
        return ScoreSource(item, item).varies
    pattern = torch.stack([pair[1] for pair in present.values()], dim=1)
    _, inverse, count = torch.unique(pattern, dim=0, return_inverse=True, return_counts=True)
    mean = item.new_zeros(len(count), item.size(1)).index_add(0, inverse, item)
    mean = mean / count.unsqueeze(1)
    spread = (item - mean[inverse]).abs().amax()
    return bool(spread > 1e-5 * item.abs().amax())
