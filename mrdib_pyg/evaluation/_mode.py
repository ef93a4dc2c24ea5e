from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    r"""Puts a model into evaluation mode; on exit each module is in its former mode. A model
    already in evaluation mode keeps its caches; anything but a :class:`torch.nn.Module` is left
    alone.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    if not any(modes):
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()  # setting the mode makes a model drop its caches
        for module, mode in zip(modules, modes):
            module.training = mode
