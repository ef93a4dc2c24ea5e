r"""One step, forward and backward, of every estimator of mutual information.

    python -m benchmarks.ops.mutual_information --short

The rival of :class:`~mrdib_pyg.nn.mutual_information.CLUB` is the same estimate as it is commonly
computed, over all pairs of the batch: :math:`O(N^2 d)` in time and memory.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from benchmarks.run import Part, part_main
from mrdib_pyg.nn.mrdib import ESTIMATORS
from mrdib_pyg.nn.mutual_information import CLUB, MutualInformation

BASELINE = 'CLUB over all pairs'


class PairwiseCLUB(CLUB):
    r"""The same bound and the same network, with one term for each pair of rows."""

    @staticmethod
    def _estimate(mu: Tensor, logstd: Tensor, z2: Tensor) -> Tensor:
        precision = (-2 * logstd).exp()
        joint = -0.5 * (z2 - mu).square() * precision
        pairs = z2.unsqueeze(0) - mu.unsqueeze(1)  # [N, N, C]
        product = -0.5 * pairs.square().mean(dim=1) * precision
        return (joint.sum(dim=-1) - product.sum(dim=-1)).mean()


def measure(part: Part) -> None:
    for num_rows, channels in part.pick(
        [(512, 64), (2_048, 16), (2_048, 64)], [(512, 64)], [(16, 4)]
    ):
        case: dict[str, Any] = {'rows': num_rows, 'channels': channels, 'task': 'step'}
        part.attempt(case, functools.partial(_measure, part, num_rows, channels, case))


def _measure(part: Part, num_rows: int, channels: int, case: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    z1 = torch.randn(num_rows, channels, generator=generator)
    z2 = 0.5 * z1 + torch.randn(num_rows, channels, generator=generator)
    z1 = z1.to(part.device).requires_grad_()
    z2 = z2.to(part.device).requires_grad_()
    names = {'club': 'CLUB', **{name: name for name in ESTIMATORS if name != 'club'}}
    rivals: dict[str, functools.partial[Tensor]] = {}
    for name, label in names.items():
        estimator = ESTIMATORS[name](channels, channels, 64).to(part.device)
        assert isinstance(estimator, MutualInformation)
        rivals[label] = functools.partial(_step, estimator, z1, z2)
        if name == 'club':
            pairwise = PairwiseCLUB(channels, channels, 64).to(part.device)
            pairwise.load_state_dict(estimator.state_dict())
            rivals[BASELINE] = functools.partial(_step, pairwise, z1, z2)
    some = slice(0, min(num_rows, 128))  # all pairs of them
    values = [fn.func(fn.args[0], *(z.detach()[some].requires_grad_() for z in (z1, z2)))
              for fn in (rivals['CLUB'], rivals[BASELINE])]  # fmt: skip
    error = abs(float(values[0] - values[1]))
    roles = {label: 'ours' for label in names.values()} | {BASELINE: 'baseline'}
    extra = {'CLUB': {'values': {'error': error}}}
    part.time(case, rivals, roles, extra=extra, min_runs=5, min_seconds=0.2)


def _step(estimator: MutualInformation, z1: Tensor, z2: Tensor) -> Tensor:
    z1.grad = z2.grad = None
    estimator.zero_grad(set_to_none=True)
    loss = estimator.penalty(z1, z2)
    loss.backward()
    return loss.detach()


if __name__ == '__main__':
    part_main('mutual_information', measure)
