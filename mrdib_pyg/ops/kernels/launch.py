from typing import Any

import torch
from torch import Tensor

_INT32_END = 2**31
_compiled: dict[Any, Any] = {}


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    args: tuple[Any, ...],
    constants: dict[str, Any],
    num_warps: int,
) -> None:
    r"""Launches a Triton kernel on the current device.

    A second launch of the same kind skips Triton's binding of the arguments, which takes several
    times as long as a small kernel runs. The kind are the types of tensors, whether they are
    aligned, the values of constants, and the class of integers.

    Args:
        kernel (triton.JITFunction): The kernel; all its integers that are not constants, and not
            in tuples, must be named in :obj:`do_not_specialize`.
        grid (tuple[int, ...]): The numbers of programs.
        args (tuple): Its arguments, in their order: tensors, integers, and tuples of these.
        constants (Dict[str, Any]): The constants that follow, in their order; each combination of
            values is compiled, and kept, once. Flags are booleans everywhere, numbers nowhere.
        num_warps (int): The number of warps of a program.
    """
    key = (
        kernel,
        torch.cuda.current_device() if torch.cuda.is_available() else -1,
        num_warps,
        tuple(constants.values()),
        tuple(_kind(arg) for arg in args),
    )
    grid = (*grid, 1, 1)[:3]
    compiled = _compiled.get(key)
    if compiled is not None:
        compiled[grid](*args, *constants.values())
        return
    if list(constants) != list(kernel.arg_names[len(args) :]):
        raise ValueError(
            f"'constants' must be {list(kernel.arg_names[len(args) :])} in this order (got "
            f'{list(constants)})'
        )
    # The last is said because Triton's default is about to change. The interpreter returns nothing.
    compiled = kernel[grid](*args, **constants, num_warps=num_warps, enable_fp_fusion=True)
    # On ROCm it also depends on the sizes of tensors, which are not part of the key.
    if compiled is not None and torch.version.hip is None:
        _compiled[key] = compiled


def _kind(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return arg.dtype, arg.data_ptr() % 16 == 0
    if isinstance(arg, tuple):  # the integers of which are specialized by value
        return tuple(x if isinstance(x, int) else _kind(x) for x in arg)
    return -_INT32_END <= arg < _INT32_END
