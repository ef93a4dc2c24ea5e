"""The losses of a partial information decomposition over triplets, and their checks."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import log
from typing import Any, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import Adj

from mrdib_pyg.ops._bpr_terms import SortedTriplets, bpr_terms
from mrdib_pyg.ops._fixed_shapes import can_read
from mrdib_pyg.ops.adjacency import NormalizedAdjacency, bound, sort_stable, to_rowptr

Pair = tuple[Tensor, Tensor]

Pairs = Mapping[str, Pair] | Sequence[Pair]

#: Which items, or which users and items, have a modality.
Mask = Tensor | tuple[Tensor | None, Tensor | None] | None

Masks = Mapping[str, Mask] | Sequence[Mask] | None

_FACES = {2: ('adj', 'neg'), 3: ('src', 'pos', 'neg')}

_HAS_TRITON = find_spec('triton') is not None


class PIDProblem(NamedTuple):
    r"""The checked tables and triplets of :func:`pid_loss`. ``pairs`` are the modalities and, last,
    the fusion if given. Triplets have ``src``, or ``rowptr`` where they are sorted by user.
    """

    pairs: list[Pair]
    masks: list[tuple[Tensor | None, Tensor | None]]
    rowptr: Tensor | None
    src: Tensor | None
    pos: Tensor
    neg: Tensor

    @property
    def has_masks(self) -> bool:
        r"""Whether a modality is missing for some rows."""
        return any(mask is not None for pair in self.masks for mask in pair)

    @classmethod
    def parse(
        cls,
        codes: Pairs,
        fused: Pair | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        mask: Masks,
    ) -> 'PIDProblem':
        r"""Tells the two faces apart and checks everything that was given."""
        named = _name(codes, 'codes')
        if len(named) == 0:
            raise ValueError("'codes' must hold at least one pair of users and items (got none)")
        given = _bind(args, kwargs)
        of_names = {} if mask is None else _name(mask, 'codes')
        unknown = sorted(set(of_names) - set(named))
        if unknown:
            raise ValueError(f"'mask' must name modalities of {sorted(named)} (got {unknown})")
        masks = [split_mask(name, of_names.get(name)) for name in named]
        names = list(named)
        pairs = [_check_pair(name, pair) for name, pair in named.items()]
        if fused is not None:  # apart from the codes: a modality may have its name
            names.append('fused')
            pairs.append(_check_pair('fused', fused))
            masks.append((None, None))
        device, size = pairs[0][0].device, (pairs[0][0].size(0), pairs[0][1].size(0))
        for name, (user, item), masked in zip(names, pairs, masks):
            if user.device != device:
                raise ValueError(
                    f"'{name}' must be on {device}, like the first code (got {user.device})"
                )
            for side, x, num, value in zip(('users', 'items'), (user, item), size, masked):
                if x.size(0) != num:
                    raise ValueError(
                        f"the {side} of '{name}' must have {num} rows, like '{names[0]}' (got "
                        f'{x.size(0)})'
                    )
                _check_mask(name, side, value, num, device)

        rowptr = src = None
        if 'adj' in given:
            rowptr, pos = _to_csr(given['adj'], size, device)
            neg = _check_index('neg', given['neg'], size[1], device)
            if neg.shape != pos.shape:
                raise ValueError(
                    f"'neg' must hold one item for each of the {pos.numel()} entries of 'adj', "
                    f'row by row (got the shape {list(neg.shape)}); repeated edges are one entry'
                )
        else:
            src = _check_index('src', given['src'], size[0], device)
            pos = _check_index('pos', given['pos'], size[1], device)
            neg = _check_index('neg', given['neg'], size[1], device)
            if not src.shape == pos.shape == neg.shape:
                raise ValueError(
                    f"'src', 'pos' and 'neg' must have the same shape (got {list(src.shape)}, "
                    f'{list(pos.shape)} and {list(neg.shape)})'
                )
        return cls(pairs, masks, rowptr, src, pos, neg)


def _bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = _FACES.get(len(args) + len(kwargs), ())
    given = {**dict(zip(names, args)), **kwargs}
    if set(given) != set(names) or len(names) == 0:
        raise TypeError(
            f"pass 'src', 'pos' and 'neg', or 'adj' and 'neg', after 'codes' and 'fused' (got "
            f'{len(args)} positional arguments and {sorted(kwargs)})'
        )
    return given


def _name(given: Any, argument: str) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, (list, tuple)):
        raise TypeError(
            f"'{argument}' must be a mapping or a list, one entry a modality (got "
            f'{type(given).__name__})'
        )
    return {f'{argument}[{i}]': value for i, value in enumerate(given)}


def _check_pair(name: str, pair: Any) -> Pair:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise TypeError(
            f"'{name}' must be a pair of tensors, users and items (got {type(pair).__name__}); "
            f'where both are rows of one id space pass (x, x)'
        )
    user, item = pair
    for side, x in (('users', user), ('items', item)):
        if not isinstance(x, Tensor):
            raise TypeError(f"the {side} of '{name}' must be a tensor (got {type(x).__name__})")
        if not x.is_floating_point():
            raise TypeError(f"the {side} of '{name}' must be floating point (got {x.dtype})")
    if user.dim() != 2 or item.dim() != 2 or user.size(1) != item.size(1):
        raise ValueError(
            f"the users and items of '{name}' must be matrices of one width to be scored by an "
            f'inner product (got {list(user.shape)} and {list(item.shape)})'
        )
    if user.dtype != item.dtype or user.device != item.device:
        raise TypeError(
            f"the users and items of '{name}' must be of one type on one device (got {user.dtype} "
            f'on {user.device} and {item.dtype} on {item.device})'
        )
    return user, item


def split_mask(name: str, mask: Any) -> tuple[Tensor | None, Tensor | None]:
    r"""Returns the masks of users and of items."""
    pair = mask if isinstance(mask, (list, tuple)) else (None, mask)
    if len(pair) != 2 or any(x is not None and not isinstance(x, Tensor) for x in pair):
        raise TypeError(
            f"the mask of '{name}' must be a boolean tensor (of items) or a pair of masks of users "
            f'and items (got {type(mask).__name__})'
        )
    return pair[0], pair[1]


def _check_mask(name: str, side: str, mask: Tensor | None, size: int, device: torch.device) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask of '{name}' must be boolean (got {mask.dtype})")
    if mask.shape != (size,):
        raise ValueError(
            f"the mask of '{name}' must have one value for each of the {size} {side} (got the "
            f'shape {list(mask.shape)})'
        )
    if mask.device != device:
        raise ValueError(f"the mask of '{name}' must be on {device} (got {mask.device})")


def _to_csr(adj: Any, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    if not isinstance(adj, NormalizedAdjacency):
        adj = NormalizedAdjacency(adj, num_nodes=size, normalization=None)
    if adj.size() != size:
        raise ValueError(
            f"'adj' must be a matrix of the {size[0]} users times the {size[1]} items of 'codes' "
            f'(got {adj})'
        )
    if adj.device != device:
        raise ValueError(f"'adj' must be on {device}, like 'codes' (got {adj.device})")
    if device.type != 'cpu':  # kernels take any integers
        return adj.rowptr, adj.col
    return adj.rowptr.long(), adj.col.long()


def _check_index(name: str, index: Any, num_rows: int, device: torch.device) -> Tensor:
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
        kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"'{name}' must hold integer ids (got {kind}); call .long()")
    if index.dim() != 1:
        raise ValueError(f"'{name}' must have one dimension (got the shape {list(index.shape)})")
    if index.device != device:
        raise ValueError(f"'{name}' must be on {device}, like 'codes' (got {index.device})")
    index = index.long().contiguous()
    # Reading the largest index of a CUDA tensor would wait for the device.
    if not can_read(index) or index.numel() == 0:
        return index
    low, high = index.aminmax()
    if int(low) < 0 or int(high) >= num_rows:
        raise IndexError(
            f"'{name}' must lie in [0, {num_rows}), the rows of the tables (got {int(low)} to "
            f'{int(high)})'
        )
    return index


class PIDLoss(NamedTuple):
    r"""The output of :func:`pid_loss`, in nats; in :obj:`torch.float32`, or
    :obj:`torch.float64` where a code is.

    Args:
        unique (torch.Tensor): The ranking loss of each modality's own decoder,
            :math:`-\mathbb{E} \log p(y|z_m)`, ``[M]``.
        synergistic (torch.Tensor, optional): The ranking loss of the fusion,
            :math:`-\mathbb{E} \log p(y|z_1, \ldots, z_M)`, where one was given.
        gains (torch.Tensor, optional): Where they were asked for, the pointwise information gains,
            without gradient: one row for each triplet, one column for each modality and, last, one
            for the fusion if given.
    """

    unique: Tensor
    synergistic: Tensor | None = None
    gains: Tensor | None = None


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
    return_gains: bool = False,
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
    return_gains: bool = False,
) -> PIDLoss: ...


def pid_loss(  # noqa: D417 (the two faces are in the overloads)
    codes: Pairs,
    fused: Pair | None,
    *args: Any,
    mask: Masks = None,
    deterministic: bool = True,
    return_gains: bool = False,
    **kwargs: Any,
) -> PIDLoss:
    r"""Computes the unimodal and the fused ranking losses of `"Multimodal
    Representation-disentangled Information Bottleneck for Multimodal Recommendation"
    <https://arxiv.org/abs/2509.20225>`_ and the pointwise information behind them, either over
    sampled triplets, ``pid_loss(codes, fused, src, pos, neg)``, or over every entry of a sparse
    user-item matrix, ``pid_loss(codes, fused, adj, neg)``.

    With the score differences :math:`\Delta_m(u, i, j) = \langle z_m^u, z_m^i - z_m^j \rangle`
    of a user and a positive and a negative item,

    .. math::
        \mathcal{L}_m = - \frac{1}{n} \sum_{(u, i, j)} \log \sigma(\Delta_m(u, i, j)), \qquad
        g_m(u, i, j) = \log 2 + \log \sigma(\Delta_m(u, i, j))

    and likewise for the fusion. :math:`g_m` is the pointwise (usable) information of modality
    :math:`m` about the preferred item: the log of the probability of the right answer over its
    prior, :math:`1/2`. It is at most :math:`\log 2`, negative where the answer is wrong, and has
    the mean :math:`\log 2 - \mathcal{L}_m`.

    No tensor has the size triplets times channels. The backward pass keeps one score per triplet
    and modality, on CUDA also the user of each triplet and one sum per user. Half precision is
    computed in single precision.

    Args:
        codes (Dict[str, Tuple[torch.Tensor, torch.Tensor]] or List[Tuple]): Per modality the
            users and the items whose inner product is its score. Widths may differ, numbers of
            users and of items may not.
        fused (Tuple[torch.Tensor, torch.Tensor], optional): The users and items of the fusion.
        src (torch.Tensor): The users of the triplets, as rows of the tables.
        pos (torch.Tensor): The positive items.
        neg (torch.Tensor): The negative items; with :obj:`adj` one for each entry of the matrix,
            row by row, by increasing column.
        adj (NormalizedAdjacency, Tensor, EdgeIndex or SparseTensor): The matrix of users times
            items; its values do not matter. Anything but a :class:`NormalizedAdjacency` is
            converted in each call, which merges repeated edges.
        mask (Dict[str, torch.Tensor] or List, optional): Per modality a boolean mask of the items
            that have it, or a pair of masks of users and items. Means are over the triplets whose
            three rows have it; the gains of the others are zero. Masked rows must be finite too,
            or gradients are not. (default: :obj:`None`, all of them)
        deterministic (bool, optional): If set to :obj:`False`, gradients on CUDA may be summed in
            any order. (default: :obj:`True`)
        return_gains (bool, optional): If set to :obj:`True`, also returns the pointwise gains.
            (default: :obj:`False`)

    Shapes:
        - **input:** codes :math:`(U, d_m)` and :math:`(I, d_m)`, fused :math:`(U, D)` and
          :math:`(I, D)`, indices :math:`(n)` where :math:`n` is the number of triplets or of
          entries, masks :math:`(U)` and :math:`(I)`
        - **output:** unique :math:`(M)`, synergistic :math:`()`, gains :math:`(n, M)` or
          :math:`(n, M + 1)`, in nats

    Raises:
        TypeError: If a table, index or mask is of the wrong type, or arguments are missing.
        ValueError: If tables differ in their numbers of rows, other shapes or devices do not fit,
            or a name in :obj:`mask` is unknown.
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
    triplets = SortedTriplets(rowptr, src, pos, neg)
    keep = _keep(problem, triplets.users(), pos, neg) if problem.has_masks else None
    losses, gains = bpr_terms(
        triplets,
        problem.pairs,
        keep,
        deterministic=deterministic,
        use_kernels=_use_kernels(pos.device),
        return_gains=return_gains,
    )
    if gains is not None and perm is not None:
        gains = torch.empty_like(gains).index_copy_(1, perm, gains)
    return _output(losses, gains, fused)


def pid_loss_reference(
    codes: Pairs,
    fused: Pair | None,
    *args: Any,
    mask: Masks = None,
    return_gains: bool = False,
    **kwargs: Any,
) -> PIDLoss:
    r"""Computes :func:`pid_loss` from gathered rows by autograd: the same numbers, but memory grows
    with triplets times channels.
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
    return _output(torch.stack(losses), torch.stack(gains) if return_gains else None, fused)


def _output(losses: Tensor, gains: Tensor | None, fused: Pair | None) -> PIDLoss:
    gains = None if gains is None else gains.t()
    if fused is None:
        return PIDLoss(losses, None, gains)
    # `split` has one gradient, slices have one each. Copied, as views from `split` refuse changes
    # in place.
    unique, synergistic = losses.split([losses.numel() - 1, 1])
    return PIDLoss(unique.clone(), synergistic.view(()).clone(), gains)


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
