"""The worked example of the specification: 3 users, 4 items, 2 channels."""

import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models import Triplets

BATCH = Triplets(torch.tensor([0, 1, 2]), torch.tensor([2, 1, 3]), torch.tensor([3, 0, 1]))
USERS = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
ITEMS = torch.tensor([[1.0, 2], [0, 1], [2, 0], [1, -1]])
WEIGHTS = {
    'image': torch.tensor([[0.5, 0, 0.1], [0, 0.2, -0.3]]),
    'text': torch.tensor([[0.4, -0.2], [0.1, 0.3]]),
}
BIASES = {'image': torch.tensor([0.05, -0.05]), 'text': torch.tensor([-0.05, 0.05])}
# The LightGCN embeddings of two layers.
BEHAVIOR_USER = torch.tensor([[1.0194, 0.6156], [0.0962, 0.7357], [1.2674, 0.6353]])
BEHAVIOR_ITEM = torch.tensor(
    [[1.0174, 1.0020], [0.3027, 0.9024], [1.3507, 0.3353], [0.8726, -0.0949]]
)


def toy():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 4
    data['item'].x_image = torch.tensor([[1.0, 0, 2], [1, 1, 0], [0, 2, 1], [2, 0, 1.5]])
    data['item'].x_text = torch.tensor([[1.0, 0.2], [2, 1], [-0.1, 1], [1, -1]])
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 2, 1, 0, 2, 3]])
    data['user', 'rates', 'item'].edge_index = edge_index
    return data


def close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=atol, rtol=0)
