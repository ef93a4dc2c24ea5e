import importlib
import warnings

import numpy as np
import pytest
from test_folder import feat, make

from mrdib_pyg.datasets import InteractionFolder, Planted, data_hash, write_folder


def test_write_folder(tmp_path):
    mask = np.array([True, False, True, True])
    make(tmp_path / 'a', image_feat=feat(), x_y_feat=feat(4, 2), image_mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        data = InteractionFolder(tmp_path / 'a')[0]
        write_folder(data, tmp_path / 'b' / 'c')
        again = InteractionFolder(tmp_path / 'b' / 'c')[0]
    assert again.name == 'toy' and data_hash(again) == data_hash(data)
    assert sorted(p.name for p in (tmp_path / 'b' / 'c').iterdir()) == [
        'image_feat.npy', 'image_mask.npy', 'toy.inter', 'x_y_feat.npy',
    ]  # fmt: skip
    with pytest.raises(ValueError, match='two tables'):
        write_folder(data, tmp_path / 'b' / 'c', name='other')


def test_write_folder_leaves_no_features_of_other_data(tmp_path):
    make(tmp_path / 'a', image_feat=feat(), text_feat=feat(4, 2), image_mask=np.ones(4, bool))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        data = InteractionFolder(tmp_path / 'a')[0]
    write_folder(data, tmp_path / 'b')
    before = {path.name: path.read_bytes() for path in (tmp_path / 'b').iterdir()}
    del data['item'].x_text, data['item'].has_image
    with pytest.raises(ValueError, match=r"holds \['image_mask.npy', 'text_feat.npy'\], which are"):
        write_folder(data, tmp_path / 'b')
    assert {path.name: path.read_bytes() for path in (tmp_path / 'b').iterdir()} == before


@pytest.mark.parametrize('missing', [('test',), ('val', 'test'), ('val',)])
def test_write_folder_without_a_split(tmp_path, missing):
    data = Planted(num_users=30, num_items=20, num_interactions=6)[0]
    for relation in missing:
        del data['user', relation, 'item']
    before = list(data.edge_types)
    write_folder(data, tmp_path / 'b')
    assert data.edge_types == before
    again = InteractionFolder(tmp_path / 'b')[0]
    keys = {'rates': 'edge_index', 'val': 'edge_label_index', 'test': 'edge_label_index'}
    for relation, key in keys.items():
        found = again['user', relation, 'item'][key]
        if relation in missing:
            assert found.numel() == 0
        else:
            assert found.tolist() == data['user', relation, 'item'][key].tolist()


def test_write_folder_refuses_what_a_table_does_not_hold(tmp_path):
    data = Planted(num_users=30, num_items=20, num_interactions=6)[0]
    write_folder(data, tmp_path / 'b')
    before = {path.name: path.read_bytes() for path in (tmp_path / 'b').iterdir()}
    more, none, no_items = data.clone(), data.clone(), data.clone()
    more['user'].num_nodes = 32
    for relation in ('rates', 'val', 'test'):
        del none['user', relation, 'item']
    del no_items['item'].x_image, no_items['item'].x_text
    no_items['item'].num_nodes = 25
    for wrong, message in (
        (
            more,
            "has 32 users, but none from 30 on has an edge.*set data\\['user'\\].num_nodes to 30",
        ),
        (none, "'data' has no edges between users and items"),
    ):
        with pytest.raises(ValueError, match=message):
            write_folder(wrong, tmp_path / 'b')
    with pytest.raises(ValueError, match='has 25 items, but none from'):
        write_folder(no_items, tmp_path / 'c')
    assert {path.name: path.read_bytes() for path in (tmp_path / 'b').iterdir()} == before
    assert not (tmp_path / 'c').exists()


def test_write_folder_that_fails_leaves_no_two_halves(tmp_path, monkeypatch):
    first, second = (
        Planted(num_users=30, num_items=20, num_interactions=6, seed=seed)[0] for seed in (0, 1)
    )
    write_folder(first, tmp_path / 'b')

    def fail(*args):
        raise OSError('disk full')

    module = importlib.import_module('mrdib_pyg.datasets.folder')
    monkeypatch.setattr(module, 'write_table', fail)
    with pytest.raises(OSError, match='disk full'):
        write_folder(second, tmp_path / 'b')
    with pytest.raises(FileNotFoundError):  # rather than features of one with edges of the other
        InteractionFolder(tmp_path / 'b')
