import torch
from torch_geometric.data import HeteroData

from benchmarks.training.common.base import CommonModel
from benchmarks.training.common.evaluation import evaluate_in_loops
from benchmarks.training.common.sampler import PythonSampler


class CommonLoop:
    r"""Training and evaluation the common way: shuffled edges, negatives from Python, Adam by its
    defaults (on CPU one tensor at a time), and both held-out splits after every epoch.

    Args:
        model (CommonModel): The model.
        data (HeteroData): Its data.
        batch_size (int, optional): Triplets per step. (default: :obj:`2048`)
        lr (float, optional): The learning rate. (default: :obj:`1e-3`)
    """

    def __init__(
        self, model: CommonModel, data: HeteroData, batch_size: int = 2048, lr: float = 1e-3
    ) -> None:
        self.model, self.data, self.batch_size = model, data, batch_size
        self.edge_index = data['user', 'rates', 'item'].edge_index
        self.sampler = PythonSampler(self.edge_index)
        self.optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)

    def step(self, user: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor) -> float:
        self.optimizer.zero_grad()
        loss = self.model.loss(user, pos, neg)
        if torch.isnan(loss):
            raise FloatingPointError('the loss is NaN')
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def epoch(self) -> float:
        self.model.train()
        self.model.on_epoch_start()
        edges = self.edge_index[
            :, torch.randperm(self.edge_index.size(1)).to(self.edge_index.device)
        ]
        total = 0.0
        for batch in edges.split(self.batch_size, dim=1):
            neg = self.sampler.sample(batch[0].tolist())
            total += self.step(batch[0], batch[1], torch.tensor(neg, device=batch.device))
        return total

    def evaluate(self, split: str) -> dict[str, float]:
        self.model.eval()
        return evaluate_in_loops(self.model.scores, self.data, split, self.cutoffs)

    @property
    def cutoffs(self) -> list[int]:
        return [k for k in (5, 10, 20, 50) if k <= self.model.num_items]
