import torch
from torch import nn

from benchmarks.training.operators import (
    BETWEEN,
    NORMALS,
    OPTIMIZER,
    PRODUCTS,
    ROWS,
    added_operators,
    measure_operators,
)


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
    assert found[PRODUCTS].calls == 2
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
    assert added[PRODUCTS].calls == 2
    assert added[NORMALS].calls == 1
    assert {kind: share.calls for kind, share in added_operators(plain, plain).items()} == (
        dict.fromkeys(added_operators(plain, plain), 0.0)
    )
