"""What :func:`pid_loss` is given, in one form, and refused at the door where it does not fit."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrdib_pyg.ops.adjacency import NormalizedAdjacency

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
