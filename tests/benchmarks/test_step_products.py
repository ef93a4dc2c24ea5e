import sys

import torch
from torch import nn

from benchmarks.training.step_products import (
    BETWEEN,
    DENSE_PRODUCTS,
    NORMALS,
    OPTIMIZER,
    ROWS,
    Arithmetic,
    StepProducts,
    added_operators,
    measure_operators,
)
from mrdib_pyg.nn import MRdIB
from mrdib_pyg.ops import NormalizedAdjacency, propagate
from mrdib_pyg.ops._contrastive_loss import contrastive_loss
from mrdib_pyg.ops.rows import linear_rows


def test_a_step_is_seen_forward_and_backward():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x = torch.randn(7, 5)

    def step():
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    alone = StepProducts(step)
    # Each layer forward and the gradient of its weight; that of its input in the second alone.
    assert alone.flops == 2 * 7 * (2 * 5 * 4 + 3 * 4 * 3)
    assert list(alone.calls()) == ['dense products', 'Adam']

    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    for call in alone.calls().values():
        call()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters()))
    # The last product is the gradient of the first weight, which its own factors give.
    a, b, out = alone._dense[-1]
    torch.testing.assert_close(out, a @ b)
    torch.testing.assert_close(out, grads[0])


def test_operators_of_this_package_are_seen():
    x = torch.randn(6, 4)
    weight = torch.randn(3, 4, requires_grad=True)
    adj = NormalizedAdjacency(torch.tensor([[0, 1, 1], [0, 0, 2]]), num_nodes=(2, 3))

    def step():
        rows = linear_rows(x, torch.tensor([0, 2, 5]), weight)
        users = propagate(rows, adj)
        index = torch.tensor([0, 1])
        contrastive_loss(users, users, index, index).backward()

    alone = StepProducts(step)
    assert list(alone.calls()) == ['dense products', 'sums over edges']
    assert len(alone._sparse) == 2  # forward, and the transposed matrix backward
    # Two of the map; of the contrast the similarities and their two gradients.
    assert alone.flops == 2 * (2 * 3 * 4 * 3 + 3 * 2 * 2 * 3)
    for call in alone.calls().values():
        call()
    torch.testing.assert_close(alone._dense[0][2], x[[0, 2, 5]] @ weight.t())


def test_factors_have_the_strides_and_values_they_had():
    base = torch.arange(24.0).view(4, 6)
    cases = [base[:, 1:4], base.t()[1:3], torch.ones(3, 1).expand(3, 4), base[2:, ::2]]
    buffer = torch.ones(2, 4)

    def step():
        for a in cases:
            a @ torch.eye(a.size(1))
        buffer @ base
        buffer.fill_(2.0)
        buffer @ base
        torch.mv(base, base[0])

    alone = StepProducts(step)
    for (a, _, _), case in zip(alone._dense, cases):
        assert a.stride() == case.stride() and torch.equal(a, case)
    first, second, vector = alone._dense[-3:]
    assert torch.equal(first[0], torch.ones(2, 4)) and torch.equal(second[0], buffer)
    assert first[1].data_ptr() == second[1].data_ptr() != base.data_ptr()
    alone.dense()
    torch.testing.assert_close(first[2], torch.ones(2, 4) @ base)
    torch.testing.assert_close(vector[2], base @ base[0])


def test_chunks_that_share_a_buffer_and_parameters_that_change(monkeypatch):
    monkeypatch.setattr(sys.modules['mrdib_pyg.ops.rows'], '_MAX_GATHERED', 12)
    x, rows = torch.randn(9, 6), torch.tensor([8, 1, 3, 3, 5])
    weight = nn.Parameter(torch.randn(4, 6))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
    expected = x[rows] @ weight.detach().t()

    def step():
        linear_rows(x, rows, weight).sum().backward()
        optimizer.step()

    alone = StepProducts(step)
    alone.dense()
    torch.testing.assert_close(torch.cat([out for _, _, out in alone._dense[:3]]), expected)
    torch.testing.assert_close(sum(out for _, _, out in alone._dense[3:]), weight.grad)


def test_operators_of_a_step_by_kind():
    model = nn.Linear(5, 4, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x, rows = torch.randn(7, 5), torch.tensor([0, 0, 3])

    def step():
        optimizer.zero_grad()
        noise = torch.randn(3, 5)
        model(x.index_select(0, rows) + noise).square().sum().backward()
        optimizer.step()

    found = measure_operators(step)
    # Forward, and the gradient of the weight; the input needs none.
    assert found[DENSE_PRODUCTS].calls == 2
    assert found[NORMALS].calls == found[OPTIMIZER].calls == 1
    assert found[ROWS].calls >= 1
    assert found[BETWEEN].calls == 0
    assert all(share.seconds >= 0 for share in found.values())


def test_what_one_step_has_above_another():
    weight, x = torch.randn(4, 5), torch.randn(7, 5)

    def plain():
        x @ weight.t()

    def full():
        plain()
        (x @ weight.t() + torch.randn(7, 4)) @ weight

    added = added_operators(plain, full)
    assert added[DENSE_PRODUCTS].calls == 2
    assert added[NORMALS].calls == 1
    assert {kind: share.calls for kind, share in added_operators(plain, plain).items()} == (
        dict.fromkeys(added_operators(plain, plain), 0.0)
    )


def test_the_products_are_those_of_the_bottlenecks_and_critics():
    layer = MRdIB({'a': 8, 'b': 8}, hidden_channels=4, user_codes=False)
    x = {name: (None, torch.randn(20, 8)) for name in 'ab'}
    user, index = torch.randn(5, 8), torch.arange(5)

    def step():
        layer.loss(layer(x), index, index, index + 5, user)

    alone = Arithmetic(layer, step)
    assert [tuple(code.shape) for code in alone.codes] == [(20, 8), (20, 8)]
    shapes = [(tuple(p.x.shape), tuple(p.weight.shape)) for p in alone.products]
    assert shapes[:2] == [((20, 8), (16, 8))] * 2
    # Of each side of the critic, on the ten items of the batch.
    side = [((10, 8), (4, 8)), ((10, 4), (5, 4)), ((10, 8), (4, 8))]
    assert sorted(shapes[2:]) == sorted(2 * side)
    alone()
    assert not any(module._forward_hooks for module in layer.modules())
