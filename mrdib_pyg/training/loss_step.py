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

    Compiled, it is one graph of fixed shapes that computes all rows, replayed as a CUDA graph on a
    GPU: there a small model otherwise spends a step on launching its kernels.

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
    on_cuda = model.train_edge_index.is_cuda
    compiled = torch.compile(step, dynamic=False, mode='reduce-overhead' if on_cuda else 'default')

    def compiled_step(batch: Triplets) -> tuple[Tensor, Terms]:
        if batch.src_index.numel() != compile_size:
            return step(batch)
        if on_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        model.static_shapes = True
        try:
            loss, terms = compiled(batch)
        finally:
            model.static_shapes = False
        # The next replay of a CUDA graph overwrites what this one has returned.
        kept = {n: x if x is None else x.detach().clone() for n, x in terms.items()}
        return loss, kept

    return compiled_step
