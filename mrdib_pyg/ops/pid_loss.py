from importlib.util import find_spec
from math import log
from typing import Any, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import Adj

from mrdib_pyg.ops.adjacency import NormalizedAdjacency
from mrdib_pyg.ops.bpr_terms import Triplets, bpr_terms
from mrdib_pyg.ops.pid_problem import Masks, Pair, Pairs, PIDProblem
from mrdib_pyg.ops.sorted_index import bound, sort_stable, to_rowptr

_HAS_TRITON = find_spec('triton') is not None


class PIDLoss(NamedTuple):
    r"""The output of :func:`pid_loss`, in nats; in :obj:`torch.float32`, or
    :obj:`torch.float64` where a code is.

    Args:
        unique (torch.Tensor): The ranking loss of each modality's own decoder,
            :math:`-\mathbb{E} \log p(y|z_m)`, ``[M]``.
        synergistic (torch.Tensor, optional): The ranking loss of the fusion,
            :math:`-\mathbb{E} \log p(y|z_1, \ldots, z_M)`, where one was given.
        gains (torch.Tensor): The pointwise information gains, without gradient: one row for each
            triplet, one column for each modality and, last, one for the fusion if given.
    """

    unique: Tensor
    synergistic: Tensor | None
    gains: Tensor


@overload
def pid_loss(
    codes: Pairs,
    fused: Pair | None,
    src: Tensor,
    pos: Tensor,
    neg: Tensor,
    *,
    mask: Masks = None,
    deterministic: bool = True,
) -> PIDLoss: ...


@overload
def pid_loss(
    codes: Pairs,
    fused: Pair | None,
    adj: NormalizedAdjacency | Adj,
    neg: Tensor,
    *,
    mask: Masks = None,
    deterministic: bool = True,
) -> PIDLoss: ...


def pid_loss(  # noqa: D417 (the two faces are in the overloads)
    codes: Pairs,
    fused: Pair | None,
    *args: Any,
    mask: Masks = None,
    deterministic: bool = True,
    **kwargs: Any,
) -> PIDLoss:
    r"""Computes the unimodal and the fused ranking losses of `"Multimodal
    Representation-disentangled Information Bottleneck for Multimodal Recommendation"
    <https://arxiv.org/abs/2509.20225>`_ and the pointwise information behind them, either over
    sampled triplets, ``pid_loss(codes, fused, src, pos, neg)``, or over every entry of a sparse
    user-item matrix, ``pid_loss(codes, fused, adj, neg)``.

    With the score differences :math:`\Delta_m(u, i, j) = \langle z_m^u, z_m^i - z_m^j \rangle`
    of a user, a positive and a negative item,

    .. math::
        \mathcal{L}_m = - \frac{1}{n} \sum_{(u, i, j)} \log \sigma(\Delta_m(u, i, j)), \qquad
        g_m(u, i, j) = \log 2 + \log \sigma(\Delta_m(u, i, j))

    and likewise for the fusion. :math:`g_m` is the pointwise (usable) information that modality
    :math:`m` gives about which of the two items the user prefers: the log of the probability of
    the right answer over its prior, :math:`1/2`. It is at most :math:`\log 2`, negative where
    the answer is wrong, and its mean is :math:`\log 2 - \mathcal{L}_m`.

    No tensor of the size triplets times channels is made: one score a triplet and modality is
    kept for the backward pass, and on CUDA the user of each triplet and a sum of the size of each
    table of users. Half precision is computed in single precision.

    Args:
        codes (Dict[str, Tuple[torch.Tensor, torch.Tensor]] or List[Tuple]): Per modality the
            users and the items whose inner product is its score. Widths may differ.
        fused (Tuple[torch.Tensor, torch.Tensor], optional): The users and items of the fusion.
        src (torch.Tensor): The users of the triplets, as rows of the tables.
        pos (torch.Tensor): The positive items.
        neg (torch.Tensor): The negative items; with :obj:`adj` one for each entry of the matrix,
            row by row, by increasing column.
        adj (NormalizedAdjacency, Tensor, EdgeIndex or SparseTensor): The matrix of users times
            items, whose values do not matter. Anything but a :class:`NormalizedAdjacency` is
            made one by each call, which merges repeated edges.
        mask (Dict[str, torch.Tensor] or List, optional): Per modality a boolean mask of the items
            that have it, or a pair of masks of users and items. Means are over the triplets whose
            three rows do; the gains of the others are zero. What is left out must still be finite,
            for its gradient to be. (default: :obj:`None`, all of them)
        deterministic (bool, optional): If set to :obj:`False`, gradients on CUDA may be summed in
            any order. (default: :obj:`True`)

    Shapes:
        - **input:** codes :math:`(U, d_m)` and :math:`(I, d_m)`, fused :math:`(U, D)` and
          :math:`(I, D)`, indices :math:`(n)` where :math:`n` is the number of triplets or of
          entries, masks :math:`(U)` and :math:`(I)`
        - **output:** unique :math:`(M)`, synergistic :math:`()`, gains :math:`(n, M)` or
          :math:`(n, M + 1)`, in nats

    Raises:
        TypeError: If a table, index or mask is of the wrong type, or arguments are missing.
        ValueError: If shapes or devices do not fit, or a name in :obj:`mask` is unknown.
        IndexError: If an index lies beyond the rows of a table. Where looking for one would wait
            for an accelerator, the triplet's score is NaN or the device asserts.
    """
    problem = PIDProblem.parse(codes, fused, args, kwargs, mask)
    src, pos, neg, perm = problem.src, problem.pos, problem.neg, None
    rowptr = problem.rowptr
    if rowptr is None:
        assert src is not None
        num_users = problem.pairs[0][0].size(0)
        if src.device.type != 'cpu':  # Where indices out of range are not looked for.
            src = bound(src, num_users)
        src, perm = sort_stable(src, num_users)
        pos, neg = pos.index_select(0, perm), neg.index_select(0, perm)
        rowptr = to_rowptr(src, num_users)
    triplets = Triplets(rowptr, src, pos, neg)
    keep = _keep(problem, triplets.users(), pos, neg) if problem.has_masks else None
    losses, gains = bpr_terms(
        triplets,
        problem.pairs,
        keep,
        deterministic=deterministic,
        use_kernels=_use_kernels(pos.device),
    )
    if perm is not None:
        gains = torch.empty_like(gains).index_copy_(1, perm, gains)
    return _output(losses, gains, fused)


