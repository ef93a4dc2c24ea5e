r"""What the linear-Gaussian model is fitted to: blocks of features, and targets."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mrdib_pyg.evidence.likelihood import (
    AMPLITUDE,
    CONSTANT,
    TOLERANCE,
    Dual,
    DualState,
    Primal,
    PrimalState,
    maximize,
)


class Targets:
    r"""The targets :math:`Y`, ``[n, t]``, dense or sparse; a sparse one is never made dense.

    Args:
        value (torch.Tensor, numpy.ndarray or scipy.sparse matrix): The matrix.

    Raises:
        ValueError: If it is no matrix of finite numbers, or all of them are zero.
    """

    def __init__(self, value: Any) -> None:
        if isinstance(value, Tensor) and value.layout != torch.strided:
            value = value.detach().cpu().to_sparse_coo().coalesce()
            index, size = value.indices().numpy(), tuple(value.shape)
            if len(size) == 2:
                value = sparse.csr_array((value.values().double().numpy(), tuple(index)), size)
        self.sparse: Any = None
        if sparse.issparse(value):
            self.sparse = sparse.csr_array(value, dtype=np.float64)
            numbers = torch.from_numpy(self.sparse.data)
            self.shape = tuple(int(n) for n in self.sparse.shape)
        else:
            self.dense = torch.as_tensor(value).detach().cpu().double()
            numbers, self.shape = self.dense, tuple(self.dense.shape)
        if len(self.shape) != 2 or 0 in self.shape:
            raise ValueError(
                f"'targets' must be a matrix with a row for each item (got the shape "
                f'{list(self.shape)})'
            )
        if not bool(numbers.isfinite().all()):
            raise ValueError("'targets' holds NaN or infinity; repair it, or leave the items out")
        if not bool((numbers != 0).any()):
            raise ValueError("'targets' is zero everywhere, so there is nothing to explain")

    def gram(self) -> Tensor:
        r"""Returns :math:`Y Y^{\top} / t`, ``[n, n]``."""
        if self.sparse is None:
            return self.dense @ self.dense.t() / self.shape[1]
        return torch.from_numpy((self.sparse @ self.sparse.T).toarray()) / self.shape[1]

    def cross(self, x: Tensor) -> Tensor:
        r"""Returns :math:`X^{\top} Y` of ``[n, D]``, a matrix ``[D, t]``."""
        if self.sparse is None:
            return x.t() @ self.dense
        return torch.from_numpy(self.sparse.T @ x.numpy()).t()

    def times(self, x: Tensor) -> Tensor:
        r"""Returns :math:`Y X` of ``[t, D]``, a matrix ``[n, D]``."""
        if self.sparse is None:
            return self.dense @ x
        return torch.from_numpy(self.sparse @ x.numpy())

    def density(self) -> float:
        r"""Returns the share of entries that are not zero."""
        nonzero = (self.dense != 0).sum() if self.sparse is None else self.sparse.count_nonzero()
        return float(nonzero) / (self.shape[0] * self.shape[1])

    def to_dense(self) -> Tensor:
        r"""Returns the matrix, ``[n, t]``."""
        return self.dense if self.sparse is None else torch.from_numpy(self.sparse.toarray())

    def square(self) -> Tensor:
        r"""Returns the squared norm of each row, ``[n]``."""
        if self.sparse is None:
            return self.dense.square().sum(dim=1)
        return torch.from_numpy(np.asarray(self.sparse.multiply(self.sparse).sum(axis=1)).ravel())


class Scaler:
    r"""Standardizes columns by the items that have the modality, then scales rows to unit length;
    rows without the modality are zero.

    Args:
        name (str): The modality.
        x (torch.Tensor): Its features, ``[n, F]``.
        present (torch.Tensor, optional): Which items have it, a boolean ``[n]``.
            (default: :obj:`None`, all)
    """

    def __init__(self, name: str, x: Tensor, present: Tensor | None = None) -> None:
        if any(mark in name for mark in '*~|'):  # they stand for what is made of modalities
            raise ValueError(f"'features' names '{name}', which has one of '*~|' in it; rename it")
        x, has = check_features(name, x, present)
        self.name, self.width = name, x.size(1)
        known = x[has].double()
        if known.size(0) < 2:
            raise ValueError(
                f"'features' of '{name}' are those of {known.size(0)} items; take a modality that "
                f'at least two have'
            )
        self.mean = known.mean(dim=0)
        std = known.std(dim=0)
        # A column that does not vary, but for rounding, tells nothing.
        varies = std > 1e-10 * self.mean.abs()
        self.factor = torch.where(varies & (std > 0), 1 / std, 0.0)

    def __call__(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        x, has = check_features(self.name, x, present, self.width)
        x = (x.double() - self.mean) * self.factor
        norm = x.norm(dim=1, keepdim=True)
        return torch.where(has.unsqueeze(1) & (norm > 0), x / norm, 0.0)


def check_features(
    name: str, x: Tensor, present: Tensor | None = None, width: int | None = None
) -> tuple[Tensor, Tensor]:
    r"""Returns features and a mask on the CPU, after checking them.

    Raises:
        ValueError: If a shape does not fit, or an item that has the modality has no numbers.
    """
    x = torch.as_tensor(x).detach().cpu()
    if x.dim() != 2 or x.size(1) == 0 or (width is not None and x.size(1) != width):
        wanted = 'F' if width is None else width
        raise ValueError(
            f"'features' of '{name}' must have the shape [n, {wanted}] (got {list(x.shape)})"
        )
    if present is None:
        has = torch.ones(x.size(0), dtype=torch.bool)
    else:
        has = torch.as_tensor(present).detach().cpu()
        if has.dtype != torch.bool or has.shape != x.shape[:1]:
            raise ValueError(
                f"'present' of '{name}' must hold one bool for each of the {x.size(0)} items (got "
                f'{has.dtype} of the shape {list(has.shape)})'
            )
    bad = ~x.isfinite().all(dim=1) & has
    if bool(bad.any()):
        raise ValueError(
            f"row {int(bad.nonzero()[0])} of 'features' of '{name}' holds NaN or infinity; repair "
            f"it, or let 'present' say that the item lacks the modality"
        )
    return x, has


class Block:
    r"""Features with an amplitude of their own: :math:`\mathbf{x}`, or the products
    :math:`\mathbf{x} \otimes \mathbf{x}'` of two, whose kernel is the product of the two kernels.

    Args:
        left (torch.Tensor): Features ``[n, F]``.
        right (torch.Tensor, optional): Further features ``[n, F']``; the same tensor for squares.
            (default: :obj:`None`)
    """

    def __init__(self, left: Tensor, right: Tensor | None = None) -> None:
        self.left, self.right = left, right

    @property
    def width(self) -> int:
        r"""The number of columns."""
        if self.right is None:
            return self.left.size(1)
        if self.right is self.left:
            return self.left.size(1) * (self.left.size(1) + 1) // 2
        return self.left.size(1) * self.right.size(1)

    def columns(self) -> Tensor:
        r"""Returns the features, ``[n, width]``."""
        if self.right is None:
            return self.left
        if self.right is self.left:
            i, j = torch.triu_indices(self.left.size(1), self.left.size(1))
            weight = torch.full((len(i),), math.sqrt(2.0), dtype=self.left.dtype)
            weight[i == j] = 1.0
            return self.left[:, i] * self.left[:, j] * weight
        return (self.left.unsqueeze(2) * self.right.unsqueeze(1)).flatten(1)

    def kernel(self, other: 'Block') -> Tensor:
        r"""Returns the inner products of rows with those of another block of its kind."""
        out = self.left @ other.left.t()
        if self.right is not None:
            assert other.right is not None
            out *= out if self.right is self.left else self.right @ other.right.t()
        return out

    def rows(self, index: Tensor) -> 'Block':
        r"""Returns a block of some of the rows."""
        left = self.left[index]
        if self.right is None:
            return Block(left)
        return Block(left, left if self.right is self.left else self.right[index])

    def square(self) -> float:
        r"""Returns the sum of the squared norms of the rows."""
        out = self.left.square().sum(dim=1)
        return float((out if self.right is None else out * self.right.square().sum(dim=1)).sum())


class Inducing:
    r"""The directions of a block that some of its rows, chosen by chance, span best: columns whose
    kernel is the Nystroem approximation of the block's own.

    Args:
        block (Block): The block.
        rank (int): The number of directions, of four times as many rows.
        seed (int): Seeds the choice.
    """

    def __init__(self, block: Block, rank: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(block.left.size(0), generator=generator)[: 4 * rank]
        self.landmarks = block.rows(order.sort().values)
        value, vector = torch.linalg.eigh(self.landmarks.kernel(self.landmarks))
        keep = (value > 1e-10 * value[-1]).nonzero().view(-1)[-rank:]
        self.map = vector[:, keep] / value[keep].sqrt()

    def __call__(self, block: Block) -> Tensor:
        return block.kernel(self.landmarks) @ self.map


class Design:
    r"""Blocks of features and targets, and whatever products of them several models share.

    Args:
        blocks (Dict[str, Block]): The blocks by name; more may be added.
        targets (Targets): The targets.
        max_size (int): The largest matrix that is factorized. With more items *and* more columns,
            wide blocks are replaced by :class:`Inducing` ones.
        rank (int, optional): How wide a block then may be. (default: :obj:`None`, what the blocks
            leave each other)
        product_rank (int, optional): How wide one of products may be. (default: :obj:`None`, as
            wide as the others)
        seed (int): Seeds the choice of inducing rows.
    """

    def __init__(
        self,
        blocks: Mapping[str, Block],
        targets: Targets,
        max_size: int,
        rank: int | None = None,
        product_rank: int | None = None,
        seed: int = 0,
    ) -> None:
        self.blocks, self.targets, self.max_size = dict(blocks), targets, max_size
        self.seed = seed
        self.num_items, self.num_targets = targets.shape
        # The fewer entries are not zero, the less there is to be known of an entry.
        self.tolerance = TOLERANCE * min(1.0, 100 * targets.density())
        self.rank = fill([b.width for b in blocks.values()], max_size) if rank is None else rank
        self.product_rank = self.rank if product_rank is None else product_rank
        self.inducing: dict[str, Inducing] = {}
        self.left_out: dict[str, float] = {}
        self._columns: dict[str, Tensor] = {'': torch.ones(self.num_items, 1, dtype=torch.float64)}
        self._cross: dict[str, Tensor] = {}
        self._grams: dict[tuple[str, str], Tensor] = {}
        self._kernels: dict[str, Tensor] = {}
        self._dual_targets: Tensor | None = None

    def width(self, name: str) -> int:
        r"""Returns the number of columns that a block has in the primal form."""
        block = self.blocks[name]
        if self.num_items <= self.max_size:
            return block.width
        return min(block.width, self.rank if block.right is None else self.product_rank)

    def fit(self, names: Sequence[str], start: Mapping[str, float] | None = None) -> 'Solution':
        r"""Maximizes the evidence of the model of some blocks and the constant.

        Args:
            names (Sequence[str]): The blocks.
            start (Dict[str, float], optional): Log amplitudes to start from, that of the constant
                under ``''``. (default: :obj:`None`)
        """
        objective = self.objective(names)
        default = {'': CONSTANT, **(start or {})}
        first = [default.get(name, AMPLITUDE) for name in (*names, '')]
        first_theta = torch.tensor(first, dtype=torch.float64)
        theta = maximize(objective, first_theta, self.tolerance)
        return Solution(self, tuple(names), objective, theta)

    def objective(self, names: Sequence[str]) -> Primal | Dual:
        r"""Returns the negative evidence of the model of some blocks and the constant, in the form
        that costs less.
        """
        is_dual = self.num_items <= self.max_size
        is_dual = is_dual and sum(map(self.width, names)) + 1 > self.num_items
        return self.dual(names) if is_dual else self.primal(names)

    def primal(self, names: Sequence[str]) -> Primal:
        r"""Returns the primal form of the model of some blocks and the constant."""
        names = [*names, '']
        gram = torch.cat(
            [torch.cat([self._gram(a, b) for b in names], dim=1) for a in names], dim=0
        )
        cross = torch.cat([self.cross(name) for name in names])
        square = float(self.targets.square().sum()) / self.num_targets
        widths = [self.columns(name).size(1) for name in names]
        return Primal(gram, cross, square, self.num_items, widths)

    def dual(self, names: Sequence[str]) -> Dual:
        r"""Returns the dual form of the model of some blocks and the constant."""
        is_gram = self.num_targets > self.num_items
        if self._dual_targets is None:
            if is_gram:
                self._dual_targets = self.targets.gram()
            else:
                self._dual_targets = self.targets.to_dense() / math.sqrt(self.num_targets)
        for name in names:
            if name not in self._kernels:
                block = self.blocks[name]
                self._kernels[name] = block.kernel(block)
        return Dual([self._kernels[name] for name in names], self._dual_targets, is_gram)

    def columns(self, name: str) -> Tensor:
        r"""Returns the columns of a block in the primal form, ``[n, D]``."""
        if name not in self._columns:
            block = self.blocks[name]
            width = self.width(name)
            if width < block.width:
                self.inducing[name] = Inducing(block, width, self.seed)
                out = self.inducing[name](block)
                self.left_out[name] = max(0.0, 1 - float(out.square().sum()) / block.square())
            else:
                out = block.columns()
            self._columns[name] = out
        return self._columns[name]

    def new_columns(self, name: str, block: Block) -> Tensor:
        r"""Returns the columns of new rows of a block, as those of :meth:`columns`."""
        return self.inducing[name](block) if name in self.inducing else block.columns()

    def cross(self, name: str) -> Tensor:
        r"""Returns :math:`X^{\top} Y / \sqrt{t}` of a block."""
        if name not in self._cross:
            scale = math.sqrt(self.num_targets)
            self._cross[name] = self.targets.cross(self.columns(name)) / scale
        return self._cross[name]

    def _gram(self, a: str, b: str) -> Tensor:
        if (b, a) in self._grams:
            return self._grams[b, a].t()
        if (a, b) not in self._grams:
            self._grams[a, b] = self.columns(a).t() @ self.columns(b)
        return self._grams[a, b]

    def forget(self, names: Iterable[str]) -> None:
        r"""Forgets blocks that no further model needs, and all that was computed of them."""
        gone = set(names)
        for table in (self.blocks, self._columns, self._cross, self._kernels, self.inducing):
            for name in gone & table.keys():
                del table[name]
        for pair in [pair for pair in self._grams if gone & set(pair)]:
            del self._grams[pair]


class Solution:
    r"""The model of largest evidence, of some blocks of a design.

    Args:
        design (Design): The design.
        names (Tuple[str, ...]): The blocks.
        objective (Primal or Dual): The negative evidence.
        theta (torch.Tensor): The log amplitudes of the blocks and of the constant.
    """

    def __init__(
        self, design: Design, names: tuple[str, ...], objective: Primal | Dual, theta: Tensor
    ) -> None:
        self.design, self.names, self.objective = design, names, objective
        self.state = objective.state(theta)
        self.amplitudes = theta.exp()
        self.theta = dict(zip((*names, ''), theta.tolist()))
        self.noise = self.state.quadratic / design.num_items
        self.nats = _nats(self.state.quadratic, self.state.log_det, design.num_items)

    def leave_one_out(self) -> Tensor:
        r"""Returns the evidence without each item in turn, ``[n]``, with the amplitudes as they
        are: the largest evidence depends on them in second order only.
        """
        state, n = self.state, self.design.num_items
        if isinstance(state, DualState):
            precision, residual = state.inverse.diagonal(), state.outer.diagonal()
        else:
            x = self._columns() * state.scale
            solved = x @ state.inverse
            precision = 1 - (x * solved).sum(dim=1)
            # The squared residuals |y - B'x|^2, without a matrix of all targets.
            weights = self._weights(state)
            targets = self.design.targets
            residual = targets.square() - 2 * (x * targets.times(weights.t())).sum(dim=1)
            residual = residual + ((x @ (weights @ weights.t())) * x).sum(dim=1)
            residual = residual / self.design.num_targets
        quadratic = (state.quadratic - residual / precision).clamp(min=1e-300)
        return -0.5 * (quadratic / (n - 1)).log() - 0.5 * (state.log_det + precision.log()) / (
            n - 1
        )

    def codes(self, blocks: Mapping[str, Block], num_rows: int) -> Tensor:
        r"""Returns of new rows what the posterior mean is linear in: the scaled columns of the
        primal form, ``[m, D]``, or the covariances with the items of the dual one, ``[m, n]``.
        """
        if isinstance(self.state, PrimalState):
            ones = torch.ones(num_rows, 1, dtype=torch.float64)
            columns = [self.design.new_columns(name, blocks[name]) for name in self.names]
            return torch.cat([*columns, ones], dim=1) * self.state.scale
        out = torch.full((num_rows, self.design.num_items), float(self.amplitudes[-1])).double()
        for name, amplitude in zip(self.names, self.amplitudes.tolist()):
            out += amplitude * blocks[name].kernel(self.design.blocks[name])
        return out

    def mean(self, codes: Tensor) -> Tensor:
        r"""Returns the posterior mean of the targets of new rows, ``[m, t]``."""
        if isinstance(self.state, PrimalState):
            return codes @ self._weights(self.state)
        return self.design.targets.cross((codes @ self.state.inverse).t())

    def residual(self) -> Tensor:
        r"""Returns the targets less the posterior mean of their own items, ``[n, t]``."""
        if isinstance(self.state, DualState):
            return self.state.inverse @ self.design.targets.to_dense()
        mean = (self._columns() * self.state.scale) @ self._weights(self.state)
        return self.design.targets.to_dense() - mean

    def coefficients(self) -> Tensor:
        r"""Returns what the codes are multiplied by, ``[D, t]`` or ``[n, t]``."""
        if isinstance(self.state, PrimalState):
            return self._weights(self.state)
        return self.design.targets.cross(self.state.inverse)

    def variance(self, codes: Tensor, blocks: Mapping[str, Block]) -> Tensor:
        r"""Returns the posterior variance of each target of new rows, ``[m]``."""
        explained = ((codes @ self.state.inverse) * codes).sum(dim=1)
        if isinstance(self.state, PrimalState):
            return self.noise * explained
        prior = self.amplitudes[-1].repeat(codes.size(0))
        for name, amplitude in zip(self.names, self.amplitudes):
            block = blocks[name]
            square = block.left.square().sum(dim=1)
            if block.right is not None:
                square = square * block.right.square().sum(dim=1)
            prior = prior + amplitude * square
        return self.noise * (prior - explained).clamp(min=0)

    def _columns(self) -> Tensor:
        return torch.cat([self.design.columns(name) for name in (*self.names, '')], dim=1)

    def _weights(self, state: PrimalState) -> Tensor:
        # Of the scaled columns, [D, t].
        cross = torch.cat([self.design.cross(name) for name in (*self.names, '')])
        scale = math.sqrt(self.design.num_targets)
        return state.inverse @ (state.scale.unsqueeze(1) * cross) * scale


def fill(widths: Iterable[int], max_size: int) -> int:
    r"""Returns the largest rank at which blocks of these widths, each cut to it, and the constant
    make no more than :obj:`max_size` columns; at least one.
    """
    room, left = max_size - 1, sorted(widths)
    while left and left[0] * len(left) <= room:
        room -= left.pop(0)
    return max(1, room // len(left)) if left else max_size


def _nats(quadratic: float, log_det: float, num_items: int) -> float:
    # The constant term is left out: differences are what has a meaning.
    return -0.5 * math.log(quadratic / num_items) - 0.5 * log_det / num_items
