r"""The arithmetic of MRdIB, and that of features, alone: what a step cannot do without, whoever
writes it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.nn import VariationalBottleneck


class Arithmetic:
    r"""The matrix products of the bottlenecks and critics that a call passes, forward and backward,
    and a normal number and an exponential for every entry of a code: into buffers that are there,
    without autograd, without KL, without the scores of the decoders, without the optimizer.

    Args:
        layer (torch.nn.Module): The MRdIB of a model.
        call (Callable): A training step of the model.
    """

    def __init__(self, layer: nn.Module, call: Callable[[], Any]) -> None:
        self.products: list[tuple[Tensor, Tensor, Tensor]] = []
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
        grad = torch.randn(x.size(0), weight.size(0), device=x.device)
        self.products.append((torch.randn(x.shape, device=x.device), weight.detach(), grad))

    @torch.no_grad()
    def __call__(self) -> None:
        r"""Does it once."""
        for code in self.codes:
            code.normal_().exp_()
        for x, weight, grad in self.products:
            torch.mm(x, weight.t())
            torch.mm(grad, weight)
            torch.mm(grad.t(), x)


def feature_products(data: HeteroData, batch: tuple[Tensor, Tensor, Tensor], channels: int) -> Any:
    r"""Returns a call that does the two matrix products that a step of a model needs which maps the
    features of the items its batch reads, and learns the maps: of rows that lie there gathered.
    """
    rows = torch.cat(batch[1:]).unique()
    products = []
    for name in data['item'].keys():
        if name.startswith('x_'):
            x = data['item'][name][rows]
            shapes = (channels, x.size(1)), (x.size(0), channels)
            weight, grad = (torch.randn(shape, device=x.device) for shape in shapes)
            products.append((x, weight, grad))

    def call() -> None:
        for x, weight, grad in products:
            torch.mm(x, weight.t())
            torch.mm(grad.t(), x)

    return call


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
