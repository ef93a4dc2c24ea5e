from typing import NamedTuple


class PID(NamedTuple):
    r"""A partial information decomposition of what two sources say about a target,

    .. math::
        I(X_1, X_2; Y) = R + U_1 + U_2 + S, \qquad I(X_m; Y) = R + U_m

    (`"Nonnegative Decomposition of Multivariate Information" <https://arxiv.org/abs/1004.2515>`_).

    Args:
        redundant (float): The information :math:`R` that either source alone gives.
        unique (Tuple[float, float]): The information :math:`U_1` and :math:`U_2` that only the
            first or only the second source gives.
        synergistic (float): The information :math:`S` that only both sources together give.
        total (float): The information :math:`I(X_1, X_2; Y)` of both sources.
    """

    redundant: float
    unique: tuple[float, float]
    synergistic: float
    total: float

    @property
    def informations(self) -> tuple[float, float]:
        r"""The information :math:`I(X_m; Y)` that each source gives alone."""
        return self.redundant + self.unique[0], self.redundant + self.unique[1]
