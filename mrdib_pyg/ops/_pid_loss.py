"""What :func:`pid_loss` is given, in one form, and refused at the door where it does not fit."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from math import log
from typing import Any, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch_geometric.typing import Adj

from mrdib_pyg.ops.adjacency import NormalizedAdjacency, bound, sort_stable, to_rowptr

Pair = tuple[Tensor, Tensor]

Pairs = Mapping[str, Pair] | Sequence[Pair]

#: Which items, or which users and items, have a modality.
Mask = Tensor | tuple[Tensor | None, Tensor | None] | None

Masks = Mapping[str, Mask] | Sequence[Mask] | None

_FACES = {2: ('adj', 'neg'), 3: ('src', 'pos', 'neg')}


class PIDProblem(NamedTuple):
    r"""Tables of equal numbers of rows, and the triplets to score with them.

    ``pairs`` are the modalities and, last, the fusion if there is one. Triplets have either
    ``src``, or ``rowptr`` where they are sorted by user.
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
            raise ValueError("'codes' is empty; pass at least one pair of users and items")
        given = _bind(args, kwargs)
        masks = [_check_mask(*item) for item in _match(_name_masks(mask), named).items()]
        names = list(named)
        pairs = [_check_pair(name, pair) for name, pair in named.items()]
        if fused is not None:  # apart from the codes: a modality may have its name
            names.append('fused')
            pairs.append(_check_pair('fused', fused))
            masks.append((None, None))
        device = pairs[0][0].device
        for name, pair in zip(names, pairs):
            if pair[0].device != device:
                raise ValueError(
                    f"'{name}' is on {pair[0].device} but the first code on {device}; move all "
                    f'tensors to one device'
                )

        # Rows beyond those that every table has cannot be referred to.
        size = (min(u.size(0) for u, _ in pairs), min(i.size(0) for _, i in pairs))
        pairs = [(_first_rows(u, size[0]), _first_rows(i, size[1])) for u, i in pairs]
        for name, (mask_user, mask_item) in zip(names, masks):
            _check_rows(name, 'users', mask_user, size[0], device)
            _check_rows(name, 'items', mask_item, size[1], device)

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


def _name(codes: Pairs, argument: str) -> dict[str, Any]:
    if isinstance(codes, Mapping):
        return dict(codes)
    if not isinstance(codes, (list, tuple)):
        raise TypeError(
            f"'{argument}' must be a mapping or a list, one entry a modality (got "
            f'{type(codes).__name__})'
        )
    return {f'{argument}[{i}]': value for i, value in enumerate(codes)}


def _name_masks(mask: Masks) -> dict[str, Mask]:
    return {} if mask is None else _name(mask, 'codes')  # type: ignore[arg-type]


def _match(masks: dict[str, Mask], named: dict[str, Any]) -> dict[str, Mask]:
    unknown = sorted(set(masks) - set(named))
    if unknown:
        raise ValueError(f"'mask' names {unknown}, but 'codes' has {sorted(named)}")
    return {name: masks.get(name) for name in named}


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


def _check_mask(name: str, mask: Mask) -> tuple[Tensor | None, Tensor | None]:
    mask_user, mask_item = split_mask(name, mask)
    for value in (mask_user, mask_item):
        if value is not None and value.dtype != torch.bool:
            raise TypeError(f"the mask of '{name}' must be boolean (got {value.dtype})")
    return mask_user, mask_item


def split_mask(name: str, mask: Any) -> tuple[Tensor | None, Tensor | None]:
    r"""Returns the masks of users and of items."""
    pair = mask if isinstance(mask, (list, tuple)) else (None, mask)
    if len(pair) != 2 or any(x is not None and not isinstance(x, Tensor) for x in pair):
        raise TypeError(
            f"the mask of '{name}' must be a boolean tensor, that of the items, or a pair of masks "
            f'of users and items, either of which may be None (got {type(mask).__name__})'
        )
    return pair[0], pair[1]


def _check_rows(name: str, side: str, mask: Tensor | None, size: int, device: torch.device) -> None:
    if mask is None:
        return
    if mask.dim() != 1 or mask.size(0) < size:
        raise ValueError(
            f"the mask of '{name}' must have one value for each of the {size} {side} (got the "
            f'shape {list(mask.shape)})'
        )
    if mask.device != device:
        raise ValueError(f"the mask of '{name}' is on {mask.device}; move it to {device}")


