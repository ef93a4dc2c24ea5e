import gc
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mrdib_pyg.nn.models import Recommender, Triplets
from mrdib_pyg.ops._fixed_shapes import fixed_shapes

#: The terms of MRdIB that carry a weight of their own.
MRDIB_TERMS = ('bottleneck', 'redundant', 'unique')


class LossWeights:
    r"""The one place where the named terms of a loss are weighted and summed.

    Args:
        default (Dict[str, float]): The weights that the model gives its own terms.
        weights (Dict[str, float], optional): Weights that replace or add to them, e.g.
            ``{'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}``. (default: :obj:`None`)

    A term without a weight is reported but not added; :obj:`synergistic` is the task loss itself
    and takes no weight.

    Raises:
        ValueError: If a weight is unknown, negative, not a finite number, or given to
            :obj:`synergistic`.
    """

    def __init__(
        self, default: Mapping[str, float], weights: Mapping[str, float] | None = None
    ) -> None:
        weights = {} if weights is None else dict(weights)
        known = sorted({*default, *MRDIB_TERMS})
        for name, weight in {**default, **weights}.items():
            if name not in known:
                raise ValueError(f"there is no loss term '{name}' to weight; known are {known}")
            is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not (is_number and math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight '{name}' must be a number >= 0 (got {weight!r})")
        given = {name: float(weight) for name, weight in {**default, **weights}.items()}
        self.weights = {**dict.fromkeys(MRDIB_TERMS, 0.0), **given}

    def __call__(self, terms: Mapping[str, Tensor | None]) -> Tensor:
        r"""Returns the weighted sum of the terms, a scalar in nats."""
        total: Tensor | None = None
        for name, value in terms.items():
            weight = self.weights.get(name, 0.0)
            if value is None or weight == 0.0:
                continue
            value = value if weight == 1.0 else weight * value
            total = value if total is None else total + value
        if total is None:
            raise ValueError(f'every term has a weight of zero: {sorted(terms)}')
        return total

    def __repr__(self) -> str:
        inner = ', '.join(f'{name}={weight:g}' for name, weight in self.weights.items())
        return f'{self.__class__.__name__}({inner})'


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
        return (compiled if batch.src_index.numel() == compile_size else step)(batch)

    return compiled_step


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
        with fixed_shapes():
            return super().__call__(batch)

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
