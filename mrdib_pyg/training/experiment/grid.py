"""The settings that are tried: a value is fixed, a list is searched."""

import math
import random
from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]
Axes = dict[Path, list[Any]]
Row = dict[Path, Any]


def axes(table: Mapping[str, Any], where: str, prefix: Path = ()) -> Axes:
    r"""Returns the values of each setting of a table, by its path within the table.

    Args:
        table (Dict[str, Any]): A value is fixed, a list is searched; tables may be nested.
        where (str): What to call the table in errors.
        prefix (Tuple[str, ...], optional): The path of the table. (default: :obj:`()`)

    Raises:
        ValueError: If a list is empty or names a value twice.
    """
    out: Axes = {}
    for name, value in table.items():
        path = (*prefix, name)
        if isinstance(value, Mapping):
            out |= axes(value, where, path)
            continue
        values = value if isinstance(value, list) else [value]
        if len(values) == 0:
            raise ValueError(f"{where}: '{'.'.join(path)}' lists no value; name one, or leave it")
        if any(x in values[:i] for i, x in enumerate(values)):
            raise ValueError(f"{where}: '{'.'.join(path)}' lists a value twice; leave one out")
        out[path] = values
    return out


def size(grid: Axes) -> int:
    r"""Returns the number of points of a grid."""
    return math.prod(len(values) for values in grid.values())


def nest(row: Row) -> dict[str, Any]:
    r"""Returns a point of a grid as nested dictionaries."""
    out: dict[str, Any] = {}
    for path, value in row.items():
        inner = out
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    return out


def draw(base: Axes, own: Axes, n: int, seed: str, own_seed: str) -> list[tuple[Row, Row]]:
    r"""Draws ``n`` different points of the product of two grids, balanced: every value of a
    setting comes up as often as any other, up to one, where the grid allows it.

    The points of ``base`` depend on ``seed`` alone: the variants of a model, which have their own
    grids, share them trial by trial. A product of exactly ``n`` points is listed in full.

    Args:
        base (Dict[Tuple[str, ...], List]): The grid of the model.
        own (Dict[Tuple[str, ...], List]): The grid of the variant.
        n (int): The number of points.
        seed (str): Seeds the draw of ``base``.
        own_seed (str): Seeds the draw of ``own``.

    Raises:
        ValueError: If the product has fewer points.
    """
    if size(base) * size(own) < n:
        raise ValueError(f'{size(base) * size(own)} settings, fewer than {n}')
    points = _distinct(base, min(n, size(base)), random.Random(seed))
    points = [points[i % len(points)] for i in range(n)]
    rng = random.Random(own_seed)
    if size(base) < n:  # a point of `base` comes up several times: with other points of `own`
        needed = [len(range(i, n, size(base))) for i in range(min(n, size(base)))]
        per_point = [_distinct(own, count, rng) for count in needed]
        own_points = [per_point[i % len(per_point)][i // len(per_point)] for i in range(n)]
    else:
        own_points = _balanced(own, n, rng)
    return list(zip(points, own_points))


def _distinct(grid: Axes, n: int, rng: random.Random) -> list[Row]:
    total = size(grid)
    if n == total:
        return [_point(grid, i) for i in range(total)]
    for _ in range(1000):
        rows = _balanced(grid, n, rng)
        if all(row not in rows[:i] for i, row in enumerate(rows)):
            return rows
    return [_point(grid, i) for i in sorted(rng.sample(range(total), n))]


def _balanced(grid: Axes, n: int, rng: random.Random) -> list[Row]:
    columns = []
    for values in grid.values():
        column: list[Any] = []
        while len(column) < n:
            column += rng.sample(values, len(values))
        column = column[:n]
        rng.shuffle(column)
        columns.append(column)
    return [dict(zip(grid, [column[i] for column in columns])) for i in range(n)]


def _point(grid: Axes, index: int) -> Row:
    out: Row = {}
    for path, values in reversed(grid.items()):
        index, i = divmod(index, len(values))
        out[path] = values[i]
    return {path: out[path] for path in grid}
