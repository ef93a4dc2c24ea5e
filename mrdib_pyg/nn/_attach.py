"""MRdIB on a model written without it: forward hooks on modules that are given by name."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mrdib_pyg.nn.bottleneck import (
    Codes,
    ModalityRows,
    Posterior,
    VariationalBottleneck,
    module_key,
)
from mrdib_pyg.nn.mrdib import MRdIB, PIDTerms
from mrdib_pyg.nn.sides import Mask


class Calls:
    r"""The codes of one target in one :func:`capture`, call by call."""

    def __init__(self) -> None:
        # A chain from the last call to the first: a compiled graph takes all entries of a list as
        # inputs, and would be compiled again for every length.
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
    r"""A bottleneck that replaces the output of a module by its code. The hook is a method of a
    registered module, so that a copy of the model gets its own; a closure would keep the original.
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
                f"target '{self.target}' of modality '{self.modality}' must return a "
                f'floating-point tensor (got a {kind}); attach to a module that returns one'
            )
        if output.dim() == 0 or output.size(-1) != self.in_channels:
            raise ValueError(
                f"target '{self.target}' of modality '{self.modality}' must return the shape [*, "
                f'{self.in_channels}] (got {list(output.shape)}); call detach(model) and attach it '
                f"with channels={{'{self.modality}': "
                f'{output.size(-1) if output.dim() > 0 else 1}, ...}}'
            )
        posterior = self(output.reshape(-1, self.in_channels))
        if len(self.captures) == 0 or _is_recomputation():
            return posterior.z.view_as(output)
        calls = self.captures[-1]
        calls.last = (posterior, calls.last)
        # A copy, because the model may change its activation in place.
        return posterior.z.clone().view_as(output)