def _to_csr(adj: Any, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    if not isinstance(adj, NormalizedAdjacency):
        adj = NormalizedAdjacency(adj, num_nodes=size, normalization=None)
    if adj.size() != size:
        raise ValueError(
            f"'adj' must be a matrix of the {size[0]} users times the {size[1]} items that 'codes' "
            f"and 'fused' have rows for (got {adj})"
        )
    if adj.device != device:
        raise ValueError(f"'adj' is on {adj.device} but 'codes' on {device}; move it there")
    if device.type != 'cpu':  # the kernels take what there is
        return adj.rowptr, adj.col
    return adj.rowptr.long(), adj.col.long()


def _check_index(name: str, index: Any, num_rows: int, device: torch.device) -> Tensor:
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
        kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"'{name}' must hold integer ids (got {kind}); call .long()")
    if index.dim() != 1:
        raise ValueError(f"'{name}' must have one dimension (got the shape {list(index.shape)})")
    if index.device != device:
        raise ValueError(f"'{name}' is on {index.device} but 'codes' on {device}; move it there")
    index = index.long().contiguous()
    # Reading the largest index of a CUDA tensor would wait for the device.
    if index.device.type != 'cpu' or torch.compiler.is_compiling() or index.numel() == 0:
        return index
    low, high = index.aminmax()
    if int(low) < 0 or int(high) >= num_rows:
        raise IndexError(
            f"'{name}' reaches from {int(low)} to {int(high)} but there are {num_rows} rows; pass "
            f'rows of the tables, not ids of another space'
        )
    return index


def _first_rows(x: Tensor, num_rows: int) -> Tensor:
    return x if x.size(0) == num_rows else x[:num_rows]


# Triplets that the indices and weights of one step of the CPU path are laid out for at a time.
_MAX_TRIPLETS = 2**20

# Entries of gathered rows that may exist at a time, where scores are computed from gathered rows.
_MAX_GATHERED = {'cpu': 2**18}

_MAX_GATHERED_ACCELERATOR = 2**24


class Triplets(NamedTuple):
    r"""Users, positive and negative items, sorted by user.

    The triplets of user ``u`` are those from ``rowptr[u]`` to ``rowptr[u + 1]``. ``src`` lists
    the users, and may be left out where no index can be out of range.
    """

    rowptr: Tensor
    src: Tensor | None
    pos: Tensor
    neg: Tensor

    def users(self) -> Tensor:
        r"""Returns the user of each triplet."""
        if self.src is not None:
            return self.src
        return torch.repeat_interleave(self.rowptr.diff(), output_size=self.pos.numel())


