"""The ranking losses of sorted triplets and their gradients, without rows gathered per triplet."""

from collections.abc import Iterator
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrdib_pyg.ops._fixed_shapes import can_read, has_fixed_shapes
from mrdib_pyg.ops.adjacency import csr_tensor, sort_stable, to_rowptr
from mrdib_pyg.ops.rows import rows_per_chunk

_MAX_TRIPLETS = 2**20  # of one block on CPU
_MAX_GATHERED = 2**18  # entries of gathered rows at a time on CPU


class SortedTriplets(NamedTuple):
    r"""Users, positive and negative items, sorted by user. Those of user ``u`` are
    ``rowptr[u]:rowptr[u + 1]``. ``src``, the user of each, may be left out where no id is out of
    range.
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
    triplets: SortedTriplets,
    pairs: list[tuple[Tensor, Tensor]],
    keep: Tensor | None = None,
    *,
    deterministic: bool = True,
    use_kernels: bool = False,
    return_gains: bool = False,
) -> tuple[Tensor, Tensor | None]:
    r"""Returns the ranking loss of each pair of tables, ``[K]``, and the pointwise information
    gains ``[K, n]`` without gradient, if asked for. Triplets count where ``keep`` ``[K, n]`` is
    set.
    """
    tables = [table.contiguous() for pair in pairs for table in pair]
    if torch.compiler.is_compiling():  # a compiled graph refuses a tensor twice
        tables = [table.view_as(table) for table in tables]
    with_grad = torch.is_grad_enabled()  # always false inside an autograd function
    flags = deterministic, use_kernels, with_grad, return_gains
    return _BPRTerms.apply(*triplets, keep, flags, *tables)


class _BPRTerms(torch.autograd.Function):
    # Saves one score per triplet and pair. Kernels also save the user of each triplet and a sum
    # per user: the gradient but for a factor.
    @staticmethod
    def forward(ctx, rowptr, src, pos, neg, keep, flags, *tables):
        deterministic, use_kernels, with_grad, return_gains = flags
        triplets = SortedTriplets(rowptr, src, pos, neg)
        sums: list[Tensor] = []
        if use_kernels:
            from mrdib_pyg.ops.kernels.pid_loss import score_differences, sum_losses

            needs = ctx.needs_input_grad[-len(tables) :]
            with_sums = with_grad and any(needs[0::2])
            with_src = with_grad and deterministic and any(needs[1::2])
            scores, sums, src = score_differences(triplets, tables, keep, with_sums, with_src)
            terms, gains = sum_losses(scores, keep, return_gains)
        else:
            scores = _score_differences(triplets, tables)
            loss = -F.logsigmoid(scores)
            gains = log(2.0) - loss if return_gains else None
            if keep is not None:
                gains = None if gains is None else gains.masked_fill_(~keep, 0.0)
                loss = loss.masked_fill_(~keep, 0.0)
            terms = loss.sum(dim=1)
        terms = terms / _count(scores, keep)
        ctx.save_for_backward(rowptr, src, pos, neg, keep, scores, *tables, *sums)
        ctx.num_tables = len(tables)
        ctx.deterministic, ctx.use_kernels = deterministic, use_kernels
        if gains is not None:
            ctx.mark_non_differentiable(gains)
        return terms, gains

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        rowptr, src, pos, neg, keep, scores, *tables = ctx.saved_tensors
        tables, sums = tables[: ctx.num_tables], tables[ctx.num_tables :]
        triplets = SortedTriplets(rowptr, src, pos, neg)
        scale = grad / -_count(scores, keep)
        needs = ctx.needs_input_grad[-len(tables) :]
        if can_read(grad):
            # A loss of weight zero, often the fused one, has no gradient.
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
        return (None,) * 6 + tuple(grads)


def _count(scores: Tensor, keep: Tensor | None) -> Tensor | int:
    # The number of triplets that each loss is a mean of.
    return max(scores.size(1), 1) if keep is None else keep.sum(dim=1).clamp_(min=1)


def _score_differences(triplets: SortedTriplets, tables: tuple[Tensor, ...]) -> Tensor:
    tables = tuple(_widen(table) for table in tables)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tables) else torch.float32
    scores = tables[0].new_empty(len(tables) // 2, triplets.pos.numel(), dtype=dtype)
    num_items = tables[1].size(0)
    # Sparse tensors cannot enter a compiled graph, which fuses the gathers by itself.
    has_csr = can_read(scores)
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
    matrix = csr_tensor(rowptr, col, user.new_zeros(col.numel()), item.size(0))
    torch.sparse.sampled_addmm(matrix, user, item.t(), beta=0.0, out=matrix)
    score = matrix.values()
    torch.sub(score[0::2], score[1::2], out=out)


def _gather_scores(user: Tensor, item: Tensor, src: Tensor, col: Tensor, out: Tensor) -> None:
    chunk = rows_per_chunk(user.size(1), user.device, _MAX_GATHERED)
    if has_fixed_shapes():
        chunk = max(src.numel(), 1)
    pos, neg = col[0::2], col[1::2]
    for start in range(0, src.numel(), chunk):
        part = slice(start, start + chunk)
        rows = item.index_select(0, pos[part]) - item.index_select(0, neg[part])
        out[part] = (rows * user.index_select(0, src[part])).sum(dim=1)


def _table_gradients(
    triplets: SortedTriplets, weight: Tensor, tables: list[Tensor], needs: tuple[bool, ...]
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


def blocks(triplets: SortedTriplets, num_items: int) -> Iterator[tuple[slice, slice]]:
    r"""Yields the users and the triplets of each block of bounded size on CPU. No user is split."""
    # Blocks are large against the number of items: each adds to the gradients of all of them.
    num_users, num_triplets = triplets.rowptr.numel() - 1, triplets.pos.numel()
    size = max(_MAX_TRIPLETS, 2 * num_items)
    if num_triplets <= size or has_fixed_shapes():
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
    triplets: SortedTriplets, rows: slice, edges: slice, num_items: int
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns items times users of a block in CSR format, ``(rowptr, col)``, and the former place
    of each entry. Each triplet is two entries, its positive and its negative item.
    """
    rowptr, col = _interleave(triplets, rows, edges)
    col, perm = sort_stable(col, num_items)
    user = _users(rowptr, triplets, rows, edges).index_select(0, perm >> 1)
    return to_rowptr(col, num_items), user, perm


def _interleave(triplets: SortedTriplets, rows: slice, edges: slice) -> tuple[Tensor, Tensor]:
    # Users times items in CSR format: each triplet is two entries, positive and negative.
    rowptr = (triplets.rowptr[rows.start : rows.stop + 1].long() - edges.start) * 2
    return rowptr, torch.stack([triplets.pos[edges], triplets.neg[edges]], dim=1).view(-1)


def _users(rowptr: Tensor, triplets: SortedTriplets, rows: slice, edges: slice) -> Tensor:
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
