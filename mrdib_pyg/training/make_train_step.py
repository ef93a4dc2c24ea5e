import torch

from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.training.graphed_step import GraphedStep
from mrdib_pyg.training.loss_step import make_loss_step
from mrdib_pyg.training.train_step import TrainStep
from mrdib_pyg.training.weights import LossWeights


def make_train_step(
    model: Recommender,
    weighting: LossWeights,
    optimizer: torch.optim.Optimizer,
    compile_size: int | None = None,
) -> TrainStep:
    r"""Returns the step of a model.

    Args:
        model (Recommender): The model.
        weighting (LossWeights): The weights of the terms of its loss.
        optimizer (torch.optim.Optimizer): The optimizer, on a GPU with ``capturable=True`` if the
            step is to be compiled.
        compile_size (int, optional): The size of the batches to compile for: on a GPU the whole
            step becomes a CUDA graph, elsewhere its forward pass one compiled graph. Other batches,
            such as the last one of an epoch, run as they are. :obj:`None` compiles nothing.
            (default: :obj:`None`)
    """
    if compile_size is not None and model.train_edge_index.is_cuda:
        return GraphedStep(model, weighting, optimizer, compile_size)
    return TrainStep(make_loss_step(model, weighting, compile_size), optimizer)
