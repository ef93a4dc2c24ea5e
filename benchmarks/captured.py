r"""Calls as CUDA graphs: what they take without the time in which Python launches their kernels."""

from collections.abc import Callable
from typing import Any

import torch

#: What the name of a method ends in, if it was timed as a CUDA graph.
CAPTURED = ', CUDA graph'


class Captured:
    r"""A call that is captured when it is first made, and replayed from then on.

    Args:
        fn (Callable): What to capture; it must not wait for the device.
    """

    def __init__(self, fn: Callable[[], Any]) -> None:
        self.fn = fn
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.graph is None:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.fn()  # what is made at first use cannot be captured
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                self.fn()
            self.graph = graph
        self.graph.replay()


def with_captured(rivals: dict[str, Callable[[], Any]], *names: str) -> dict[str, Any]:
    r"""Returns the rivals, and those of the names that are among them once more as CUDA graphs."""
    captured = {f'{n}{CAPTURED}': Captured(rivals[n]) for n in names if n in rivals}
    return {**rivals, **captured}
