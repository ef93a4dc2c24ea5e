r"""How near to the memory: bytes asked for, bytes that must move, and the speed of a copy.

*Requested* are the bytes that the operation reads and writes as it is defined, a gathered row
counted as often as it is gathered; caches may serve a part of them, so that their share of the copy
bandwidth can exceed one. *Compulsory* are the bytes that have to move once even with a perfect
cache: every input read once, every output written once.
"""

from typing import Any

import torch

from benchmarks.timer import make_clock, time_rivals

_INDEX = 8  # bytes of an index


def copy_bandwidth(device: str, num_bytes: int = 2**28, runs: int = 7) -> float:
    r"""Returns the bytes per second, read and written, of a copy from one large tensor to another,
    as the median of some runs.
    """
    source = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    times, errors = time_rivals(
        {'copy': lambda: target.copy_(source)},
        make_clock(device),
        warmup=2,
        min_runs=runs,
        max_runs=runs,
    )
    if errors:
        raise RuntimeError(errors['copy'])
    return 2 * num_bytes / times['copy'].median


def propagation_bytes(
    num_rows: int, num_columns: int, nnz: int, channels: int, itemsize: int, index: int = _INDEX
) -> tuple[int, int]:
    r"""Requested and compulsory bytes of one product of a CSR matrix and dense rows."""
    matrix = nnz * (index + itemsize) + (num_rows + 1) * index
    written = num_rows * channels * itemsize
    return (
        matrix + nnz * channels * itemsize + written,
        matrix + num_columns * channels * itemsize + written,
    )


def pid_loss_bytes(
    num_users: int,
    num_items: int,
    num_triplets: int,
    widths: list[int],
    itemsize: int,
    backward: bool,
) -> tuple[int, int]:
    r"""Requested and compulsory bytes of the PID loss, whose :obj:`widths` are those of the codes
    and of the fusion: the forward pass reads three rows a triplet and score and keeps a scalar;
    the backward pass sums, for the user the rows of both items, for each item that of the user, and
    writes each row of a gradient once.
    """
    index = 3 * num_triplets * _INDEX
    scalars = num_triplets * len(widths) * itemsize
    rows = 3 * num_triplets * sum(widths) * itemsize
    tables = (num_users + num_items) * sum(widths) * itemsize
    requested, compulsory = index + rows + scalars, index + tables + scalars
    if backward:
        requested += index + scalars + 4 * rows // 3 + tables
        compulsory += index + scalars + tables + tables
    return requested, compulsory


def roofline(requested: int, compulsory: int, seconds: float, bandwidth: float) -> dict[str, Any]:
    r"""The entry of a row."""
    return {
        'requested_bytes': requested,
        'compulsory_bytes': compulsory,
        'copy_bytes_per_second': bandwidth,
        'requested_share': requested / seconds / bandwidth,
        'compulsory_share': compulsory / seconds / bandwidth,
    }
