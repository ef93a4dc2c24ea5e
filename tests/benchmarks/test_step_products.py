import torch
from torch import nn

from benchmarks.training.step_products import StepProducts
from mrdib_pyg.ops import NormalizedAdjacency, contrastive_loss, linear_rows, propagate


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
