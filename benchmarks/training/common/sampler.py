import random

from torch import Tensor


class PythonSampler:
    r"""Negatives drawn one by one: an item of the training edges that the user has no edge to.

    Args:
        edge_index (torch.Tensor): The training edges.
        seed (int, optional): Seeds the draws. (default: :obj:`0`)
    """

    def __init__(self, edge_index: Tensor, seed: int = 0) -> None:
        self.items = sorted(set(edge_index[1].tolist()))
        self.history: dict[int, set[int]] = {}
        for user, item in edge_index.t().tolist():
            self.history.setdefault(user, set()).add(item)
        self.random = random.Random(seed)

    def sample(self, users: list[int]) -> list[int]:
        r"""Draws a negative for each user."""
        negatives = []
        for user in users:
            item = self.random.choice(self.items)
            while item in self.history[user]:
                item = self.random.choice(self.items)
            negatives.append(item)
        return negatives
