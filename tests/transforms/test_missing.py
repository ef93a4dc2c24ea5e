import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models import VBPR
from mrdib_pyg.transforms import FillMissing, MaskModality


def make():
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 2, 3
    data['item'].x_image = torch.tensor([[1.0, 2.0], [3.0, 6.0], [float('nan'), 0.0]])
    data['item'].has_image = torch.tensor([True, True, False])
    data['item'].x_text = torch.ones(3, 1)
    data['user', 'rates', 'item'].edge_index = torch.tensor([[0, 1], [0, 1]])
    return data


def test_the_mean_of_those_that_have_it():
    data = make()
    out = FillMissing()(data)
    assert out['item'].x_image.tolist() == [[1.0, 2.0], [3.0, 6.0], [2.0, 4.0]]
    assert 'has_image' not in out['item'] and torch.equal(out['item'].x_text, data['item'].x_text)
    assert 'has_image' in data['item'] and data['item'].x_image[2, 1] == 0  # a copy
    assert VBPR(out, channels=2).present() is None


def test_some_modalities():
    data = make()
    data['item'].has_text = torch.tensor([True, False, True])
    out = FillMissing('text')(data)
    assert 'has_image' in out['item'] and 'has_text' not in out['item']
    both = FillMissing(['image', 'text'])(data)['item']
    assert 'has_image' not in both and both.x_text.tolist() == [[1.0], [1.0], [1.0]]


def test_refuses():
    data = make()
    data['item'].has_image[:] = False
    with pytest.raises(ValueError, match=r'has_image must .*got none'):
        FillMissing()(data)
    with pytest.raises(ValueError, match="'modality' must .*got 'audio'"):
        FillMissing('audio')(make())


def test_repr():
    assert repr(FillMissing()) == 'FillMissing(modality=None)'


def make_mask(num_items=40):
    data = HeteroData()
    data['item'].num_nodes = num_items
    data['item'].x_image = torch.randn(num_items, 3)
    data['item'].x_text = torch.randn(num_items, 2)
    return data


def test_takes_a_share_away():
    data = make_mask()
    out = MaskModality('image', 0.3, seed=1)(data)
    has = out['item'].has_image
    assert has.dtype == torch.bool and int((~has).sum()) == 12
    assert (out['item'].x_image[~has] == 0).all()
    assert torch.equal(out['item'].x_image[has], data['item'].x_image[has])
    assert 'has_text' not in out['item'] and 'has_image' not in data['item']  # a copy
    assert (data['item'].x_image != 0).any(dim=1).all()


def test_masks_are_nested_and_seeded():
    data = make_mask()
    masks = [MaskModality('image', r, seed=1)(data)['item'].has_image for r in (0.1, 0.5, 0.9)]
    assert not (masks[1] & ~masks[0]).any() and not (masks[2] & ~masks[1]).any()
    assert torch.equal(masks[1], MaskModality('image', 0.5, seed=1)(data)['item'].has_image)
    assert not torch.equal(masks[1], MaskModality('image', 0.5, seed=2)(data)['item'].has_image)


def test_of_those_that_have_it():
    data = make_mask()
    data['item'].has_image = torch.arange(40) >= 20
    kept = data['item'].has_image.clone()
    has = MaskModality('image', 0.5)(data)['item'].has_image
    assert int(has.sum()) == 10 and not has[:20].any()
    assert torch.equal(data['item'].has_image, kept)
    for ratio, num in ((0.0, 20), (1.0, 0)):
        assert int(MaskModality('image', ratio)(data)['item'].has_image.sum()) == num


def test_refuses_mask():
    for ratio in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"'ratio' must lie in \[0, 1\] \(got"):
            MaskModality('image', ratio)
    with pytest.raises(ValueError, match="'modality' must .*got 'audio'"):
        MaskModality('audio', 0.5)(make_mask())


def test_repr_mask():
    assert repr(MaskModality('image', 0.5)) == (
        "MaskModality(modality='image', ratio=0.5, seed=0)"
    )  # fmt: skip
