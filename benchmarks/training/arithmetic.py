r"""The arithmetic of MRdIB alone: what a step with it cannot do without, whoever writes it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mrdib_pyg.nn import VariationalBottleneck


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
