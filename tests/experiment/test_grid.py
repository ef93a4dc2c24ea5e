from collections import Counter

import pytest

from mrdib_pyg.experiment.description import axes, draw, nest, size

BASE = {('lr',): [1, 2, 3], ('fit', 'reg'): [10, 20, 30, 40]}
OWN = {('w',): ['a', 'b', 'c'], ('v',): [0]}


def test_axes_and_nest():
    grid = axes({'lr': [1, 2], 'deep': {'a': 'x', 'b': [[1], [2]]}}, 'here')
    assert grid == {('lr',): [1, 2], ('deep', 'a'): ['x'], ('deep', 'b'): [[1], [2]]}
    assert size(grid) == 4 and size({}) == 1
    assert nest({('lr',): 2, ('deep', 'a'): 'x', ('deep', 'b'): [1]}) == {
        'lr': 2, 'deep': {'a': 'x', 'b': [1]},
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"here: 'deep\.a' lists no value"):
        axes({'deep': {'a': []}}, 'here')
    with pytest.raises(ValueError, match="'lr' lists a value twice"):
        axes({'lr': [1, 2, 1]}, 'here')


def test_full_grid_is_listed():
    rows = [base for base, _ in draw(BASE, OWN, 12, 's', 't')]
    expected = [(lr, reg) for lr in (1, 2, 3) for reg in (10, 20, 30, 40)]
    assert [tuple(row.values()) for row in rows] == expected


@pytest.mark.parametrize('n', [1, 5, 7, 11])
def test_draw_is_distinct_and_balanced(n):
    rows = draw(BASE, OWN, n, 's', 't')
    assert len({str(base) for base, _ in rows}) == n
    for i, grid in ((0, BASE), (1, OWN)):
        for path, values in grid.items():
            counts = Counter(row[i][path] for row in rows)
            assert all(counts[x] in (n // len(values), -(-n // len(values))) for x in values)


def test_draw_is_fixed_and_shared_by_variants():
    first = draw(BASE, OWN, 7, 's', 't')
    assert draw(BASE, OWN, 7, 's', 't') == first
    other = draw(BASE, {('x',): [1, 2]}, 7, 's', 'u')
    assert [base for base, _ in other] == [base for base, _ in first]
    assert draw(BASE, OWN, 7, 'z', 't') != first
    # Whatever the Python, or finished runs would not be found again.
    assert [tuple(base.values()) for base, _ in first] == PINNED


PINNED = [(2, 40), (1, 30), (2, 20), (2, 30), (1, 10), (3, 20), (3, 10)]


@pytest.mark.parametrize('n', [4, 6, 7, 9])
def test_small_grid_of_the_model(n):
    """Where the model has too few settings, those of the variant make the difference."""
    small = {('lr',): [1, 2, 3]}
    rows = draw(small, {('w',): ['a', 'b', 'c']}, n, 's', 't')
    assert len({str(row) for row in rows}) == n
    assert [base[('lr',)] for base, _ in rows] == ([1, 2, 3] * 3)[:n]


def test_too_small():
    with pytest.raises(ValueError, match='9 settings, fewer than 10'):
        draw({('lr',): [1, 2, 3]}, {('w',): ['a', 'b', 'c']}, 10, 's', 't')


def test_nearly_full_grid():
    """Balance cannot be had here; difference can."""
    rows = draw({('a',): list(range(5)), ('b',): [0, 1, 2]}, {}, 14, 's', 't')
    assert len({str(base) for base, _ in rows}) == 14
