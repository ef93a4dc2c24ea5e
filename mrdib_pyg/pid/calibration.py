import warnings

import numpy as np
import torch
from torch import Tensor


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
