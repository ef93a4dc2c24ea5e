"""MRdIB on a model that was written without it: forward hooks on modules it names."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from mrdib_pyg.nn.attached_mrdib import AttachedMRdIB, Calls
from mrdib_pyg.nn.bottleneck import Posterior

# Settings that have no meaning where each modality is the output of one module.
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
    on a model without editing it: from now on the output of each target module is replaced by its
    code, a sample in training and the mean in evaluation.

    .. code-block:: python

        mrdib = attach(model, {'image': 'image_proj', 'text': 'text_proj'}, channels=64)
        ...
        with capture(model) as codes:
            pos, neg = model(batch)
        terms = mrdib.loss(codes, *triplet, user_embedding=model.user.weight)
        loss = bpr(pos, neg) + terms.total(bottleneck=1e-3, redundant=5e-3, unique=5e-2)

    The triplets are rows of the codes: ids where the targets encode the whole catalogue, and where
    they encode the items of a batch of :math:`B` triplets, the positive ones and then the negative
    ones, ``(user, torch.arange(B), torch.arange(B, 2 * B))``.

    In evaluation mode the model returns what it did before until the bottlenecks have learned.
    Attach before the optimizer, :class:`~torch.nn.parallel.DistributedDataParallel` and
    :func:`torch.compile`, so that they see the new parameters and hooks.

    .. note::
        Under :class:`~torch.nn.parallel.DistributedDataParallel` the critics are used outside of
        the model's :meth:`forward`: leave :obj:`find_unused_parameters=False`, and set
        :obj:`redundancy=None` if the redundant term has no weight. Activations are to be
        checkpointed with :obj:`use_reentrant=False`.

    Args:
        model (torch.nn.Module): The model.
        targets (Dict[str, str]): The path of the module whose output is the representation of a
            modality, as in :meth:`~torch.nn.Module.get_submodule`, by the modality's name. Its
            output is one tensor ``[*, channels]``.
        channels (int or Dict[str, int], optional): The width of these outputs.
            (default: :obj:`64`)
        name (str, optional): The attribute of :obj:`model` that holds the layer.
            (default: :obj:`"mrdib"`)
        **settings (optional): :obj:`redundancy`, :obj:`hidden_channels` and
            :obj:`num_critic_rows` of :class:`~mrdib_pyg.nn.MRdIB`. Its :obj:`user_codes` is always
            :obj:`False` here, and its :obj:`bottleneck` always :obj:`"late"`: a target gives one
            tensor of rows.

    Returns:
        AttachedMRdIB: The layer, on the device and of the data type of the first target.

    Raises:
        ValueError: If a target does not exist or is named twice, :obj:`name` is taken, something
            is attached already, :obj:`model` is wrapped or compiled, or a setting does not apply.
        TypeError: If :obj:`model` or a target is no module, or only a container of modules.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"'model' must be a torch.nn.Module (got {type(model).__name__})")
    _check_unwrapped(model)
    if isinstance(model, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise TypeError(
            f"'model' is a {type(model).__name__}, which would take the layer for one of its own "
            f'entries; make it an attribute of a torch.nn.Module and attach to that'
        )
    for owner, taken, _ in _attached(model):
        where = f'{type(owner).__name__}.{taken}'
        raise ValueError(
            f"'model' has MRdIB attached already, as {where}; call detach(model) first"
        )
    if not name.isidentifier() or hasattr(model, name):
        raise ValueError(
            f"the model cannot hold the layer as '{name}', which it has already or which is no "
            f"attribute name; pass another one, e.g. name='attached_mrdib'"
        )
    for key, reason in REFUSED.items():
        if key in settings:
            raise ValueError(
                f"'{key}' cannot be set (got {settings[key]!r}): {reason}; use MRdIB as a layer "
                f'of the model instead'
            )
    if len(targets) == 0:
        raise ValueError("'targets' is empty; name at least one, e.g. {'image': 'image_proj'}")
    if isinstance(channels, int):
        channels = dict.fromkeys(targets, channels)
    if set(channels) != set(targets):
        raise ValueError(
            f"'channels' names the modalities {sorted(channels)} but 'targets' names "
            f'{sorted(targets)}; name the same, or give one width for all'
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
    r"""Undoes :func:`attach`: the parameters, hooks and outputs of the model are as before.

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
    r"""Hands out the codes of the targets that are called inside of a :obj:`with` block; nothing
    is remembered after it.

    A target that is called several times gives its rows in the order of the calls, an output with
    more than two dimensions its rows in row-major order. Blocks may be nested: a call belongs to
    the innermost. What is computed again in the backward pass (activation checkpointing) does not
    count as a call.

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
            f"'model' is wrapped in {type(model).__name__}, which would not notice the change; "
            f'attach and detach on the model itself, then wrap it'
        )
    for path, module in model.named_modules():
        if getattr(module, '_compiled_call_impl', None) is not None:
            where = f"its '{path}'" if path else "'model'"
            raise ValueError(
                f'{where} has been compiled by compile(), which would not notice the change; '
                f'attach and detach first, then compile'
            )


def _resolve(model: nn.Module, modality: str, path: str) -> nn.Module:
    modules = dict(model.named_modules(remove_duplicate=False))
    del modules['']
    if path in modules:
        if isinstance(modules[path], (nn.ModuleList, nn.ModuleDict)):
            inside = [key for key in modules if key.startswith(f'{path}.')]
            raise TypeError(
                f"target '{path}' of modality '{modality}' is a {type(modules[path]).__name__}, "
                f'which is never called itself; name a module inside of it: {inside[:5]}'
            )
        return modules[path]
    value: Any = model
    for part in path.split('.'):
        value = getattr(value, part, None)
    if value is not None:
        raise TypeError(
            f"target '{path}' of modality '{modality}' is a {type(value).__name__}, not a module, "
            f'so no hook can see it; name the module that yields the representation, one of '
            f'{list(modules)[:10]}'
        )
    near = difflib.get_close_matches(path, modules, n=3, cutoff=0.5)
    raise ValueError(
        f"target '{path}' of modality '{modality}' does not exist in {type(model).__name__}; "
        + (f'did you mean {near}?' if near else f'its modules are {list(modules)[:20]}')
    )
