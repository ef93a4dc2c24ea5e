"""The launch of Triton kernels, in less time than Triton takes."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

_INT32_END = 2**31

# Versions whose private interface of compiled kernels was run on a GPU.
_IS_KNOWN = triton.__version__.startswith('3.6.')


class _Compiled(NamedTuple):
    # Everything that Triton looks up at a launch. The kernel must outlive its id in a key.

    source: Any
    kernel: Any
    run: Any
    function: Any
    metadata: Any
    constants: tuple[Any, ...]


_compiled: dict[Any, _Compiled] = {}


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    args: tuple[Any, ...],
    constants: dict[str, Any],
    num_warps: int,
) -> None:
    r"""Launches a Triton kernel with :obj:`args` and then :obj:`constants`, in their order. A
    second launch of the same kind skips Triton's binding of arguments, which takes several times as
    long as a small kernel. Integers outside of tuples must be constants or in
    ``do_not_specialize``.
    """
    device = _device_of(args)
    if device >= 0 and device != torch.cuda.current_device():
        with torch.cuda.device(device):
            return launch(kernel, grid, args, constants, num_warps)
    key = (id(kernel), device, num_warps, *constants.values(), *_kinds(args))
    grid = (*grid, 1, 1)[:3]
    compiled = _compiled.get(key)
    if compiled is not None:
        if _is_watched():
            compiled.kernel[grid](*args, *compiled.constants)
            return
        compiled.run(
            *grid, _stream_of(device), compiled.function, compiled.metadata, None, None, None,
            *args, *compiled.constants,
        )  # fmt: skip
        return
    if list(constants) != list(kernel.arg_names[len(args) :]):
        raise ValueError(
            f"'constants' must be {list(kernel.arg_names[len(args) :])} in this order (got "
            f'{list(constants)})'
        )
    # Triton's default of fusion is about to change. The interpreter returns None.
    first = kernel[grid](*args, **constants, num_warps=num_warps, enable_fp_fusion=True)
    # On ROCm it also depends on the sizes of tensors, which are not part of the key.
    if _IS_KNOWN and first is not None and torch.version.hip is None:
        found = first.run, first.function, first.packed_metadata
        _compiled[key] = _Compiled(kernel, first, *found, tuple(constants.values()))


def _is_watched() -> bool:
    # A profiler of Triton is told of launches by hooks.
    hooks = triton.knobs.runtime.launch_enter_hook, triton.knobs.runtime.launch_exit_hook
    return any(getattr(hook, 'calls', hook) for hook in hooks)


def _stream_of(device: int) -> int:
    return triton.runtime.driver.active.get_current_stream(device)


def _device_of(args: tuple[Any, ...]) -> int:
    # The index of the device of the first tensor, -1 for the CPU of the interpreter.
    first = args[0]
    while not isinstance(first, Tensor):
        first = first[0]
    return first.get_device()


def _kinds(args: tuple[Any, ...]) -> list[Any]:
    # Every step counts: this is run at each launch.
    kinds: list[Any] = []
    for arg in args:
        if type(arg) is int:
            kinds.append(-_INT32_END <= arg < _INT32_END)
        elif type(arg) is tuple:  # integers in tuples are specialized by value
            kinds.append(len(arg))
            for x in arg:
                if type(x) is int:
                    kinds.append(x)
                else:
                    kinds.append(x.dtype if x.data_ptr() % 16 == 0 else (x.dtype,))
        else:
            kinds.append(arg.dtype if arg.data_ptr() % 16 == 0 else (arg.dtype,))
    return kinds