def pid_loss_reference(
    codes: Pairs,
    fused: Pair | None,
    *args: Any,
    mask: Masks = None,
    **kwargs: Any,
) -> PIDLoss:
    r"""Computes :func:`pid_loss` from gathered rows, by autograd: the same numbers with plain
    operators, in memory that grows with triplets times channels.
    """
    problem = PIDProblem.parse(codes, fused, args, kwargs, mask)
    src, pos, neg = problem.src, problem.pos, problem.neg
    if src is None:
        assert problem.rowptr is not None
        src = torch.repeat_interleave(problem.rowptr.diff())
    keep = _keep(problem, src, pos, neg)
    dtype = torch.float32
    losses, gains = [], []
    for i, (user, item) in enumerate(problem.pairs):
        loss = -F.logsigmoid((user[src] * (item[pos] - item[neg])).sum(dim=-1))
        kept = torch.ones_like(pos, dtype=torch.bool) if keep is None else keep[i]
        losses.append(loss[kept].sum() / kept.sum().clamp(min=1))
        gains.append((log(2.0) - loss.detach()).masked_fill(~kept, 0.0))
        dtype = torch.promote_types(dtype, loss.dtype)
    losses, gains = [x.to(dtype) for x in losses], [x.to(dtype) for x in gains]
    return _output(torch.stack(losses), torch.stack(gains), fused)


def _output(losses: Tensor, gains: Tensor, fused: Pair | None) -> PIDLoss:
    if fused is None:
        return PIDLoss(losses, None, gains.t())
    # Not by slices, each of which has a gradient of its own to be filled and added; and copied,
    # since one of several views is refused a change in place.
    unique, synergistic = losses.split([losses.numel() - 1, 1])
    return PIDLoss(unique.clone(), synergistic.view(()).clone(), gains.t())


def _keep(problem: PIDProblem, src: Tensor, pos: Tensor, neg: Tensor) -> Tensor | None:
    # Which triplets count, for each pair of tables.
    if not problem.has_masks:
        return None
    out = torch.ones(len(problem.pairs), pos.numel(), dtype=torch.bool, device=pos.device)
    for row, (mask_user, mask_item) in zip(out, problem.masks):
        if mask_user is not None:
            row &= mask_user[src]
        if mask_item is not None:
            row &= mask_item[pos]
            row &= mask_item[neg]
    return out


def _use_kernels(device: torch.device) -> bool:
    # A compiled graph fuses plain operators by itself.
    return device.type == 'cuda' and _HAS_TRITON and not torch.compiler.is_compiling()
