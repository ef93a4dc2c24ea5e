import pytest

from mrdib_pyg.commands.arguments import Usage, pairs, value


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('', {}),
        ('k=10, slot=graph,', {'k': 10, 'slot': 'graph'}),
        ('a=1e-3,b=none,c=False,d=no', {'a': 1e-3, 'b': None, 'c': False, 'd': 'no'}),
        ('k=10,w={"image": 0.1, "text": 0.9},n=2', {'k': 10, 'w': {'image': 0.1, 'text': 0.9},
                                                    'n': 2}),
        ('widths=[3, [4, 5]],k=1', {'widths': [3, [4, 5]], 'k': 1}),
    ],
)  # fmt: skip
def test_pairs(text, expected):
    assert pairs('--set', text, value) == expected


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('k', r"name=value pairs .*\(got 'k'\)"),
        ('k=1,k=2', "names 'k' twice"),
        ("w={'image': 0.1}", 'is no JSON'),
        ('w={"image": 0.1', 'is no JSON'),
    ],
)
def test_pairs_refused(text, message):
    with pytest.raises(Usage, match=message):
        pairs('--set', text, value)
