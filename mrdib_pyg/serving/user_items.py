import torch
from torch import Tensor


class UserItems:
    r"""Looks up the pairs of users, as :meth:`Recommender.seen_pairs` does the training edges.

    Args:
        pairs (torch.Tensor): Pairs of a user and an item, ``[2, n]``, in any order.
        num_users (int): The number of users.
        num_items (int): The number of items.

    Raises:
        ValueError: If :obj:`pairs` has another shape, or an id does not exist.
    """

    def __init__(self, pairs: Tensor, num_users: int, num_items: int) -> None:
        pairs = torch.as_tensor(pairs)
        is_integer = not (pairs.is_floating_point() or pairs.dtype == torch.bool)
        if pairs.dim() != 2 or pairs.size(0) != 2 or not is_integer:
            raise ValueError(
                f"'exclude' must hold pairs of a user and an item, [2, n] integers (got "
                f'{pairs.dtype} of the shape {list(pairs.shape)})'
            )
        for kind, ids, size in zip(('user', 'item'), pairs, (num_users, num_items)):
            if ids.numel() > 0 and not 0 <= int(ids.min()) <= int(ids.max()) < size:
                raise ValueError(
                    f"the {kind}s of 'exclude' must lie in [0, {size}) (got {int(ids.min())} to "
                    f'{int(ids.max())})'
                )
        code = (pairs[0].long() * num_items + pairs[1]).unique()
        self.item = code % num_items
        count = torch.bincount(code.div(num_items, rounding_mode='floor'), minlength=num_users)
        self.rowptr = torch.cat([count.new_zeros(1), count.cumsum(0)])

    def __call__(self, user: Tensor) -> Tensor:
        r"""Returns pairs of a row of :obj:`user`, in which one may come more than once, and an
        item, ``[2, m]``.
        """
        start = self.rowptr[user]
        count = self.rowptr[user + 1] - start
        row = torch.repeat_interleave(count)
        offset = torch.arange(row.numel(), device=row.device) - (count.cumsum(0) - count)[row]
        return torch.stack([row, self.item[start[row] + offset]])

    def to(self, device: torch.device) -> 'UserItems':
        r"""Moves the pairs to a device."""
        self.item, self.rowptr = self.item.to(device), self.rowptr.to(device)
        return self
