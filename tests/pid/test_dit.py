"""Agreement with dit, which solves the same programs by other means."""

import pytest
import torch
from joint_tables import GATES, nearly_deterministic, with_errors

from mrdib_pyg.pid import decompose

dit = pytest.importorskip('dit', reason='comes with the extra [test] on Python 3.11 and 3.12')
ATOMS = [((0,), (1,)), ((0,),), ((1,),), ((0, 1),)]


def distribution(p):
    outcomes = [tuple(outcome) for outcome in p.nonzero().tolist()]
    return dit.Distribution([tuple(map(str, o)) for o in outcomes], [float(p[o]) for o in outcomes])


def random_table(sizes):
    p = torch.rand(sizes, dtype=torch.double) ** 4
    p[0, 0] = 0
    return p / p.sum()


@pytest.mark.parametrize('measure,name', [('imin', 'PID_WB'), ('mmi', 'PID_MMI')])
@pytest.mark.parametrize('sizes', [(2, 2, 2), (3, 4, 2), (4, 3, 5)])
def test_random_tables(measure, name, sizes):
    p = random_table(sizes)
    theirs = getattr(dit.pid, name)(distribution(p), ((0,), (1,)), (2,))
    ours = decompose(p, measure, base='bits')
    ours = [ours.redundant, *ours.unique, ours.synergistic]
    assert ours == pytest.approx([theirs.get_pi(atom) for atom in ATOMS], abs=1e-8)


# Its other two solvers of BROJA are off by up to 1e-2 bits on such tables, this one by 1e-8.
def broja_of_dit(p):
    pytest.importorskip('ecos', reason='comes with the extra [test] on Python 3.11 and 3.12')
    from dit.algorithms.broja_method import broja_solve_bivariate

    unique, _ = broja_solve_bivariate(distribution(p), ((0,), (1,)), (2,), method='cone')
    return [float(unique[0,]), float(unique[1,])]


@pytest.mark.parametrize('sizes', [(2, 2, 2), (3, 2, 3), (3, 3, 2), (5, 6, 4), (8, 8, 2)])
def test_random_tables_under_broja(sizes):
    p = random_table(sizes)
    assert decompose(p, base='bits').unique == pytest.approx(broja_of_dit(p), abs=1e-6)


@pytest.mark.parametrize('name', GATES)
def test_gates_under_broja(name):
    p = GATES[name]
    assert decompose(p, base='bits').unique == pytest.approx(broja_of_dit(p), abs=1e-6)


@pytest.mark.parametrize('error', [1e-3, 1e-5])
def test_nearly_deterministic_tables_under_broja(error):
    for name in ('and', 'copy', 'unq', 'rdn+xor'):
        p = with_errors(GATES[name], error)
        assert decompose(p, base='bits').unique == pytest.approx(broja_of_dit(p), abs=1e-5)
    for p in nearly_deterministic(3, 3, 3, error, num=4):
        assert decompose(p, base='bits').unique == pytest.approx(broja_of_dit(p), abs=1e-5)
