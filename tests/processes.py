"""Runs a function in several processes that are joined as those of torchrun are."""

import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp


def spawn(function: Callable[..., None], size: int, *args: Any) -> None:
    """Calls `function(*args)` in `size` processes, with warnings as errors and in float64."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    # What takes longest, to import everything, is done once for all.
    multiprocessing.set_forkserver_preload(['mrdib_pyg.training', 'mrdib_pyg.serving'])
    mp.start_processes(_enter, (function, size, port, args), nprocs=size, start_method='forkserver')


def _enter(rank: int, function: Callable[..., None], size: int, port: int, args: Any) -> None:
    warnings.simplefilter('error')
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    os.environ |= {
        'RANK': str(rank),
        'LOCAL_RANK': str(rank),
        'WORLD_SIZE': str(size),
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port),
    }
    function(*args)
