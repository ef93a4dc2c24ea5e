import warnings

import pytest
from torch_geometric import seed_everything

from mrdib_pyg.datasets import IdMap, Planted
from mrdib_pyg.nn.models import MultimodalLightGCN


@pytest.fixture(scope='session')
def data():
    """Forty users, each with six training edges, and fifty items."""
    return Planted(num_users=40, num_items=50, num_interactions=10)[0]


@pytest.fixture(scope='session')
def model(data):
    """Untrained, which ranks as well as any."""
    seed_everything(0)
    return MultimodalLightGCN(data, channels=8, mrdib={}).eval()


@pytest.fixture(scope='session')
def ids():
    """The ids of users and of items, some of which need care in CSV, JSON and HTML."""
    users, items = ([f'{kind}{i}' for i in range(n)] for kind, n in (('u', 40), ('i', 50)))
    users[3], items[7], items[8] = 'Jos\u00e9, "J"', '<b>7</b>', 'a b'
    return IdMap(users), IdMap(items)


@pytest.fixture(scope='session')
def connect():
    """A client of an application, without a network."""
    pytest.importorskip('fastapi')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of a client that a newer release would rather have
        client = pytest.importorskip('starlette.testclient')
    return client.TestClient
