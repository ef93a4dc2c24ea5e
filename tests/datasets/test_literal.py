import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrdib_pyg.datasets.amazon import DEPTH, parse_literal

TEXT = st.text(st.characters(exclude_categories=['Cs']))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(TEXT | st.integers(), inner),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_what_python_prints(value):
    assert parse_literal(repr(value)) == value


@settings(deadline=None, max_examples=30)
@given(VALUES)
def test_what_json_prints(value):
    text = json.dumps(value)
    assert parse_literal(text) == json.loads(text)


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ("(1, 'a')", (1, 'a')),
        ('[1, 2,]', [1, 2]),
        ('  {  }  ', {}),
        ("u'caf\\xe9'", 'café'),
        ("'it\\'s \\\\ \"x\"\\n'", 'it\'s \\ "x"\n'),
        (r"'\d\/'", r'\d\/'),
        (r'"\/"', '/'),
        (r"'\101\0'", 'A\0'),
        (r'"\ud83d\ude00"', '\U0001f600'),
        ('{"a": [true, null, NaN]}'.replace('NaN', '1'), {'a': [True, None, 1]}),
        ("{'a': [true, null, nan]}", {'a': [True, None, None]}),
        ("'true L null'", 'true L null'),
        ('123L', 123),
        ('-.5e3', -500.0),
        ('1e999', math.inf),
    ],
)
def test_value(text, value):
    assert parse_literal(text) == value


@pytest.mark.parametrize(
    'text',
    [
        '', ' ', '{', '[1', "{'a': }", "{'a' 1}", "{'a': 1", "{[1]: 2}", "'a", "'a\\'",
        "'a\n'", '[1 2]', '[,]', 'x', '__import__("os")', 'open("x")', "b'a'", r"'\UFFFFFFFF'",
        '1 2', '1+1', '--1', '{1: 2}}', 'lambda: 0', "f'{1}'", '(' * 50, '[' * 10**6, '{0:' * 10**5,
        '9' * 5000, '-' * 10**6, 'a' * 10**6, "'" + '\\' * 10**6, '"' * (10**6 + 1),
    ],
)  # fmt: skip
def test_refused(text):
    begin = time.process_time()
    with pytest.raises(ValueError):
        parse_literal(text)
    assert time.process_time() - begin < 5  # it took minutes if it were not linear


def test_depth():
    assert parse_literal("['a', " * DEPTH + ']' * DEPTH) is not None
    with pytest.raises(ValueError, match=f'more than {DEPTH}'):
        parse_literal("['a', " * (DEPTH + 1) + ']' * (DEPTH + 1))
