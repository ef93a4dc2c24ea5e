from collections.abc import Mapping, Sequence
from typing import Optional

import pytest

from mrdib_pyg.nn.models.recommender import check_values


class Model:
    def __init__(
        self,
        data,
        layers: int = 2,
        ratio: float | None = 0.1,
        name: Optional[str] = None,  # noqa: UP045
        sizes: Sequence[int] | str = (),
        weights: Mapping[str, float] | None = None,
        flag=False,
        anything=3,
        quoted: 'NotDefined' = None,  # noqa: F821
        quoted_flag: 'bool' = True,
        implicit: int = None,
    ):
        pass


GOOD = {
    'layers': [1], 'ratio': [1, 0.5, None], 'name': ['a', None], 'sizes': [[1], (1, 2), 'all'],
    'weights': [{'a': 1.0}, None], 'flag': [True], 'anything': ['x', None, 1, []],
    'quoted': [1, 'x'], 'quoted_flag': [False], 'implicit': [1, None],
}  # fmt: skip


def test_values_that_fit():
    for name, values in GOOD.items():
        for value in values:
            check_values(Model, {name: value})


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('layers', 2.0, r"'layers' must be an integer \(got 2.0\)"),
        ('layers', True, "'layers' must be an integer"),
        ('layers', None, "'layers' must be an integer"),
        ('ratio', False, "'ratio' must be a number or none"),
        ('ratio', '0.5', "'ratio' must be a number or none"),
        ('name', 1, "'name' must be a word or none"),
        ('sizes', 1, "'sizes' must be a list or a word"),
        ('flag', 'no', r"'flag' must be true or false \(got 'no'\)"),
        ('flag', 1, "'flag' must be true or false"),
        ('quoted_flag', 'no', "'quoted_flag' must be true or false"),
        ('implicit', 'a', "'implicit' must be an integer"),
    ],
)
def test_values_that_do_not(name, value, message):
    with pytest.raises(ValueError, match=f'the setting {message}'):
        check_values(Model, {name: value})
