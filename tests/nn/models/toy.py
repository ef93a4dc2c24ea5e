"""A worked example: 3 users, 4 items, 2 channels; its features, tables and a batch."""

import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models import Triplets

BATCH = Triplets(torch.tensor([0, 1, 2]), torch.tensor([2, 1, 3]), torch.tensor([3, 0, 1]))
USER = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
ITEM = torch.tensor([[1.0, 2], [0, 1], [2, 0], [1, -1]])
IMAGE = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
TEXT = torch.tensor([[1.0, 0.2], [2, 1], [-0.1, 1], [1, -1]])
WEIGHTS = {
    'image': torch.tensor([[0.5, 0, 0.1], [0, 0.2, -0.3]]),
    'text': torch.tensor([[0.4, -0.2], [0.1, 0.3]]),
}
BIASES = {'image': torch.tensor([0.05, -0.05]), 'text': torch.tensor([-0.05, 0.05])}
# Two layers of propagation of the tables, averaged with the tables.
MEAN_USER = torch.tensor([[1.0194, 0.6156], [0.0962, 0.7357], [1.2674, 0.6353]])
MEAN_ITEM = torch.tensor([[1.0174, 1.0020], [0.3027, 0.9024], [1.3507, 0.3353], [0.8726, -0.0949]])


def toy(**features):
    """The interactions, and the given features of the items."""
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 4
    for name, x in features.items():
        data['item'][f'x_{name}'] = torch.as_tensor(x).clone()
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])
    data['user', 'rates', 'item'].edge_index = edge_index
    return data


def close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=atol, rtol=0)
