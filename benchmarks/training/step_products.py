r"""The products of a training step, its normal numbers and its optimizer, alone: what is left of
the step if all else took no time.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

#: Of a matrix product, by the name of the operator: the place of its two factors.
DENSE = {'mm': 0, 'bmm': 0, 'mv': 0, 'addmm': 1, 'addmm_': 1, 'baddbmm': 1, 'baddbmm_': 1}
SPARSE = ('_embedding_bag', '_embedding_bag_forward_only')
ADAM = '_fused_adam_'
NORMAL = 'normal_'
#: What is timed of a step.
KINDS = ('dense products', 'sums over edges', 'normal numbers', 'Adam')


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
