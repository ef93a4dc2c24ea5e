import torch
from torch import Tensor

from mrdib_pyg.nn.models import Triplets
from mrdib_pyg.training.loss_step import LossStep


class TrainStep:
    r"""A step of training: the loss of a batch, its gradients, and the update by the optimizer.

    Args:
        loss_step (Callable): The forward pass, see :func:`make_loss_step`.
        optimizer (torch.optim.Optimizer): The optimizer of the parameters.
    """

    def __init__(self, loss_step: LossStep, optimizer: torch.optim.Optimizer) -> None:
        self.loss_step, self.optimizer = loss_step, optimizer

    def start_epoch(self) -> None:
        r"""Called before the first step of an epoch, when graphs of the model may be new."""

    def __call__(self, batch: Triplets) -> dict[str, Tensor]:
        r"""Takes a step; returns the weighted ``loss`` and its terms as they were before it.

        Args:
            batch (Triplets): Ids of users, positive and negative items.
        """
        loss, terms = self.loss_step(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        named = {'loss': loss.detach().clone(), **terms}
        return {name: x.detach() for name, x in named.items() if x is not None}


def make_adam(parameters: list[Tensor], lr: float, compile: bool = False) -> torch.optim.Adam:
    r"""Returns the optimizer of all trainings: Adam in one kernel.

    Args:
        parameters (list[torch.Tensor]): What to train.
        lr (float): The learning rate.
        compile (bool, optional): Whether a CUDA graph shall hold its steps. (default: :obj:`False`)
    """
    on_cuda = any(p.is_cuda for p in parameters)
    return torch.optim.Adam(parameters, lr=lr, fused=True, capturable=compile and on_cuda)