def bpr_terms(
    triplets: Triplets,
    pairs: list[tuple[Tensor, Tensor]],
    keep: Tensor | None = None,
    *,
    deterministic: bool = True,
    use_kernels: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Returns the ranking loss of each pair of tables, ``[K]``, and the pointwise information
    gains ``[K, n]``, which carry no gradient. ``keep`` tells which triplets count, ``[K, n]``.

    Half precision is computed in single precision and returned so; only gradients are rounded.
    """
    tables = [table.contiguous() for pair in pairs for table in pair]
    if torch.compiler.is_compiling():  # which refuses the same tensor twice, as shared users are
        tables = [table.view_as(table) for table in tables]
    with_grad = torch.is_grad_enabled()  # which an autograd function cannot ask
    return _BPRTerms.apply(*triplets, keep, deterministic, use_kernels, with_grad, *tables)


class _BPRTerms(torch.autograd.Function):
    # What is kept for the backward pass is one score a triplet and pair, besides what was given;
    # with kernels also the user of each triplet, and a sum for each user, which is his gradient but
    # for a factor.
    @staticmethod
    def forward(ctx, rowptr, src, pos, neg, keep, deterministic, use_kernels, with_grad, *tables):
        triplets = Triplets(rowptr, src, pos, neg)
        sums: list[Tensor] = []
        if use_kernels:
            from mrdib_pyg.ops.kernels.pid_loss import score_differences, sum_losses

            needs = ctx.needs_input_grad[-len(tables) :]
            with_sums = with_grad and any(needs[0::2])
            with_src = with_grad and deterministic and any(needs[1::2])
            scores, sums, src = score_differences(triplets, tables, keep, with_sums, with_src)
            terms, gains = sum_losses(scores, keep)
        else:
            scores = _score_differences(triplets, tables)
            loss = -F.logsigmoid(scores)
            gains = log(2.0) - loss
            if keep is not None:
                gains, loss = gains.masked_fill_(~keep, 0.0), loss.masked_fill_(~keep, 0.0)
            terms = loss.sum(dim=1)
        terms = terms / _count(scores, keep)
        ctx.save_for_backward(rowptr, src, pos, neg, keep, scores, *tables, *sums)
        ctx.num_tables = len(tables)
        ctx.deterministic, ctx.use_kernels = deterministic, use_kernels
        ctx.mark_non_differentiable(gains)
        return terms, gains

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        rowptr, src, pos, neg, keep, scores, *tables = ctx.saved_tensors
        tables, sums = tables[: ctx.num_tables], tables[ctx.num_tables :]
        triplets = Triplets(rowptr, src, pos, neg)
        scale = grad / -_count(scores, keep)
        needs = ctx.needs_input_grad[-len(tables) :]
        if grad.device.type == 'cpu' and not torch.compiler.is_compiling():
            # A loss without a weight, often the fused one, passes nothing on.
            has_weight = (grad != 0).repeat_interleave(2).tolist()
            needs = tuple(need and weighs for need, weighs in zip(needs, has_weight))
        if ctx.use_kernels:
            from mrdib_pyg.ops.kernels.pid_loss import item_gradients, user_gradients

            grads: list[Tensor | None] = [None] * len(tables)
            grads[0::2] = user_gradients(sums, scale, tables, needs[0::2])
            grads[1::2] = item_gradients(
                triplets, scores, scale, keep, tables, needs[1::2], ctx.deterministic
            )
        else:
            weight = torch.sigmoid(-scores).mul_(scale.view(-1, 1))  # The gradient of the scores.
            if keep is not None:
                weight.masked_fill_(~keep, 0.0)
            grads = _table_gradients(triplets, weight, tables, needs)
        return (None,) * 8 + tuple(grads)


def _count(scores: Tensor, keep: Tensor | None) -> Tensor | int:
    # The number of triplets that each loss is a mean of.
    return max(scores.size(1), 1) if keep is None else keep.sum(dim=1).clamp_(min=1)


def _score_differences(triplets: Triplets, tables: tuple[Tensor, ...]) -> Tensor:
    tables = tuple(_widen(table) for table in tables)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tables) else torch.float32
    scores = tables[0].new_empty(len(tables) // 2, triplets.pos.numel(), dtype=dtype)
    num_items = tables[1].size(0)
    # Sparse tensors cannot enter a compiled graph, which fuses the gathers by itself.
    has_csr = scores.device.type == 'cpu' and not torch.compiler.is_compiling()
    for rows, edges in blocks(triplets, num_items):
        rowptr, col = _interleave(triplets, rows, edges)
        # torch refuses matrices with more entries, repeated ones, than places.
        is_sparse = has_csr and col.numel() <= (rows.stop - rows.start) * num_items
        for i in range(scores.size(0)):
            user, item, out = tables[2 * i][rows], tables[2 * i + 1], scores[i, edges]
            if is_sparse:
                _sample_scores(user, item, rowptr, col, out)
            else:
                _gather_scores(user, item, _users(rowptr, triplets, rows, edges), col, out)
    return scores


def _sample_scores(user: Tensor, item: Tensor, rowptr: Tensor, col: Tensor, out: Tensor) -> None:
    value, size = user.new_zeros(col.numel()), (user.size(0), item.size(0))
    with warnings.catch_warnings():  # CSR tensors announce once that they are in beta.
        warnings.simplefilter('ignore')
        matrix = torch.sparse_csr_tensor(rowptr, col, value, size, check_invariants=False)
    torch.sparse.sampled_addmm(matrix, user, item.t(), beta=0.0, out=matrix)
    score = matrix.values()
    torch.sub(score[0::2], score[1::2], out=out)


def _gather_scores(user: Tensor, item: Tensor, src: Tensor, col: Tensor, out: Tensor) -> None:
    budget = _MAX_GATHERED.get(user.device.type, _MAX_GATHERED_ACCELERATOR)
    chunk = max(budget // max(user.size(1), 1), 1)
    if torch.compiler.is_compiling():
        chunk = max(src.numel(), 1)
    pos, neg = col[0::2], col[1::2]
    for start in range(0, src.numel(), chunk):
        part = slice(start, start + chunk)
        rows = item.index_select(0, pos[part]) - item.index_select(0, neg[part])
        out[part] = (rows * user.index_select(0, src[part])).sum(dim=1)


def _table_gradients(
    triplets: Triplets, weight: Tensor, tables: list[Tensor], needs: tuple[bool, ...]
) -> list[Tensor | None]:
    # Both sides are sums of weighted rows, over indices that are sorted by the row of the result
    # once for all tables: several times faster than adding one row at a time.
    wide = [_widen(table) for table in tables]
    out: list[Tensor | None] = [None] * len(tables)
    parts = list(blocks(triplets, wide[1].size(0)))
    for rows, edges in parts:
        rowptr, col = _interleave(triplets, rows, edges)
        if any(needs[1::2]):
            rowptr_t, col_t, perm = users_by_item(triplets, rows, edges, wide[1].size(0))
        for i in range(weight.size(0)):
            user, item = wide[2 * i][rows], wide[2 * i + 1]
            value = weight[i, edges].to(user.dtype)
            value = torch.stack([value, -value], dim=1).view(-1)
            if needs[2 * i]:
                part = _sum_rows(rowptr, col, value, item)
                if len(parts) == 1:
                    out[2 * i] = part
                else:
                    grad = out[2 * i]
                    out[2 * i] = grad = torch.empty_like(wide[2 * i]) if grad is None else grad
                    grad[rows] = part
            if needs[2 * i + 1]:
                part = _sum_rows(rowptr_t, col_t, value.index_select(0, perm), user)
                grad = out[2 * i + 1]
                out[2 * i + 1] = part if grad is None else grad.add_(part)
    return [None if grad is None else grad.to(table.dtype) for grad, table in zip(out, tables)]


def blocks(triplets: Triplets, num_items: int) -> Iterator[tuple[slice, slice]]:
    r"""Yields users and their triplets, in the blocks of bounded size that the CPU path takes; a
    user is never split.
    """
    # Blocks are large against the number of items: each adds to the gradients of all of them.
    num_users, num_triplets = triplets.rowptr.numel() - 1, triplets.pos.numel()
    size = max(_MAX_TRIPLETS, 2 * num_items)
    if num_triplets <= size or torch.compiler.is_compiling():
        yield slice(0, num_users), slice(0, num_triplets)
        return
    row = edge = 0
    while row < num_users:
        end = int(torch.searchsorted(triplets.rowptr, edge + size, right=True)) - 1
        end = min(max(end, row + 1), num_users)
        next_edge = int(triplets.rowptr[end])
        yield slice(row, end), slice(edge, next_edge)
        row, edge = end, next_edge


def users_by_item(
    triplets: Triplets, rows: slice, edges: slice, num_items: int
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns a matrix of items times the users of a block, in CSR format, and the former place of
    each entry: each triplet is two entries, of its positive and of its negative item.
    """
    rowptr, col = _interleave(triplets, rows, edges)
    col, perm = sort_stable(col, num_items)
    user = _users(rowptr, triplets, rows, edges).index_select(0, perm >> 1)
    return to_rowptr(col, num_items), user, perm


def _interleave(triplets: Triplets, rows: slice, edges: slice) -> tuple[Tensor, Tensor]:
    # A matrix of users times items in CSR format: each triplet is two entries, positive and
    # negative.
    rowptr = (triplets.rowptr[rows.start : rows.stop + 1].long() - edges.start) * 2
    return rowptr, torch.stack([triplets.pos[edges], triplets.neg[edges]], dim=1).view(-1)


def _users(rowptr: Tensor, triplets: Triplets, rows: slice, edges: slice) -> Tensor:
    # The users of a block, counted from its first.
    if triplets.src is not None:
        return triplets.src[edges] - rows.start
    return torch.repeat_interleave(rowptr.diff() >> 1, output_size=edges.stop - edges.start)


def _sum_rows(rowptr: Tensor, col: Tensor, value: Tensor, x: Tensor) -> Tensor:
    return F.embedding_bag(
        col, x, rowptr, mode='sum', per_sample_weights=value, include_last_offset=True
    )


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.element_size() < 4 else x


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
