import torch

from benchmarks.training.arithmetic import Arithmetic
from mrdib_pyg.nn import MRdIB


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
