import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    r"""Seeds every global random number generator that this package draws from: Python, NumPy and
    PyTorch on all devices.

    Args:
        seed (int): A non-negative integer.

    Raises:
        ValueError: If :obj:`seed` is negative or does not fit 32 bits, which NumPy needs.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"'seed' must lie in [0, 2**32) (got {seed})")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # all devices


def epoch_generator(
    seed: int, epoch: int, device: torch.device | str = 'cpu', stream: int = 0
) -> torch.Generator:
    r"""Returns a generator whose state depends on the seed, the epoch and the stream alone, so that
    a resumed run draws what an unbroken one would have drawn.
    """
    # SeedSequence mixes the numbers: neighbouring epochs must not share a state.
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(2, np.uint32)
    generator = torch.Generator(device=device)
    generator.manual_seed((int(state[0]) << 31) ^ int(state[1]))
    return generator
