import warnings

import numpy as np
import torch
from torch import Tensor


class Calibration:
    r"""The log-odds of a held-out edge given the features of some scores, by a logistic regression
    that is fit on validation edges and non-edges (:class:`sklearn.linear_model.LogisticRegression`
    on standardized features).

    Args:
        features (torch.Tensor): The features of the validation pairs, ``[n, F]``.
        y (torch.Tensor): Their labels, 0 or 1, ``[n]``.
    """

    def __init__(self, features: Tensor, y: Tensor) -> None:
        from sklearn.linear_model import LogisticRegression

        x = features.double()
        self.mean = x.mean(dim=0)
        std = x.std(dim=0, unbiased=False)
        # A constant feature says nothing: it becomes zero rather than rounding blown up.
        varies = std > 1e-9 * x.abs().amax(dim=0).clamp(min=torch.finfo(x.dtype).tiny)
        self.scale = torch.where(varies, 1.0 / std.clamp(min=1e-300), torch.zeros_like(std))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that it has not converged to the last digit
            regression = LogisticRegression(max_iter=1000).fit(self._standardize(x), y.numpy())
        self.weight = torch.from_numpy(regression.coef_[0].astype(np.float64))
        self.bias = float(regression.intercept_[0])

    def __call__(self, features: Tensor) -> Tensor:
        r"""Returns the log-odds of pairs by their features, ``[n, F]`` to ``[n]``."""
        return torch.from_numpy(self._standardize(features.double())) @ self.weight + self.bias

    def _standardize(self, x: Tensor) -> np.ndarray:
        # Beyond the validation pairs a line is no longer known to be one.
        return ((x - self.mean) * self.scale).clamp(-8.0, 8.0).numpy()
