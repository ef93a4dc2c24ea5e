import sys
from pathlib import Path

import pytest
from torch_geometric import seed_everything

from mrdib_pyg.datasets import Planted
from mrdib_pyg.nn.models import MultimodalLightGCN
from mrdib_pyg.training import fit

# So that the tests of all measures can import the tables they share.
sys.path.insert(0, str(Path(__file__).parent))

SMALL = {'num_users': 150, 'num_items': 120, 'num_interactions': 15, 'noise': 0.5}


@pytest.fixture(scope='session')
def data():
    return Planted(seed=1, **SMALL)[0]


@pytest.fixture(scope='session')
def model(data):
    seed_everything(0)
    model = MultimodalLightGCN(data, channels=8, fusion='mlp', mrdib={'redundancy': 'gaussian'})
    weights = {'bottleneck': 1e-3, 'redundant': 1e-3, 'unique': 0.5}
    fit(model, data, epochs=15, lr=1e-2, weights=weights, batch_size=512, progress=False)
    return model.eval()