class AttachedMRdIB(MRdIB):
    r"""The :class:`~mrdib_pyg.nn.MRdIB` that :func:`attach` registers on a model. :obj:`targets`
    holds the path of the module that yields each modality. :meth:`loss` takes the codes of
    :func:`capture`.
    """

    def __init__(
        self, targets: Mapping[str, str], channels: Mapping[str, int], **settings: Any
    ) -> None:
        super().__init__(channels, bottleneck='late', user_codes=False, **settings)
        self.targets = dict(targets)
        for name, target in self.targets.items():
            self.bottlenecks[module_key(name)] = HookedBottleneck(self.channels[name], name, target)

    def loss(
        self,
        codes: Mapping[str, Codes],
        src_index: Tensor,
        dst_pos_index: Tensor,
        dst_neg_index: Tensor,
        user_embedding: Tensor | None = None,
        fused: Codes | ModalityRows | None = None,
        *,
        unimodal: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        present: Mapping[str, Mask] | None = None,
    ) -> PIDTerms:
        r"""As :meth:`MRdIB.loss`, after a check that all targets were called, with gradients in
        training, and returned as many rows. Item indices are rows of the codes in call order; users
        are rows of :obj:`user_embedding` or, without it, of the codes (one id space).
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
                f'the targets must all return the same number of rows (got {counts}); call them '
                f'on the same items inside capture(model)'
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
                    f"target '{target}' of modality '{name}' was not called inside capture(model); "
                    f'run the forward pass inside the block, attach to a module that the model '
                    f'calls, and compile only after attaching'
                )

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, targets={self.targets})'


def _is_recomputation() -> bool:
    # Only a checkpoint runs a forward pass inside a backward pass, and PyTorch has no public way to
    # ask. A compiler recomputes without calling the hook again.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


# Settings without a meaning where each modality is the output of one module.
REFUSED = {
    'bottleneck': "each target has a bottleneck of its own ('late')",
    'fused_channels': "each target has a bottleneck of its own ('late')",
    'user_codes': 'a target gives one tensor of rows, so users have no code apart from it',
}


def attach(
    model: nn.Module,
    targets: Mapping[str, str],
    channels: int | Mapping[str, int] = 64,
    *,
    name: str = 'mrdib',
    **settings: Any,
) -> AttachedMRdIB:
    r"""Puts :class:`~mrdib_pyg.nn.MRdIB` (`arXiv:2509.20225 <https://arxiv.org/abs/2509.20225>`_)
    on a model without editing it: the output of each target module is replaced by its code, a
    sample in training and the mean in evaluation.

    .. code-block:: python

        mrdib = attach(model, {'image': 'image_proj', 'text': 'text_proj'}, channels=64)
        ...
        with capture(model) as codes:
            pos, neg = model(batch)
        terms = mrdib.loss(codes, *triplet, user_embedding=model.user.weight)
        loss = bpr(pos, neg) + terms.total(bottleneck=1e-3, redundant=5e-3, unique=5e-2)

    The triplets index rows of the codes. Where the targets encode the whole catalogue, these are
    ids. Where they encode the positive and then the negative items of a batch of :math:`B`
    triplets, pass ``(user, torch.arange(B), torch.arange(B, 2 * B))``.

    In evaluation mode the outputs of the model stay the same until the bottlenecks have learned.
    Attach before creating the optimizer, :class:`~torch.nn.parallel.DistributedDataParallel` and
    :func:`torch.compile`, so that they see the new parameters and hooks.

    .. note::
        Under :class:`~torch.nn.parallel.DistributedDataParallel` the critics run outside the
        model's :meth:`forward`: leave :obj:`find_unused_parameters=False`, and set
        :obj:`redundancy=None` if the redundant term has no weight. Checkpoint activations with
        :obj:`use_reentrant=False`.

    Args:
        model (torch.nn.Module): The model.
        targets (Dict[str, str]): The path of the module whose output is the representation of a
            modality, as in :meth:`~torch.nn.Module.get_submodule`, by the modality's name. The
            module returns one tensor ``[*, channels]``.
        channels (int or Dict[str, int], optional): The width of these outputs.
            (default: :obj:`64`)
        name (str, optional): The attribute of :obj:`model` that holds the layer.
            (default: :obj:`"mrdib"`)
        **settings (optional): :obj:`redundancy`, :obj:`hidden_channels`, :obj:`num_critic_rows`,
            :obj:`decoder` and :obj:`num_negatives` of :class:`~mrdib_pyg.nn.MRdIB`. As a target
            returns one tensor of rows, :obj:`user_codes` is :obj:`False` and :obj:`bottleneck` is
            :obj:`"late"`.

    Returns:
        AttachedMRdIB: The layer, on the device and of the data type of the first target.

    Raises:
        ValueError: If a target does not exist or is named twice, :obj:`name` is taken, a layer is
            attached already, :obj:`model` is wrapped or compiled, or a setting does not apply.
        TypeError: If :obj:`model` or a target is not a module, or only a container of modules.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"'model' must be a torch.nn.Module (got {type(model).__name__})")
    _check_unwrapped(model)
    if isinstance(model, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise TypeError(
            f"'model' must not be a container (got {type(model).__name__}); attach to a "
            f'torch.nn.Module that holds it'
        )
    for owner, taken, _ in _attached(model):
        where = f'{type(owner).__name__}.{taken}'
        raise ValueError(
            f"'model' must not have MRdIB attached (got {where}); call detach(model) first"
        )
    if not name.isidentifier() or hasattr(model, name):
        raise ValueError(
            f"'name' must be a free attribute of the model (got '{name}'); pass another one, e.g. "
            f"name='attached_mrdib'"
        )
    for key, reason in REFUSED.items():
        if key in settings:
            raise ValueError(
                f"'{key}' cannot be set (got {settings[key]!r}): {reason}; use MRdIB as a layer "
                f'of the model instead'
            )
    if len(targets) == 0:
        raise ValueError("'targets' must name a module (got none), e.g. {'image': 'image_proj'}")
    if isinstance(channels, int):
        channels = dict.fromkeys(targets, channels)
    if set(channels) != set(targets):
        raise ValueError(
            f"'channels' must name the modalities of 'targets', {sorted(targets)} (got "
            f'{sorted(channels)}), or be one width for all'
        )
    modules = {modality: _resolve(model, modality, path) for modality, path in targets.items()}
    for i, (modality, module) in enumerate(modules.items()):
        for other in list(modules)[:i]:
            if modules[other] is module:
                raise ValueError(
                    f"'{targets[modality]}' is the target of both '{other}' and '{modality}'; a "
                    f'module can yield one modality only'
                )

    mrdib = AttachedMRdIB(
        targets, {modality: channels[modality] for modality in targets}, **settings
    )
    like = [*next(iter(modules.values())).parameters(), *model.parameters()]
    for parameter in like:
        if parameter.is_floating_point():
            mrdib.to(parameter.device, parameter.dtype)
            break
    mrdib.train(model.training)
    for modality, hooked in mrdib.hooked_bottlenecks().items():
        hooked.handle = modules[modality].register_forward_hook(hooked.replace_output)
    model.add_module(name, mrdib)
    return mrdib


def detach(model: nn.Module) -> None:
    r"""Undoes :func:`attach`: removes its parameters and hooks.

    Args:
        model (torch.nn.Module): The model, not wrapped.

    Raises:
        ValueError: If nothing is attached, or :obj:`model` is wrapped.
    """
    _check_unwrapped(model)
    owner, name, mrdib = _only_attached(model)
    for hooked in mrdib.hooked_bottlenecks().values():
        hooked.handle.remove()
    delattr(owner, name)


@contextmanager
def capture(model: nn.Module) -> Iterator[Mapping[str, Posterior]]:
    r"""Hands out the codes of the targets called inside a :obj:`with` block, and keeps none.

    A target that is called several times yields its rows in the order of the calls. An output with
    more than two dimensions yields them in row-major order. Blocks may be nested: a call belongs to
    the innermost. Recomputation in the backward pass (activation checkpointing) is not a call.

    Args:
        model (torch.nn.Module): The model that :func:`attach` was called on, or a wrapper of it
            (compiled, distributed, or a model that contains it).

    Returns:
        Mapping[str, Posterior]: The codes by modality, filled as the targets are called.

    Raises:
        RuntimeError: If a target was not called at the end of the block.
        ValueError: If nothing, or more than one layer, is attached.
    """
    _, _, mrdib = _only_attached(model)
    hooked = mrdib.hooked_bottlenecks()
    calls = {modality: Calls() for modality in hooked}
    for modality, bottleneck in hooked.items():
        bottleneck.captures.append(calls[modality])
    codes = _Codes(calls)
    try:
        yield codes
    finally:
        for modality, bottleneck in hooked.items():
            bottleneck.captures.remove(calls[modality])
    mrdib.check_called(codes)


class _Codes(Mapping[str, Posterior]):
    r"""The codes of the modalities whose targets have been called."""

    def __init__(self, calls: dict[str, Calls]) -> None:
        self._calls = calls

    def __getitem__(self, modality: str) -> Posterior:
        if self._calls[modality].last is None:
            raise KeyError(modality)
        return self._calls[modality].posterior()

    def __iter__(self) -> Iterator[str]:
        return (modality for modality, calls in self._calls.items() if calls.last is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


def _attached(model: nn.Module) -> list[tuple[nn.Module, str, AttachedMRdIB]]:
    return [
        (owner, name, child)
        for owner in model.modules()
        for name, child in owner.named_children()
        if isinstance(child, AttachedMRdIB)
    ]


def _only_attached(model: nn.Module) -> tuple[nn.Module, str, AttachedMRdIB]:
    found = _attached(model)
    if len(found) == 0:
        raise ValueError(
            f'no MRdIB is attached to this {type(model).__name__}; call attach(model, targets) '
            f"first, e.g. with targets={{'image': 'image_proj'}}"
        )
    if len(found) > 1:
        owners = ', '.join(f'{type(owner).__name__}.{name}' for owner, name, _ in found)
        raise ValueError(
            f'this {type(model).__name__} contains more than one attached MRdIB ({owners}); pass '
            f'the part of the model that holds the one you mean'
        )
    return found[0]


def _check_unwrapped(model: nn.Module) -> None:
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(model, wrappers) or hasattr(model, '_orig_mod'):
        raise ValueError(
            f"'model' must not be wrapped (got {type(model).__name__}); attach and detach on the "
            f'model itself, then wrap it'
        )
    for path, module in model.named_modules():
        if getattr(module, '_compiled_call_impl', None) is not None:
            where = f"its '{path}'" if path else "'model'"
            raise ValueError(f'{where} must not be compiled; attach and detach first, then compile')


def _resolve(model: nn.Module, modality: str, path: str) -> nn.Module:
    modules = dict(model.named_modules(remove_duplicate=False))
    del modules['']
    if path in modules:
        if isinstance(modules[path], (nn.ModuleList, nn.ModuleDict)):
            inside = [key for key in modules if key.startswith(f'{path}.')]
            raise TypeError(
                f"target '{path}' of modality '{modality}' must not be a container (got "
                f'{type(modules[path]).__name__}); name a module inside it: {inside[:5]}'
            )
        return modules[path]
    value: Any = model
    for part in path.split('.'):
        value = getattr(value, part, None)
    if value is not None:
        raise TypeError(
            f"target '{path}' of modality '{modality}' must be a module (got a "
            f'{type(value).__name__}); name one of {list(modules)[:10]}'
        )
    near = difflib.get_close_matches(path, modules, n=3, cutoff=0.5)
    raise ValueError(
        f"target '{path}' of modality '{modality}' must be a module of {type(model).__name__}; "
        + (f'did you mean {near}?' if near else f'it has {list(modules)[:20]}')
    )
