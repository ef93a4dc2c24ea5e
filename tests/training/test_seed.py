import random

import numpy as np
import pytest
import torch

from mrdib_pyg.training import seed_everything
from mrdib_pyg.training._fit import epoch_generator


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seed_everything():
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(x != y for x, y in zip(draw(), first))


@pytest.mark.parametrize('seed', [-1, 2**32])
def test_seed_everything_refuses(seed):
    with pytest.raises(ValueError, match=r"'seed' must lie in \[0, 2\*\*32\)"):
        seed_everything(seed)


def test_epoch_generator():
    keys = [(s, e, k) for s in (0, 1, 2**32 - 1) for e in (1, 2, 3, 10**6) for k in range(4)]
    draws = {key: tuple(torch.rand(4, generator=generator(*key)).tolist()) for key in keys}
    assert len(set(draws.values())) == len(keys)  # neighbors share nothing
    for key in keys:
        assert tuple(torch.rand(4, generator=generator(*key)).tolist()) == draws[key]


def generator(seed, epoch, stream):
    return epoch_generator(seed, epoch, stream=stream)


def test_epoch_generator_leaves_the_global_state():
    before = torch.get_rng_state()
    epoch_generator(0, 1)
    assert torch.equal(torch.get_rng_state(), before)
