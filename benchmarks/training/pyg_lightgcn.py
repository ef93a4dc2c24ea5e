import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.nn import LightGCN


class PyGLightGCN:
    r"""PyG's own :class:`~torch_geometric.nn.LightGCN`, trained on edge indices as its
    documentation does: negatives drawn uniformly, embeddings propagated in every step.
    """

    name = 'torch_geometric.nn.LightGCN'

    def __init__(self, data: HeteroData, device: str = 'cpu', num_layers: int = 2) -> None:
        self.num_users = int(data['user'].num_nodes)
        self.num_items = int(data['item'].num_nodes)
        user, item = data['user', 'rates', 'item'].edge_index
        self.edges = torch.stack([user, item + self.num_users])
        self.edge_index = torch.cat([self.edges, self.edges.flip(0)], dim=1)
        self.model = LightGCN(self.num_users + self.num_items, 64, num_layers).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def step(self, user: Tensor, pos: Tensor, neg: Tensor) -> float:
        pos, neg = pos + self.num_users, neg + self.num_users
        label = torch.stack([torch.cat([user, user]), torch.cat([pos, neg])])
        self.optimizer.zero_grad()
        pos_rank, neg_rank = self.model(self.edge_index, label).chunk(2)
        loss = self.model.recommendation_loss(pos_rank, neg_rank, node_id=label.unique())
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def epoch(self, batch_size: int = 2048) -> None:
        self.model.train()
        order = torch.randperm(self.edges.size(1)).to(self.edges.device)
        for user, pos in (b for b in self.edges[:, order].split(batch_size, dim=1)):
            neg = torch.randint(self.num_items, user.shape, device=user.device)
            self.step(user, pos - self.num_users, neg)
