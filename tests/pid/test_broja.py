import math
import sys

import pytest
import torch
from joint_tables import GATES, nearly_deterministic, normalized, random_tables, with_errors

from mrdib_pyg.pid import decompose
from mrdib_pyg.pid._decompose import atoms, information
from mrdib_pyg.pid.broja import _NewtonSystem, _Program, broja


def value(q):
    """The information about the last dimension in nats, from its definition."""
    terms = []
    for x1, x2, y in q.nonzero().tolist():
        terms.append(q[x1, x2, y] * (q[x1, x2, y] / (q[x1, x2].sum() * q[:, :, y].sum())).log())
    return float(sum(terms))


def polytope(p):
    """A point of the joint distributions with the marginals of p, and the directions in it."""
    n1, n2, ny = p.shape
    start = torch.einsum('ay,by->aby', p.sum(1), p.sum(0)) / p.sum((0, 1))
    moves = []
    for y in range(ny):
        for i in range(n1 - 1):
            for j in range(n2 - 1):
                move = torch.zeros_like(p)
                move[i, j, y] = move[i + 1, j + 1, y] = 1
                move[i, j + 1, y] = move[i + 1, j, y] = -1
                moves.append(move)
    return start, torch.stack(moves)


@pytest.mark.parametrize('sizes', [(12, 12, 2), (10, 10, 10), (2, 2, 2), (3, 7, 4)])
def test_gap_and_marginals(sizes):
    for name, tables in random_tables(*sizes).items():
        out = broja(tables)
        assert out.gap.shape == (len(tables),)
        assert float(out.gap.max()) < 1e-8, name
        assert float(out.joint.min()) >= 0
        torch.testing.assert_close(out.joint.sum(2), tables.sum(2), rtol=0, atol=1e-13)
        torch.testing.assert_close(out.joint.sum(1), tables.sum(1), rtol=0, atol=1e-13)
        assert float(out.information[0]) == pytest.approx(value(out.joint[0]), abs=1e-11)


@pytest.mark.parametrize('sizes', [(2, 2, 2), (2, 2, 4), (3, 3, 3), (4, 3, 5), (3, 4, 12)])
@pytest.mark.parametrize('error', [1e-3, 1e-5, 1e-7, 1e-9, 1e-12])
def test_nearly_deterministic_tables(sizes, error):
    for seed in range(3):
        torch.manual_seed(seed)
        out = broja(nearly_deterministic(*sizes, error))
        assert float(out.gap.max()) < 1e-8


@pytest.mark.parametrize('error', [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12])
def test_gates_with_errors_against_closed_forms(error):
    for name in ('and', 'or', 'xor', 'sum', 'rdn'):  # symmetric: nothing is unique
        p = with_errors(GATES[name], error)[None]
        out, expected = broja(p), float(information(p.sum(dim=2)))
        assert float(out.gap) < 1e-8
        assert float(out.information) == pytest.approx(expected, abs=1e-8)
    # The second source says nothing, so everything is unique to the first.
    p = with_errors(GATES['unq'], error)[None]
    out, expected = broja(p), float(information(p.sum(dim=2)))
    assert float(out.gap) < 1e-8 and float(out.information) == pytest.approx(expected, abs=1e-8)


def test_a_table_that_is_not_solved_is_tried_again_with_shorter_steps(monkeypatch):
    p = random_tables(4, 4, 3, num=2)['dense']
    tried = []

    class Hasty(_Program):
        def __init__(self, p, trust):
            super().__init__(p, trust)
            tried.append((len(p), trust))

        def step(self):
            if self.trust == 1.0:
                self.mass = self.mass * 0.5
            else:
                super().step()

    monkeypatch.setattr('mrdib_pyg.pid.broja._Program', Hasty)
    assert float(broja(p).gap.max()) < 1e-8
    assert tried == [(2, 1.0), (2, 0.5)]


def copy_gate(n):
    """The target is the pair of both sources: only one outcome is possible for each pair."""
    p = torch.zeros(n, n, n * n, dtype=torch.double)
    a = torch.arange(n)
    p[a[:, None], a, a[:, None] * n + a] = 1 / n**2
    return p


def test_outcomes_without_mass_are_no_unknowns():
    n = 6
    program = _Program(copy_gate(n)[None])
    assert program.cond.shape == (1, n, n, n) and program.lam.shape == (1, n, n)
    assert program.mu.shape == (1, n * n + 1)
    assert int(program.mask.sum()) == n * n
    system = _NewtonSystem(program.support, program.mass, program.slack, program.cond)
    assert system.factor1.shape == (1, n, n, n)
    assert system.factor2.shape == (1, n * n + 1, n * n + 1)


def test_many_symbols():
    # All outcomes for all pairs of symbols would be products of 24**2 * 576**2 numbers, 1.5 GB.
    pid = decompose(copy_gate(24), base='bits')
    assert pid.unique == pytest.approx((math.log2(24), math.log2(24)), abs=1e-6)
    assert pid.redundant < 1e-6 and pid.synergistic < 1e-6


