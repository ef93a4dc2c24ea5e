import torch
from torch_geometric.data import HeteroData

from benchmarks.training.arithmetic import Arithmetic, feature_products
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


def test_the_products_of_features_are_of_the_items_that_are_read(monkeypatch):
    data = HeteroData()
    data['item'].x_a, data['item'].x_b = torch.randn(9, 5), torch.randn(9, 3)
    seen, mm = [], torch.mm

    def watched(x, y, out):
        seen.append((*x.shape, y.size(1)))
        return mm(x, y, out=out)

    monkeypatch.setattr(torch, 'mm', watched)
    feature_products(data, 2, torch.tensor([2, 4, 8]))()
    assert seen == [(3, 5, 2), (2, 3, 5), (3, 3, 2), (2, 3, 3)]
    seen.clear()
    feature_products(data, 2)()
    assert seen == [(9, 5, 2), (2, 9, 5), (9, 3, 2), (2, 9, 3)]
