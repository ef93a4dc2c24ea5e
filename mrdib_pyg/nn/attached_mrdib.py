from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mrdib_pyg.nn.bottleneck import Posterior, VariationalBottleneck
from mrdib_pyg.nn.codes import Codes, Mask, Rows
from mrdib_pyg.nn.mrdib import MRdIB, _key
from mrdib_pyg.nn.pid_terms import PIDTerms


class Calls:
    r"""The codes of one target inside of one :func:`capture`, a call at a time."""

    def __init__(self) -> None:
        # A chain from the last call to the first. Of a list or a dictionary, a compiled graph
        # would take all earlier entries as its inputs, and be compiled anew for every length.
        self.last: tuple[Posterior, Any] | None = None

    def posterior(self) -> Posterior:
        r"""Returns the rows of all calls, in their order."""
        posteriors, last = [], self.last
        while last is not None:
            posterior, last = last
            posteriors.append(posterior)
        if len(posteriors) == 1:
            return posteriors[0]
        out = Posterior(*(torch.cat(tensors) for tensors in zip(*reversed(posteriors))))
        self.last = (out, None)  # every reader shares one tensor
        return out


class HookedBottleneck(VariationalBottleneck):
    r"""A bottleneck that replaces the output of a module by its code.

    The hook is a method of a registered module, which a copy of the model copies along; a closure
    would keep pointing at the original.
    """

    handle: RemovableHandle

    def __init__(self, channels: int, modality: str, target: str) -> None:
        super().__init__(channels)
        self.modality = modality
        self.target = target
        # The open `capture` blocks, innermost last; empty outside of them.
        self.captures: list[Calls] = []

    def replace_output(self, module: nn.Module, args: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = f'{output.dtype} tensor' if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(
                f"target '{self.target}' of modality '{self.modality}' returned a {kind}, not a "
                f'floating-point tensor; attach to a module that returns the representation alone'
            )
        if output.dim() == 0 or output.size(-1) != self.in_channels:
            raise ValueError(
                f"target '{self.target}' of modality '{self.modality}' returned the shape "
                f'{list(output.shape)}, but its channels were given as {self.in_channels}; call '
                f"detach(model) and attach it with channels={{'{self.modality}': "
                f'{output.size(-1) if output.dim() > 0 else 1}, ...}}'
            )
        posterior = self(output.reshape(-1, self.in_channels))
        if len(self.captures) == 0 or _is_recomputation():
            return posterior.z.view_as(output)
        calls = self.captures[-1]
        calls.last = (posterior, calls.last)
        # A copy, because the model may go on to change its activation in place.
        return posterior.z.clone().view_as(output)


class AttachedMRdIB(MRdIB):
    r"""The :class:`~mrdib_pyg.nn.MRdIB` that :func:`attach` registers on a model; its
    :meth:`loss` takes the codes of :func:`capture`.

    Args:
        targets (Dict[str, str]): The path of the module that yields each modality.
        channels (Dict[str, int]): The width of each modality's representation.
        **settings (optional): Further settings of :class:`~mrdib_pyg.nn.MRdIB`.
    """

    def __init__(
        self, targets: Mapping[str, str], channels: Mapping[str, int], **settings: Any
    ) -> None:
        super().__init__(channels, bottleneck='late', user_codes=False, **settings)
        self.targets = dict(targets)
        for name, target in self.targets.items():
            self.bottlenecks[_key(name)] = HookedBottleneck(self.channels[name], name, target)

    def loss(
        self,
        codes: Mapping[str, Codes],
        src_index: Tensor,
        dst_pos_index: Tensor,
        dst_neg_index: Tensor,
        user_embedding: Tensor | None = None,
        fused: Codes | Rows | None = None,
        *,
        unimodal: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        present: Mapping[str, Mask] | None = None,
    ) -> PIDTerms:
        r"""As :meth:`MRdIB.loss`; the indices of items are rows of the codes, in the order in which
        the targets were called. The users are rows of :obj:`user_embedding`, without which they
        are taken for rows of the codes too (users and items in one id space).

        Raises:
            RuntimeError: If a target was not called inside of :func:`capture`, or was called
                without gradients although the model is in training.
            ValueError: If the targets gave different numbers of rows.
        """
        self.check_called(codes)
        rows: dict[str, int] = {}
        for name, hooked in self.hooked_bottlenecks().items():
            code = codes[name]
            if not isinstance(code, Posterior):
                continue
            rows[name] = code.mu.size(0)
            if (
                hooked.training
                and hooked.lin.weight.requires_grad
                and torch.is_grad_enabled()
                and not code.mu.requires_grad
            ):
                raise RuntimeError(
                    f"target '{hooked.target}' of modality '{name}' was called without gradients, "
                    f'so its bottleneck cannot learn; call the model outside of torch.no_grad(), '
                    f'and checkpoint activations with use_reentrant=False'
                )
        if len(set(rows.values())) > 1:
            counts = ', '.join(f"'{self.targets[name]}' {n}" for name, n in rows.items())
            raise ValueError(
                f'the targets gave different numbers of rows ({counts}), so that no index fits '
                f'them all; call each of them on the same items inside of capture(model)'
            )
        return super().loss(
            {name: codes[name] for name in self.channels},
            src_index,
            dst_pos_index,
            dst_neg_index,
            user_embedding,
            fused,
            unimodal=unimodal,
            present=present,
        )

    def hooked_bottlenecks(self) -> dict[str, HookedBottleneck]:
        hooked = {}
        for name in self.channels:
            bottleneck = self._bottleneck(name)
            assert isinstance(bottleneck, HookedBottleneck)
            hooked[name] = bottleneck
        return hooked

    def check_called(self, codes: Mapping[str, Codes]) -> None:
        for name, target in self.targets.items():
            if name not in codes:
                raise RuntimeError(
                    f"target '{target}' of modality '{name}' was not called inside of "
                    f'capture(model); run the forward pass inside of the block. If the model '
                    f"never calls '{target}' as a module (but reads its weight, say), attach to "
                    f'a module that it does call; if it was compiled before, attach first'
                )

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, targets={self.targets})'


def _is_recomputation() -> bool:
    # Inside of a backward pass a forward pass can only be that of a checkpoint. Under compilation
    # the compiler does the recomputation itself, without calling the hook again.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
