r"""What a training step consists of: its products, normal numbers and optimizer alone, which is
what is left of it if all else took no time; the arithmetic of MRdIB alone, which no implementation
does without; and where its time goes by kind of operator.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from benchmarks.schema import KINDS
from mrdib_pyg.nn import VariationalBottleneck

#: Of a matrix product, by the name of the operator: the place of its two factors.
DENSE = {'mm': 0, 'bmm': 0, 'mv': 0, 'addmm': 1, 'addmm_': 1, 'baddbmm': 1, 'baddbmm_': 1}
SPARSE = ('_embedding_bag', '_embedding_bag_forward_only')
ADAM = '_fused_adam_'
NORMAL = 'normal_'
DENSE_PRODUCTS, EDGES, NORMALS = KINDS[:3]
OPTIMIZER, ROWS, ELEMENTS, BETWEEN = (
    'optimizer', 'rows moved and sorted', 'all other operators', 'between operators',
)  # fmt: skip
#: The kinds by the operators that are of them; the rest are element-wise operations and sums.
_OPERATORS = {
    **dict.fromkeys(DENSE, DENSE_PRODUCTS),
    **dict.fromkeys((*SPARSE, 'sparse_sampled_addmm', '_embedding_bag_dense_backward'), EDGES),
    NORMAL: NORMALS,
    ADAM: OPTIMIZER,
    **dict.fromkeys(
        (
            'index_select', 'index', 'index_put_', '_index_put_impl_', 'index_add_', 'index_add',
            'index_copy_', 'gather', 'scatter_', 'scatter_add_', 'cat', 'stack', 'copy_', 'sort',
            'nonzero', 'masked_select', 'repeat_interleave', 'searchsorted', 'bincount',
            '_convert_indices_from_coo_to_csr',
        ),
        ROWS,
    ),
}  # fmt: skip


class StepProducts:
    r"""What a training step computes in matrix products, in sums over the edges of a graph, in
    drawing normal numbers and in Adam, forward and backward, as it was seen in one step: to be done
    again without all the rest, into buffers that are there.

    Factors are copies in the strides of the originals: a step gathers rows into one buffer again
    and again, and its optimizer changes the parameters.

    It is a bound for implementations of the same equations in the same precision, with the same
    rows and in the same order of products, not for all that can be thought of. What an operator of
    CUDA computes in a kernel of this package is not seen.

    Args:
        step (Callable): The training step.
    """

    def __init__(self, step: Callable[[], Any]) -> None:
        self._dense: list[tuple[Tensor, Tensor, Tensor]] = []
        self._sparse: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
        self._normal: list[Tensor] = []
        self._adam: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
        # By content the original, which is held: its memory must not become another's meanwhile.
        self._copies: dict[Any, tuple[Tensor, Tensor]] = {}
        with _Watch(self._note):
            step()
        self._copies.clear()

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = func.name().split('::')[1].split('.')[0]
        if name in DENSE:
            a, b = (self._keep(x) for x in args[DENSE[name] : DENSE[name] + 2])
            shape = (*a.shape[:-1], *b.shape[a.dim() - 1 :])
            self._dense.append((a, b, torch.empty(shape, dtype=a.dtype, device=a.device)))
        elif name in SPARSE:
            self._sparse.append((func, *tree_map_only(Tensor, self._keep, (args, kwargs))))
        elif name == NORMAL:
            self._normal.append(torch.empty_like(args[0]))
        elif name == ADAM:  # it writes into its arguments: not into those of the model
            self._adam.append((func, *tree_map_only(Tensor, torch.clone, (args, kwargs))))

    def _keep(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x.detach()
        # From its first number to its last, with the gaps; once for the products of one content.
        span = 1 + sum((size - 1) * step for size, step in zip(x.size(), x.stride()))
        key = (x.data_ptr(), span, x.dtype, x._version)
        if key not in self._copies:
            self._copies[key] = x, x.detach().as_strided((span,), (1,)).clone()
        return self._copies[key][1].as_strided(x.size(), x.stride(), 0)

    @property
    def flops(self) -> int:
        r"""The additions and multiplications of the matrix products."""
        return sum(2 * out.numel() * a.size(-1) for a, _, out in self._dense)

    @torch.no_grad()
    def dense(self) -> None:
        r"""Does the matrix products."""
        for a, b, out in self._dense:
            torch.matmul(a, b, out=out)

    @torch.no_grad()
    def sparse(self) -> None:
        r"""Does the sums over edges."""
        for func, args, kwargs in self._sparse:
            func(*args, **kwargs)

    @torch.no_grad()
    def normal(self) -> None:
        r"""Draws the normal numbers."""
        for out in self._normal:
            out.normal_()

    @torch.no_grad()
    def adam(self) -> None:
        r"""Does the optimizer's step, on copies."""
        for func, args, kwargs in self._adam:
            func(*args, **kwargs)

    def calls(self) -> dict[str, Callable[[], None]]:
        r"""The calls by what they do, less those that the step has nothing for."""
        noted = (self._dense, self._sparse, self._normal, self._adam)
        found = zip(KINDS, noted, (self.dense, self.sparse, self.normal, self.adam))
        return {kind: call for kind, calls, call in found if calls}

    def __call__(self) -> None:
        r"""Does all of it."""
        for call in self.calls().values():
            call()


