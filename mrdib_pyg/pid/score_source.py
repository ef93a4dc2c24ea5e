from typing import NamedTuple

import torch
from torch import Tensor


class ScoreSource(NamedTuple):
    r"""Users and items whose inner product is a score, as a source of information about whether a
    user takes an item.

    The scale and the offset of a score differ between users and say nothing about an item, so a
    score is described given the user: by what exceeds the user's mean over all items, and by the
    user's standard deviation over all items.

    Args:
        user (torch.Tensor): The users, ``[U, C]``.
        item (torch.Tensor): The items, ``[I, C]``.
        has_user (torch.Tensor, optional): Which users have this source, boolean ``[U]``.
            (default: :obj:`None`, all of them)
        has_item (torch.Tensor, optional): Which items have it, boolean ``[I]``.
            (default: :obj:`None`, all of them)
    """

    user: Tensor
    item: Tensor
    has_user: Tensor | None = None
    has_item: Tensor | None = None

    def cpu(self) -> 'ScoreSource':
        r"""Returns the source on the CPU, where measuring takes place."""
        return ScoreSource(*(None if x is None else x.cpu() for x in self))  # type: ignore[arg-type]

    @property
    def varies(self) -> bool:
        r"""Whether the score tells any two items apart."""
        spread = (self.item - self.item.mean(dim=0)).abs().amax()
        return bool(spread > 1e-5 * self.item.abs().amax())

    def features(self, user: Tensor, item: Tensor) -> Tensor:
        r"""Describes the score of pairs of a user and an item.

        Args:
            user (torch.Tensor): The users, ``[n]``.
            item (torch.Tensor): The items, ``[n]``.

        Returns:
            torch.Tensor: The centered score :math:`d = s - \bar{s}_u`, the standardized score
            :math:`d / \sigma_u` and :math:`\sigma_u^2`, ``[n, 3]``, in double precision. Were the
            scores of a user normal and :math:`\exp(a s)` the odds of an item, then
            :math:`a d - a^2 \sigma_u^2 / 2` would be the logarithm of these odds over those of an
            item drawn at random. Where the user or the item lacks the source, the score is the
            mean: it says nothing.
        """
        known = self.item if self.has_item is None else self.item[self.has_item]
        centered = (known - known.mean(dim=0)).double()
        covariance = centered.t() @ centered / max(len(centered), 1)
        ids, inverse = torch.unique(user, return_inverse=True)
        x = self.user.index_select(0, ids).double()
        variance = ((x @ covariance) * x).sum(dim=-1).clamp(min=0.0)
        mean = (x @ known.mean(dim=0).double())[inverse]
        score = (x[inverse] * self.item.index_select(0, item).double()).sum(dim=-1)
        d, variance = score - mean, variance[inverse]
        for has, index in ((self.has_user, user), (self.has_item, item)):
            if has is not None:
                d = torch.where(has[index], d, torch.zeros_like(d))
        # A user to whom all items are alike has scores that differ by rounding alone.
        scale = (self.user.abs().amax() * known.abs().amax()).double() if len(known) else variance
        d = torch.where(variance.sqrt() > 1e-7 * scale, d, torch.zeros_like(d))
        standardized = torch.where(d == 0, d, d / variance.sqrt())
        return torch.stack([d, standardized, variance], dim=-1)
