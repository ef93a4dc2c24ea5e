import os

import numpy as np
import pytest
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import DATASETS, InteractionFolder, Planted, data_hash, load_dataset

SMALL = {'num_users': 30, 'num_items': 40, 'num_interactions': 5}


def test_load_dataset_by_name():
    data = load_dataset('planted', **SMALL)
    assert isinstance(data, HeteroData)
    assert data_hash(data) == data_hash(Planted(**SMALL)[0])
    assert sorted(DATASETS) == ['planted', 'tiktok']


def test_load_dataset_folder(tmp_path, monkeypatch):
    folder = tmp_path / 'tiktok'  # a name that is taken
    Planted(folder, **SMALL)
    expected = data_hash(InteractionFolder(folder)[0])
    assert data_hash(load_dataset(folder)) == data_hash(load_dataset(str(folder))) == expected
    monkeypatch.chdir(tmp_path)
    assert data_hash(load_dataset(os.path.join('.', 'tiktok'))) == expected
    data = load_dataset(folder, modalities=['text'])
    assert 'x_text' in data['item'] and 'x_image' not in data['item']


def test_load_dataset_home(tmp_path, monkeypatch):
    monkeypatch.setattr('torch_geometric.get_home_dir', lambda: str(tmp_path / 'home'))
    with pytest.raises(FileNotFoundError, match='home.tiktok.raw'):
        # An unusable mirror: the default root is what is tested.
        load_dataset('tiktok', url='http://127.0.0.1:9')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['planet', 'no/such/folder', ''])
def test_load_dataset_unknown(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"Known names are \['planted', 'tiktok'\]"):
        load_dataset(name)


def test_load_dataset_passes_refusals_on(tmp_path):
    np.save(tmp_path / 'image_feat.npy', np.zeros((3, 3)))
    with pytest.raises(FileNotFoundError, match=r"no '\*\.inter'"):
        load_dataset(tmp_path)