class _Watch(TorchDispatchMode):
    def __init__(self, note: Callable[..., None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self.note(func, args, kwargs)
        return func(*args, **kwargs)


# -- by kind of operator ---------------------------------------------------------------------------


class Share(NamedTuple):
    r"""Seconds and calls of a kind of operator, in one step."""

    seconds: float
    calls: float


def measure_operators(step: Callable[[], Any], count: int = 4) -> dict[str, Share]:
    r"""Returns what each kind of operator takes of a step. *Between operators* is the process time
    of a step that nothing watches, less that of its operators, zero at least: Python, autograd, the
    dispatcher.

    Args:
        step (Callable): The training step.
        count (int, optional): The number of steps to take, twice. (default: :obj:`4`)
    """
    step()
    begin = time.process_time()
    for _ in range(count):
        step()
    total = (time.process_time() - begin) / count
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(count):
            step()
    found: dict[str, list[float]] = {}
    for event in profiler.key_averages():
        if not event.key.startswith('aten::'):  # regions of Python and autograd
            continue
        kind = found.setdefault(_OPERATORS.get(event.key[6:], ELEMENTS), [0.0, 0.0])
        kind[0] += event.self_cpu_time_total / 1e6 / count
        kind[1] += event.count / count
    out = {kind: Share(*entry) for kind, entry in found.items()}
    out[BETWEEN] = Share(max(total - sum(share.seconds for share in out.values()), 0.0), 0.0)
    return out


def added_operators(
    plain: Callable[[], Any], full: Callable[[], Any], rounds: int = 3
) -> dict[str, Share]:
    r"""Returns what one step has of each kind above another, the median of some rounds."""
    found: list[dict[str, Share]] = []
    for _ in range(rounds):
        less, more = measure_operators(plain), measure_operators(full)
        zero = Share(0.0, 0.0)
        found.append(
            {
                kind: Share(*(a - b for a, b in zip(more.get(kind, zero), less.get(kind, zero))))
                for kind in {**more, **less}
            }
        )
    out = {}
    for kind in dict.fromkeys(kind for each in found for kind in each):
        entries = [each.get(kind, Share(0.0, 0.0)) for each in found]
        columns = torch.tensor(entries, dtype=torch.float64).median(dim=0).values
        out[kind] = Share(*columns.tolist())
    return out


# -- the arithmetic of MRdIB -----------------------------------------------------------------------


class Product(NamedTuple):
    r"""A matrix product with its gradients: what is multiplied, and buffers of the results."""

    x: Tensor
    weight: Tensor
    grad: Tensor
    out: Tensor
    grad_x: Tensor
    grad_weight: Tensor


def make_product(num_rows: int, weight: Tensor) -> Product:
    r"""Returns a product of some random rows."""
    x = torch.randn(num_rows, weight.size(1), device=weight.device)
    grad = torch.randn(num_rows, weight.size(0), device=weight.device)
    return Product(x, weight, grad, *(torch.empty_like(a) for a in (grad, x, weight)))


class Arithmetic:
    r"""The matrix products of the bottlenecks and critics that a call passes, forward and backward,
    and a normal number and an exponential for every entry of a code: into buffers that are there,
    without autograd, without KL, without the scores of the decoders, without the optimizer.

    Args:
        layer (torch.nn.Module): The MRdIB of a model.
        call (Callable): A training step of the model.
    """

    def __init__(self, layer: nn.Module, call: Callable[[], Any]) -> None:
        self.products: list[Product] = []
        self.codes: list[Tensor] = []
        with _watch(layer, self._note):
            call()

    def _note(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        x = args[0]
        if isinstance(module, VariationalBottleneck):
            weight = module.lin.weight
            self.codes.append(torch.empty(x.size(0), module.out_channels, device=x.device))
        else:
            assert isinstance(module, nn.Linear)
            weight = module.weight
        self.products.append(make_product(x.size(0), weight.detach()))

    @torch.no_grad()
    def __call__(self) -> None:
        r"""Does it once."""
        for code in self.codes:
            code.normal_().exp_()
        for product in self.products:
            torch.mm(product.x, product.weight.t(), out=product.out)
            torch.mm(product.grad, product.weight, out=product.grad_x)
            torch.mm(product.grad.t(), product.x, out=product.grad_weight)


@contextmanager
def _watch(layer: nn.Module, note: Callable[..., None]) -> Iterator[None]:
    inner = {
        linear
        for module in layer.modules()
        if isinstance(module, VariationalBottleneck)
        for linear in module.modules()
    }
    handles = [
        module.register_forward_hook(note)
        for module in layer.modules()
        if isinstance(module, VariationalBottleneck)
        or (isinstance(module, nn.Linear) and module not in inner)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