def test_tables_of_different_support_are_solved_together():
    copy = copy_gate(3)
    full = normalized(torch.rand(1, 3, 3, 9, dtype=torch.double))[0]
    some = torch.where(torch.rand(3, 3, 9) < 0.3, full, 0.0)
    some[0, 0, 0] = 0.1
    some = some / some.sum()
    together = broja(torch.stack([copy, full, some]))
    assert float(together.gap.max()) < 1e-8
    for i, p in enumerate((copy, full, some)):
        alone = float(broja(p[None]).information)
        assert alone == pytest.approx(float(together.information[i]), abs=2e-8)
        assert float((together.joint[i].sum(1) - p.sum(1)).abs().max()) < 1e-13


@pytest.mark.parametrize('ny', [2, 3])
def test_against_a_grid(ny):
    # Two by two sources leave one number free for each y: a grid, refined around its best point.
    p = normalized(torch.rand(1, 2, 2, ny, dtype=torch.double) ** 2)[0]
    start, moves = polytope(p)
    low, high = [], []
    for move in moves:
        low.append(-start[move > 0].min())
        high.append(start[move < 0].min())
    low, high = torch.stack(low), torch.stack(high)
    best, width = (low + high) / 2, (high - low) / 2
    for _ in range(40):
        steps = torch.linspace(-1, 1, 11, dtype=torch.double)
        offsets = torch.cartesian_prod(*[steps] * ny) * width
        points = torch.minimum(torch.maximum(best + offsets, low), high)
        q = start + torch.einsum('kf,fabc->kabc', points, moves)
        q = q.clamp(min=0)
        ratio = q / (q.sum(3, keepdim=True) * q.sum((1, 2), keepdim=True))
        information = torch.xlogy(q, torch.where(q > 0, ratio, 1.0)).sum((1, 2, 3))
        best, width = points[information.argmin()], width * 0.6
    assert float(broja(p[None]).information) == pytest.approx(float(information.min()), abs=1e-7)


@pytest.mark.parametrize('sizes', [(3, 3, 2), (3, 2, 3), (4, 3, 2)])
def test_against_a_general_solver(sizes):
    optimize = pytest.importorskip('scipy.optimize')
    for seed in range(3):
        torch.manual_seed(seed)
        p = normalized(torch.rand(1, *sizes, dtype=torch.double) ** 3)[0]
        start, moves = polytope(p)
        start, matrix = start.flatten().numpy(), moves.flatten(1).t().numpy()

        def objective(x, start=start, matrix=matrix, p=p):
            q = torch.from_numpy(start + matrix @ x).view_as(p).clamp(min=0)
            log = torch.where(q > 0, q, 1.0).log() - torch.where(q > 0, q.sum(2, True), 1.0).log()
            return float((q * log).sum()), matrix.T @ log.flatten().numpy()

        out = optimize.minimize(
            objective, [0.0] * len(moves), jac=True, method='SLSQP',
            constraints=optimize.LinearConstraint(matrix, 1e-10 - start, float('inf')),
            options={'ftol': 1e-13, 'maxiter': 500},
        )  # fmt: skip
        py = p.sum((0, 1))
        expected = out.fun - float((py * py.log()).sum())
        information = float(broja(p[None]).information)
        assert information == pytest.approx(expected, abs=1e-5)
        assert information < expected + 1e-8  # where the two differ, ours is the smaller one


def test_a_step_in_any_direction_is_no_better():
    p = random_tables(12, 12, 2, num=1)['dense'][0]
    out = broja(p[None])
    _, moves = polytope(p)
    for move in moves[torch.randperm(len(moves))[:12]]:
        for sign in (1, -1):
            room = (out.joint[0][sign * move < 0]).min()
            q = out.joint[0] + sign * 0.5 * room * move
            assert value(q) > float(out.information) - 1e-8


def test_tables_do_not_depend_on_their_batch():
    tables = torch.cat(list(random_tables(5, 4, 3, num=2).values()))
    together = broja(tables)
    for i in range(0, len(tables), 5):
        alone = broja(tables[i : i + 1])
        torch.testing.assert_close(alone.information[0], together.information[i], rtol=0, atol=2e-8)


def test_gap_is_honest(monkeypatch):
    # Stopped early, the true value still lies within the gap, and the user is told.
    module = sys.modules['mrdib_pyg.pid.broja']
    p = random_tables(4, 4, 3, num=2)['dense']
    exact = broja(p)
    for steps in (0, 2, 4):
        monkeypatch.setattr(module, 'MAX_STEPS', steps)
        out = broja(p)
        assert float(out.gap.min()) > 1e-6
        assert bool((out.information >= exact.information - 1e-8).all())
        assert bool((out.information - out.gap <= exact.information).all())
        with pytest.warns(UserWarning, match='2 of 2 tables stopped at a duality gap of up to'):
            atoms(p)


def test_one_symbol():
    for sizes in [(1, 1, 1), (1, 4, 3), (4, 1, 3), (4, 3, 1), (1, 1, 5)]:
        p = normalized(torch.rand(1, *sizes, dtype=torch.double))
        out = broja(p)
        assert float(out.gap) < 1e-8
        assert float(out.information) == pytest.approx(value(p[0]), abs=1e-8)
    assert math.isclose(float(broja(GATES['rdn'][None]).information), math.log(2), abs_tol=1e-8)
