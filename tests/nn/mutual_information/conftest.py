import math
import sys
from pathlib import Path

import pytest
import torch

# So that the tests of all estimators can import the contract they share.
sys.path.insert(0, str(Path(__file__).parent))

# Correlations that give so many nats in 20 coordinates.
RHO = {0: 0.0, 2: 0.425757, 4: 0.574178, 6: 0.671706, 8: 0.742072, 10: 0.795060}


@pytest.fixture
def gaussian_pair():
    r"""Draws paired rows whose mutual information is known, in nats, for 20 channels."""

    def draw(num_rows, nats, channels=20, **kwargs):
        z1, noise = torch.randn(2, num_rows, channels, **kwargs)
        return z1, RHO[nats] * z1 + math.sqrt(1 - RHO[nats] ** 2) * noise

    return draw


@pytest.fixture
def read(gaussian_pair):
    r"""Trains an estimator on fresh rows at each step, and reads it on fresh rows."""

    def train_and_read(cls, nats, num_steps=400, num_rows=256, lr=1e-3, num_test_rows=4096):
        torch.manual_seed(0)
        estimator = cls(20, 20)
        optimizer = torch.optim.Adam(estimator.parameters(), lr=lr)
        for _ in range(num_steps):
            loss = estimator.learning_loss(*gaussian_pair(num_rows, nats))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        estimator.eval()
        with torch.no_grad():
            return estimator(*gaussian_pair(num_test_rows, nats)).item()

    return train_and_read
