import pytest
import torch

from mrdib_pyg.training._fit import check_seed, epoch_generator


@pytest.mark.parametrize('seed', [-1, 2**32, 0.5, True])
def test_seeds_that_are_refused(seed):
    with pytest.raises(ValueError, match=f"'seed' must .*got {seed}"):
        check_seed(seed)


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
