import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mrdib_pyg.ops.item_features import check_item_features
from mrdib_pyg.ops.normalize_rows import normalize_rows
from mrdib_pyg.ops.topk import stable_topk

# Scores that one chunk of users may hold: 32 MiB.
_MAX_SCORES = 2**23
# Scores closer than this, relative to the best one, may stand in the wrong order in float32.
_TOLERANCE = 1e-5


@torch.no_grad()
def interest_counts(
    edge_index: Tensor,
    features: Sequence[Tensor],
    k: int,
    *,
    num_users: int,
    masks: Sequence[Tensor | None] | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Counts for pairs of items how many users have interacted with the first and are interested
    in the second, as in the interest-aware graph of "SOIL: Contrastive Second-Order Interest
    Learning for Multimodal Recommendation" (ACM Multimedia 2024),

    .. math::
        \nu_{ij} = |\{u : i \in \mathcal{N}_u, j \in \mathcal{C}_u\}|, \quad
        \mathcal{C}_u = \bigcup_m \mathrm{top}_k \sum_{i \in \mathcal{N}_u}
        \cos(\mathbf{x}_{m,i}, \mathbf{x}_{m,\cdot})

    Users are scored in chunks. Among scores that are equal in their first nine decimals the item
    of lower id comes first; where float32 cannot tell, double precision decides.

    Args:
        edge_index (Tensor): The edges from users to items, without repeats.
        features (list[Tensor]): The features of the items, one matrix per modality.
        k (int): The number of items a user is interested in, per modality.
        num_users (int): The number of users.
        masks (list[Tensor], optional): Which items have the modality; the others are nobody's
            interest in it. (default: :obj:`None`, all)
        chunk_size (int, optional): The number of users to score at a time. (default:
            :obj:`None`, chosen by the number of items)

    Shapes:
        - **input:** edges :math:`(2, |\mathcal{E}|)`, features :math:`(I, F_m)`, masks
          :math:`(I)`
        - **output:** pairs :math:`(2, n)`, sorted, and their counts :math:`(n)`, as floats

    Raises:
        ValueError: If :obj:`k` is not between 1 and the number of items, shapes or ids do not fit,
            or a feature is NaN or infinite.
    """
    edge_index, features, masks = check_item_features(edge_index, features, masks, num_users)
    num_items = features[0].size(0)
    if not 1 <= k <= num_items:
        raise ValueError(f"'k' must be between 1 and the {num_items} items (got {k})")
    chunk_size = chunk_size or max(_MAX_SCORES // num_items, 1)
    user, item = edge_index
    perm = user.argsort(stable=True)
    col, count = item[perm], torch.bincount(user, minlength=num_users)
    rowptr = torch.cat([count.new_zeros(1), count.cumsum(0)])

    codes = []
    users = count.nonzero().view(-1)
    for x, mask in zip(features, masks):
        code, unsure = _interests(users, rowptr, col, x.float(), mask, k, chunk_size)
        codes.append(code)
        if unsure.numel() > 0:
            code, _ = _interests(unsure, rowptr, col, x.double(), mask, k, chunk_size)
            codes.append(code)
    code = torch.unique(torch.cat(codes))
    value = torch.ones(code.numel(), device=code.device)
    interests = torch.stack([code // num_items, code % num_items])
    size = (num_users, num_items)
    interested = torch.sparse_coo_tensor(interests, value, size, check_invariants=False)
    rates = torch.sparse_coo_tensor(
        edge_index.flip(0),
        torch.ones(user.numel(), device=user.device),
        size[::-1],
        check_invariants=False,
    )
    with warnings.catch_warnings():  # the product announces once that CSR is in beta
        warnings.simplefilter('ignore')
        counts = torch.sparse.mm(rates, interested).coalesce()
    return counts.indices(), counts.values()


def _interests(
    users: Tensor,
    rowptr: Tensor,
    col: Tensor,
    x: Tensor,
    mask: Tensor | None,
    k: int,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    # The pairs of a user and an item of interest as codes, and the users left to decide: those
    # whose k-th and next item are too close for the precision at hand.
    is_exact = x.dtype == torch.float64
    x = normalize_rows(x)
    num_items = x.size(0)
    num_present = num_items if mask is None else int(mask.sum())
    k = min(k, num_present)
    codes, unsure = [users[:0]], [users[:0]]
    for start in range(0, users.numel() if k > 0 else 0, chunk_size):
        rows = users[start : start + chunk_size]
        count = rowptr[rows + 1] - rowptr[rows]
        end = count.cumsum(0)
        offset = torch.cat([end.new_zeros(1), end])
        entry = torch.arange(int(offset[-1]), device=col.device)
        entry = entry + (rowptr[rows] - offset[:-1]).repeat_interleave(count)
        profile = F.embedding_bag(col[entry], x, offset, mode='sum', include_last_offset=True)
        # A user none of whose items has the modality has no interest in it.
        keep = (profile != 0).any(dim=1)
        rows, profile = rows[keep], profile[keep]
        scores = profile @ x.t()
        largest = scores.abs().amax(dim=1)
        if mask is not None:
            scores[:, ~mask] = -torch.inf
        if is_exact:
            index = stable_topk(scores.round_(decimals=9), k)[1]
        else:
            value, index = torch.topk(scores, min(k + 1, num_present), dim=1)
            if num_present > k:
                sure = value[:, k - 1] - value[:, k] > _TOLERANCE * largest
                unsure.append(rows[~sure])
                rows, index = rows[sure], index[sure, :k]
        codes.append((rows.unsqueeze(1) * num_items + index).view(-1))
    return torch.cat(codes), torch.cat(unsure)
