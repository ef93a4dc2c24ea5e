import pytest
import torch

from mrdib_pyg.pid import decompose


def table(*outcomes):
    """The uniform distribution over (x1, x2, y)."""
    sizes = [max(column) + 1 for column in zip(*outcomes)]
    out = torch.zeros(sizes, dtype=torch.double)
    for outcome in outcomes:
        out[outcome] += 1 / len(outcomes)
    return out


BITS = [(a, b) for a in range(2) for b in range(2)]
TABLES = {
    'and': table(*[(a, b, a & b) for a, b in BITS]),
    'or': table(*[(a, b, a | b) for a, b in BITS]),
    'xor': table(*[(a, b, a ^ b) for a, b in BITS]),
    'unq': table(*[(a, b, a) for a, b in BITS]),
    'rdn': table((0, 0, 0), (1, 1, 1)),
    'copy': table(*[(a, b, 2 * a + b) for a, b in BITS]),
    'sum': table(*[(a, b, a + b) for a, b in BITS]),
    'rdn+xor': table(*[(2 * c + a, 2 * c + b, 2 * c + (a ^ b)) for a, b in BITS for c in range(2)]),
}
BROJA = {
    'and': (0.311278124459, 0, 0, 0.5),
    'or': (0.311278124459, 0, 0, 0.5),
    'xor': (0, 0, 0, 1),
    'unq': (0, 1, 0, 0),
    'rdn': (1, 0, 0, 0),
    'copy': (0, 1, 1, 0),
    'sum': (0.5, 0, 0, 1),
    'rdn+xor': (1, 0, 0, 1),
}


@pytest.mark.parametrize('name', BROJA)
def test_known_values(name):
    pid = decompose(TABLES[name], base='bits')
    assert (pid.redundant, *pid.unique, pid.synergistic) == pytest.approx(BROJA[name], abs=1e-6)
