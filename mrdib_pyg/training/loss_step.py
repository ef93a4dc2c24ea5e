from collections.abc import Callable

import torch
from torch import Tensor

from mrdib_pyg.nn.models import Recommender, Triplets
from mrdib_pyg.training.weights import LossWeights

Terms = dict[str, Tensor | None]
LossStep = Callable[[Triplets], tuple[Tensor, Terms]]


def make_loss_step(
    model: Recommender, weighting: LossWeights, compile_size: int | None = None
) -> LossStep:
    r"""Returns the forward pass of a training step: a batch to the weighted loss and its terms.

    Compiled, it is one graph of fixed shapes that computes all rows.

    Args:
        model (Recommender): The model.
        weighting (LossWeights): The weights of the terms.
        compile_size (int, optional): The size of the batches to compile for; others, such as the
            last one of an epoch, run as they are. :obj:`None` compiles nothing.
            (default: :obj:`None`)
    """

    def step(batch: Triplets) -> tuple[Tensor, Terms]:
        terms: Terms = dict(model.loss(batch))
        return weighting(terms), terms

    if compile_size is None:
        return step
    compiled = torch.compile(step, dynamic=False)

    def compiled_step(batch: Triplets) -> tuple[Tensor, Terms]:
        if batch.src_index.numel() != compile_size:
            return step(batch)
        model.static_shapes = True
        try:
            return compiled(batch)
        finally:
            model.static_shapes = False

    return compiled_step
