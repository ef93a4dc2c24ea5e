r"""The unique decoders of MRdIB, forward and backward, by their loss and number of negatives.

    python -m benchmarks.training.decoder_cost --short

A row is ``MRdIB.loss`` of one modality with plain codes, without redundancy, and the gradients of
its unique term, at the rows that a batch of that size reads; from its time that of a step goes off
once for each modality.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.run import Part, part_main
from mrdib_pyg.nn import MRdIB, Posterior

BATCH_SIZE, CHANNELS = 2048, 64
NUM_USERS, NUM_ITEMS = 1500, 2500
#: By the name of the method.
DECODERS: dict[str, dict[str, Any]] = {
    'bpr': {'decoder': 'bpr'},
    'nce, 32 negatives': {'decoder': 'nce', 'num_negatives': 32},
    'nce, 128 negatives': {'decoder': 'nce', 'num_negatives': 128},
    'nce, 512 negatives': {'decoder': 'nce', 'num_negatives': 512},
}


def measure(part: Part) -> None:
    part.settings.update(batch_size=BATCH_SIZE, channels=CHANNELS)
    for masked in (False, True):
        case = {'task': 'unique decoder of a modality', 'masked': masked}
        calls = {
            method: _call(settings, masked, part.device) for method, settings in DECODERS.items()
        }
        roles = {method: 'baseline' if method == 'bpr' else 'ours' for method in calls}
        settings: dict[str, Any] = {'warmup': 5, 'min_runs': 41, 'min_seconds': 0.5}
        part.attempt(case, functools.partial(part.time, case, calls, roles, **settings))
    part.write()


def _call(settings: dict[str, Any], masked: bool, device: str) -> Callable[[], None]:
    g = torch.Generator().manual_seed(0)
    tables = [
        (0.1 * torch.randn(n, CHANNELS, generator=g)).to(device).requires_grad_()
        for n in (NUM_USERS, NUM_ITEMS)
    ]
    src, pos, neg = (
        torch.randint(n, (BATCH_SIZE,), generator=g).to(device)
        for n in (NUM_USERS, NUM_ITEMS, NUM_ITEMS)
    )
    user, item = (Posterior(z, z) for z in tables)
    has = (torch.rand(NUM_ITEMS, generator=g) < 0.8).to(device)
    present = {'image': (None, has)} if masked else None
    layer = MRdIB({'image': CHANNELS}, redundancy=None, **settings).to(device)

    def call() -> None:
        terms = layer.loss({'image': (user, item)}, src, pos, neg, present=present)
        torch.autograd.grad(terms.unique, tables)

    return call


if __name__ == '__main__':
    part_main('decoder_cost', measure)
