import math
from collections.abc import Mapping

from torch import Tensor

#: The terms of MRdIB that carry a weight of their own.
MRDIB_TERMS = ('bottleneck', 'redundant', 'unique')


class LossWeights:
    r"""The one place where the named terms of a loss are weighted and summed.

    Args:
        default (Dict[str, float]): The weights that the model gives its own terms.
        weights (Dict[str, float], optional): Weights that replace or add to them, e.g.
            ``{'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}``. (default: :obj:`None`)

    A term without a weight is reported but not added; :obj:`synergistic` is the task loss itself
    and takes no weight.

    Raises:
        ValueError: If a weight is unknown, negative, not a finite number, or given to
            :obj:`synergistic`.
    """

    def __init__(
        self, default: Mapping[str, float], weights: Mapping[str, float] | None = None
    ) -> None:
        weights = {} if weights is None else dict(weights)
        known = sorted({*default, *MRDIB_TERMS})
        for name, weight in {**default, **weights}.items():
            if name not in known:
                raise ValueError(f"there is no loss term '{name}' to weight; known are {known}")
            is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not (is_number and math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight '{name}' must be a number >= 0 (got {weight!r})")
        given = {name: float(weight) for name, weight in {**default, **weights}.items()}
        self.weights = {**dict.fromkeys(MRDIB_TERMS, 0.0), **given}

    def __call__(self, terms: Mapping[str, Tensor | None]) -> Tensor:
        r"""Returns the weighted sum of the terms, a scalar in nats."""
        total: Tensor | None = None
        for name, value in terms.items():
            weight = self.weights.get(name, 0.0)
            if value is None or weight == 0.0:
                continue
            value = value if weight == 1.0 else weight * value
            total = value if total is None else total + value
        if total is None:
            raise ValueError(f'every term has a weight of zero: {sorted(terms)}')
        return total

    def __repr__(self) -> str:
        inner = ', '.join(f'{name}={weight:g}' for name, weight in self.weights.items())
        return f'{self.__class__.__name__}({inner})'
