from pathlib import Path

import numpy as np
import pytest
import torch

from mrdib_pyg.serving import export_ogb


def test_ogb_reads_it(tmp_path, data, ids, capfd):
    folder = tmp_path / 'out'
    masked = data.clone()
    masked['item'].has_text = torch.arange(50) % 3 > 0
    export_ogb(masked, folder, 'small', *ids)
    out, err = capfd.readouterr()
    assert out == '' and err == ''  # ogb prints every array
    assert sorted(p.name for p in folder.iterdir()) == ['meta_dict.pt', 'small']
    from ogb.io.read_graph_raw import read_binary_heterograph_raw

    graph = read_binary_heterograph_raw(str(folder / 'small' / 'raw'), False)[0]
    edges = graph['edge_index_dict']['user', 'rates', 'item']
    assert np.array_equal(edges, data['user', 'rates', 'item'].edge_index.numpy())
    assert graph['num_nodes_dict'] == {'user': 40, 'item': 50}
    for name in ('image', 'text'):
        x = graph[f'node_{name}']['item']
        assert np.array_equal(x, data['item'][f'x_{name}'].numpy())
    assert graph['node_has_text']['item'].tolist() == masked['item'].has_text.long().tolist()
    split = torch.load(folder / 'small' / 'split' / 'given' / 'split_dict.pt', weights_only=False)
    for name, relation in (('valid', 'val'), ('test', 'test')):
        index = data['user', relation, 'item'].edge_label_index
        assert np.array_equal(split[name]['edge'].T, index.numpy())
    meta = torch.load(folder / 'meta_dict.pt', weights_only=True)
    assert meta['dir_path'] == str(folder / 'small') and meta['is hetero'] == 'True'
    names = sorted(p.name for p in (folder / 'small' / 'mapping').iterdir())
    assert names == ['README.md', 'item_ids.csv', 'user_ids.csv']


def test_refusals(tmp_path, data):
    with pytest.raises(ValueError, match="'name' must consist of letters"):
        export_ogb(data, tmp_path / 'out', 'a/b')
    (tmp_path / 'x').write_text('')
    with pytest.raises(FileExistsError, match='exists already'):
        export_ogb(data, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['x']


def test_without_held_out_edges(tmp_path, data):
    train = data.clone()
    del train['user', 'test', 'item']
    export_ogb(train, tmp_path / 'out')
    path = tmp_path / 'out' / 'mrdib' / 'split' / 'given' / 'split_dict.pt'
    assert torch.load(path, weights_only=False)['test']['edge'].shape == (0, 2)


def test_a_failure_leaves_nothing(tmp_path, data, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(np, 'savez_compressed', full)
    with pytest.raises(OSError, match='No space left'):
        export_ogb(data, tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs a device that is always full')
def test_a_full_disk_is_an_error_of_the_system(tmp_path, data, monkeypatch):
    save = torch.save
    monkeypatch.setattr(torch, 'save', lambda value, path: save(value, '/dev/full'))
    with pytest.raises(OSError, match=r"out' could not be written: "):
        export_ogb(data, tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []
