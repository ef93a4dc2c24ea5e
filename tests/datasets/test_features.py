import numpy as np
import pandas as pd
import pytest
import torch
from tables import NAMES, VECTORS, csv, load

from mrdib_pyg.datasets import (
    IdMap,
    prepare_table,
)


def features(kind, folder):
    """The features of two of three items, and the arguments that go with them."""
    if kind == 'dict':
        return VECTORS, None
    if kind == 'npz':
        np.savez(folder / 'f.npz', **{k: np.array(v, 'f8') for k, v in VECTORS.items()})
        return folder / 'f.npz', None
    if kind == 'safetensors':
        numpy = pytest.importorskip('safetensors.numpy')
        path = folder / 'f.safetensors'
        numpy.save_file({k: np.array(v, 'f2') for k, v in VECTORS.items()}, path)
        return path, None
    array = np.array(list(VECTORS.values()), 'f4')
    if kind == 'array':
        return array, list(VECTORS)
    (folder / 'order.txt').write_text('\n'.join(VECTORS) + '\n')
    if kind == 'one safetensor':
        numpy = pytest.importorskip('safetensors.numpy')
        numpy.save_file({'all': array}, folder / 'f.safetensors')
        return folder / 'f.safetensors', folder / 'order.txt'
    if kind == 'one npz':
        np.savez_compressed(folder / 'f.npz', array)
        return folder / 'f.npz', folder / 'order.txt'
    np.save(folder / 'f.npy', array)
    return str(folder / 'f.npy'), str(folder / 'order.txt')


def test_features_as_tensors(tmp_path):
    x = torch.tensor(list(VECTORS.values())).to(torch.bfloat16).requires_grad_()
    for name, source in (('rows', x), ('dict', dict(zip(VECTORS, x)))):
        order = list(VECTORS) if name == 'rows' else None
        out, features = tmp_path / name, {'image': source}
        prepare_table(csv(tmp_path), out, **NAMES, features=features, item_order=order)
        assert np.load(out / 'image_feat.npy').tolist() == [[1, 2], [0, 0], [3, 4]]


@pytest.mark.parametrize(
    'kind', ['dict', 'npz', 'safetensors', 'array', 'npy', 'one npz', 'one safetensor']
)
def test_features(tmp_path, kind):
    source, order = features(kind, tmp_path)
    out = tmp_path / 'out'
    report = prepare_table(
        csv(tmp_path), out, **NAMES, features={'image': source}, item_order=order
    )
    assert IdMap.load(out, 'item').ids == ['007', '12', 'x y']
    assert np.load(out / 'image_feat.npy').tolist() == [[1, 2], [0, 0], [3, 4]]
    assert np.load(out / 'image_mask.npy').tolist() == [True, False, True]
    entry = report.modalities['image']
    assert (entry['items'], entry['channels']) == (2, 2)
    assert list(entry['notes'].values()) == [1]  # a vector of no item
    data = load(out)
    assert data['item'].has_image.tolist() == [True, False, True]
    prepare_table(
        csv(tmp_path), tmp_path / 'mean', **NAMES, features={'image': source}, item_order=order,
        fill='mean',
    )  # fmt: skip
    assert np.load(tmp_path / 'mean' / 'image_feat.npy').tolist() == [[1, 2], [2, 3], [3, 4]]
    assert not (tmp_path / 'mean' / 'image_mask.npy').exists()


def test_features_by_the_number_of_the_row(tmp_path):
    table = pd.DataFrame({'user': 'abc', 'item': [2, 0, 3]})
    table['user'] = list('abc')
    x = np.arange(8.0).reshape(4, 2)
    x[3, 0] = np.nan
    report = prepare_table(table, tmp_path / 'out', **NAMES, features={'a': x})
    assert np.load(tmp_path / 'out' / 'a_feat.npy').tolist() == [[4, 5], [0, 1], [0, 0]]
    assert np.load(tmp_path / 'out' / 'a_mask.npy').tolist() == [True, True, False]
    assert report.modalities['a']['notes'] == {
        'rows are of items that are not kept': 1,
        'vectors hold NaN or infinity and count as missing': 1,
    }
    with pytest.raises(ValueError, match="has 3 rows and no ids.*got '3'.*'item_order'"):
        prepare_table(table, tmp_path / 'x', **NAMES, features={'a': x[:3]})
