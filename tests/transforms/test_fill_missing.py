import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.models import VBPR
from mrdib_pyg.transforms import FillMissing


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
    with pytest.raises(ValueError, match="no item has the modality 'image', so there is no mean"):
        FillMissing()(data)
    with pytest.raises(ValueError, match="'modality' names 'audio'"):
        FillMissing('audio')(make())


def test_repr():
    assert repr(FillMissing()) == 'FillMissing(modality=None)'
