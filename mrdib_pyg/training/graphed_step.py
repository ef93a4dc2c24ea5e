import gc

import torch
from torch import Tensor

from mrdib_pyg.nn.models import Recommender, Triplets
from mrdib_pyg.ops.fixed_shapes import fixed_shapes
from mrdib_pyg.training.loss_step import make_loss_step
from mrdib_pyg.training.train_step import TrainStep
from mrdib_pyg.training.weights import LossWeights


class GraphedStep(TrainStep):
    r"""A step of training as one CUDA graph: what a small model waits for on a GPU is the launch of
    its kernels, of which there are hundreds a step, and a graph launches them at once.

    The graph is captured anew in each epoch, which takes no longer than a step: it holds the
    addresses of the model's graphs, which an epoch may redraw, and the learning rate. After a
    change of either, :meth:`start_epoch` must be called. The first batch of an epoch runs as it is,
    because what is made at first use cannot be captured.

    Args:
        model (Recommender): The model, on a GPU.
        weighting (LossWeights): The weights of the terms of its loss.
        optimizer (torch.optim.Optimizer): An optimizer with ``capturable=True``.
        size (int): The size of a batch; others run as they are.

    Raises:
        ValueError: If the optimizer is not capturable.
        RuntimeError: If a step waits for the device or its shapes depend on the batch.
    """

    def __init__(
        self,
        model: Recommender,
        weighting: LossWeights,
        optimizer: torch.optim.Optimizer,
        size: int,
    ) -> None:
        super().__init__(make_loss_step(model, weighting), optimizer)
        if not all(group.get('capturable', False) for group in optimizer.param_groups):
            raise ValueError("'optimizer' must be made with capturable=True to run in a CUDA graph")
        self.model, self.size = model, size
        device = model.train_edge_index.device
        self.stream = torch.cuda.Stream(device)
        self.batch = Triplets(
            *(torch.zeros(size, dtype=torch.long, device=device) for _ in range(3))
        )
        self.graph: torch.cuda.CUDAGraph | None = None
        self.is_warm = self.is_captured = False  # in this epoch
        self.names: list[str] = []
        self.values = torch.empty(0)

    def start_epoch(self) -> None:
        self.is_warm = self.is_captured = False

    def __call__(self, batch: Triplets) -> dict[str, Tensor]:
        if batch.src_index.numel() != self.size:
            return super().__call__(batch)
        if not self.is_warm:
            out = self._run(batch)
            self.is_warm = True
            return out
        for own, given in zip(self.batch, batch):
            own.copy_(given)
        if not self.is_captured:
            self._capture()
        assert self.graph is not None
        self.graph.replay()
        return dict(zip(self.names, self.values.clone().unbind()))

    def _fixed_step(self, batch: Triplets) -> dict[str, Tensor]:
        self.model.static_shapes = True
        try:
            with fixed_shapes():
                return super().__call__(batch)
        finally:
            self.model.static_shapes = False

    def _run(self, batch: Triplets) -> dict[str, Tensor]:
        # On the stream of the capture, where autograd then finds what it has made here.
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            out = self._fixed_step(batch)
        current.wait_stream(self.stream)
        return out

    def _capture(self) -> None:
        # The graph before is kept until the new one has taken over its memory, and whatever else
        # on the device is garbage: to free it would end the capture.
        pool = None if self.graph is None else self.graph.pool()
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        is_collecting = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                out = self._fixed_step(self.batch)
                values = torch.stack(list(out.values()))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:
            raise RuntimeError(
                f'a step of {type(self.model).__name__} cannot be captured as a CUDA graph: it '
                f"waits for the device, or its shapes depend on the batch; leave out 'compile'"
            ) from e
        finally:
            if is_collecting:
                gc.enable()
        self.names, self.values, self.graph = list(out), values, graph
        self.is_captured = True
