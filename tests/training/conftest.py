import pytest

from mrdib_pyg.datasets import Planted


@pytest.fixture(scope='session')
def planted():
    """Forty users, each with six training edges and two edges of validation and of test."""
    return Planted(num_users=40, num_items=50, num_interactions=10)[0]


@pytest.fixture
def data(planted):
    """A copy that a test may change."""
    return planted.clone()
