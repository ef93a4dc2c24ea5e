import math
import sys

import pytest
import torch
from joint_tables import GATES, normalized, random_tables

from mrdib_pyg.pid._decompose import atoms
from mrdib_pyg.pid.broja import broja


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
        assert float(out.gap.max()) < 1e-6, name
        assert float(out.joint.min()) >= 0
        torch.testing.assert_close(out.joint.sum(2), tables.sum(2), rtol=0, atol=1e-13)
        torch.testing.assert_close(out.joint.sum(1), tables.sum(1), rtol=0, atol=1e-13)
        assert float(out.information[0]) == pytest.approx(value(out.joint[0]), abs=1e-11)


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
