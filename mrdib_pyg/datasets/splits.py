r"""Splits of a table of interactions that anyone can reproduce, and its k-core.

All take and return NumPy arrays with one entry per interaction. Labels are those of an ``.inter``
file: 0 train, 1 validation, 2 test.
"""

import numpy as np
from scipy.sparse import coo_array

#: The names of the splits that :func:`split_interactions` knows.
SPLIT_NAMES = ('random', 'leave_one_out', 'temporal')


def split_interactions(
    strategy: str,
    user: np.ndarray,
    item: np.ndarray,
    time: np.ndarray | None = None,
    *,
    seed: int = 0,
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> np.ndarray:
    r"""Splits by the name of a strategy.

    Args:
        strategy (str): :obj:`'random'` (see :func:`random_split`), :obj:`'leave_one_out'` (see
            :func:`leave_one_out_split`) or :obj:`'temporal'` (see :func:`temporal_split`).
        user (np.ndarray): The index of each interaction's user.
        item (np.ndarray): The index of its item.
        time (np.ndarray, optional): Its time, in any unit; :obj:`'random'` does without.
            (default: :obj:`None`)
        seed (int, optional): Of :obj:`'random'`. (default: :obj:`0`)
        ratios (tuple, optional): Of :obj:`'temporal'`. (default: :obj:`(0.8, 0.1, 0.1)`)

    Returns:
        np.ndarray: The labels, :obj:`int8`.

    Raises:
        ValueError: If there is no such strategy, or it needs times and there are none.
    """
    if strategy not in SPLIT_NAMES:
        raise ValueError(f"'strategy' needs to be one of {list(SPLIT_NAMES)} (got {strategy!r})")
    if strategy == 'random':
        return random_split(user, item, seed)
    if time is None:
        raise ValueError(
            f'the split {strategy!r} orders interactions by time, and there are no times. Please '
            f"name their column, or split by 'random'"
        )
    if strategy == 'leave_one_out':
        return leave_one_out_split(user, time)
    return temporal_split(time, ratios)


def random_split(user: np.ndarray, item: np.ndarray, seed: int = 0) -> np.ndarray:
    r"""Splits the interactions of each user at random, by the rule that is usual for multimodal
    recommendation: of :math:`n < 10` interactions one each is held out for validation and test, of
    more :math:`\lfloor n / 5 \rfloor`, half of them for test (validation has the odd one). A user
    with fewer than three interactions keeps all of them for training.

    What is held out depends on the seed and the indices of user and item alone, not on the order of
    the rows or the release of a library: a user's items are ordered by
    :math:`h(h(h(s) \oplus u) \oplus i)`, where :math:`h` is the SplitMix64 function of unsigned
    64-bit integers, and the first are held out, those of the test first.

    Args:
        user (np.ndarray): The index of each interaction's user.
        item (np.ndarray): The index of its item; pairs are assumed to be distinct.
        seed (int, optional): Another seed draws another split. (default: :obj:`0`)

    Returns:
        np.ndarray: The labels, :obj:`int8`.
    """
    with np.errstate(over='ignore'):
        start = _mix(np.array([seed & (2**64 - 1)], dtype=np.uint64))
        key = _mix(_mix(start ^ user.astype(np.uint64)) ^ item.astype(np.uint64))
    rank, count = _rank(key, user)
    held_out = np.where(count < 10, np.where(count < 3, 0, 2), count // 5)[user]
    return _label(rank, held_out // 2, held_out)


def leave_one_out_split(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    r"""Holds out the last interaction of each user for test, and the one before for validation. A
    user with fewer than three interactions keeps all of them for training.

    Args:
        user (np.ndarray): The index of each interaction's user.
        time (np.ndarray): Its time; of equal times the one further down counts as the later.

    Returns:
        np.ndarray: The labels, :obj:`int8`.
    """
    rank, count = _rank(time, user)
    rank = count[user] - 1 - rank  # from the last
    held_out = np.where(count < 3, 0, 2)[user]
    return _label(rank, held_out // 2, held_out)


def temporal_split(
    time: np.ndarray, ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> np.ndarray:
    r"""Splits at two moments that are the same for all users: what came before the first is for
    training, what came after the second for test. Interactions of one moment stay together, so the
    shares are met as far as times differ.

    Args:
        time (np.ndarray): The time of each interaction.
        ratios (tuple, optional): The shares of training, validation and test.
            (default: :obj:`(0.8, 0.1, 0.1)`)

    Returns:
        np.ndarray: The labels, :obj:`int8`.

    Raises:
        ValueError: If the ratios are not three numbers that add up to 1, or nothing would be left
            for training.
    """
    if len(ratios) != 3 or not all(0 <= r <= 1 for r in ratios) or abs(sum(ratios) - 1) > 1e-6:
        raise ValueError(
            f"'ratios' needs to be three numbers from 0 to 1 that add up to 1 (got {ratios})"
        )
    label = np.zeros(time.size, dtype=np.int8)
    if time.size == 0:
        return label
    for value, share in ((1, ratios[0]), (2, ratios[0] + ratios[1])):
        place = round(share * time.size)
        if place < time.size:
            label[time >= np.partition(time, place)[place]] = value
    if not (label == 0).any():
        raise ValueError(
            f"with 'ratios' {ratios} no interaction is left for training: the first of them are "
            f'of one moment. Please split by another strategy, or with a larger share of training'
        )
    return label


def k_core(user: np.ndarray, item: np.ndarray, k: int | tuple[int, int]) -> np.ndarray:
    r"""Finds the largest subset of interactions in which every user and every item has at least
    :obj:`k` of them: both are dropped together, again and again, until none has fewer.

    Args:
        user (np.ndarray): The index of each interaction's user.
        item (np.ndarray): The index of its item; pairs are assumed to be distinct.
        k (int or tuple): The least number, or those of users and of items.

    Returns:
        np.ndarray: The places of the interactions that stay, in order.
    """
    at_least_user, at_least_item = k if isinstance(k, tuple) else (k, k)
    kept = np.arange(user.size)
    while kept.size > 0:
        stays = np.bincount(user)[user] >= at_least_user
        stays &= np.bincount(item)[item] >= at_least_item
        if stays.all():
            break
        kept, user, item = kept[stays], user[stays], item[stays]
    return kept


def _rank(key: np.ndarray, user: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The place of each row among those of its user by :obj:`key`, and the counts of users."""
    count = np.bincount(user) if user.size > 0 else np.zeros(0, dtype=np.int64)
    order = np.argsort(key, kind='stable').astype(np.int32 if user.size < 2**31 else np.int64)
    # A counting sort by user, which keeps the order of the keys.
    place = (user[order], np.arange(user.size, dtype=order.dtype))
    order = coo_array((order, place), shape=(count.size, user.size)).tocsr().data
    rank = np.empty(user.size, dtype=np.int64)
    rank[order] = np.arange(user.size) - np.repeat(np.cumsum(count) - count, count)
    return rank, count


def _label(rank: np.ndarray, num_test: np.ndarray, num_held_out: np.ndarray) -> np.ndarray:
    label = (rank < num_held_out).astype(np.int8)
    label[rank < num_test] = 2
    return label


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
