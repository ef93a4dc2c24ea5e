import io
import os
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from tables import NAMES, VECTORS, csv, load
from test_folder import special

from mrdib_pyg.datasets import IdMap, prepare_table
from mrdib_pyg.datasets._read import Npz
from mrdib_pyg.datasets.features import fill_missing, item_features, read_order


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


def save(kind, folder, vectors):
    """The same vectors in every form that features come in, and the ids of the rows of arrays."""
    if kind == 'dict':
        return vectors, None
    if kind == 'array':
        return np.array(list(vectors.values())), list(vectors)
    path = folder / f'f.{kind}'
    if kind == 'npy':
        np.save(path, np.array(list(vectors.values())))
        return path, list(vectors)
    if kind == 'npz':
        np.savez_compressed(path, **vectors)
    else:
        pytest.importorskip('safetensors.numpy').save_file(vectors, path)
    return path, None


@pytest.mark.parametrize('kind', ['dict', 'array', 'npy', 'npz', 'safetensors'])
def test_vectors_of_zeros_are_missing(tmp_path, kind):
    vectors = {key: np.zeros(3, 'f4') for key in 'abcd'}
    vectors['a'][1], vectors['c'][:], vectors['d'][2] = 5, [1, 2, 3], np.nan
    source, order = save(kind, tmp_path, vectors)
    x, mask, notes = item_features('image', source, list('dcbax'), order)
    assert x.tolist() == [[0, 0, 0], [1, 2, 3], [0, 0, 0], [0, 5, 0], [0, 0, 0]]
    assert mask.tolist() == [False, True, False, True, False]
    assert notes == {
        'vectors hold NaN or infinity and count as missing': 1,
        'vectors are all zeros and count as missing': 1,
    }
    assert fill_missing(x, mask, 'mean')[0][2].tolist() == [0.5, 3.5, 1.5]  # zeros do not count
    with pytest.raises(ValueError, match='nothing but zeros, NaN or infinity'):
        item_features('image', source, ['b', 'd'], order)


def member(shape, content, method, name='a.npy'):
    """An archive of one array, whose header says what it likes."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + '\n'
    head = b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header.encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', method) as archive:
        with archive.open(name, 'w', force_zip64=True) as f:
            f.write(head)
            for block in content:
                f.write(block)
    return out.getvalue()


def twice():
    """An archive in which one id names two arrays."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        for name in ('a.npy', 'a'):
            archive.writestr(name, member('(2,)', [bytes(8)], zipfile.ZIP_STORED))
    return out.getvalue()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (member('(2,)', [bytes(8)], zipfile.ZIP_BZIP2), 'compressed by method 12'),
        (member('(2,)', [bytes(8)], zipfile.ZIP_LZMA), 'compressed by method 14'),
        (member('(83886080,)', [bytes(1 << 20)] * 320, zipfile.ZIP_DEFLATED), 'claim to hold 33'),
        (member('(-2,)', [bytes(8)], zipfile.ZIP_STORED), 'negative'),
        (member('(-1, -2)', [bytes(8)], zipfile.ZIP_STORED), 'no complete .npz'),
        (member('(2000000000000,)', [bytes(8)], zipfile.ZIP_DEFLATED), 'no complete .npz'),
        (member('(3,)', [bytes(8)], zipfile.ZIP_STORED), 'no complete .npz'),
        (twice(), "'a' comes twice"),
    ],
    ids=['bz2', 'lzma', 'deflate', 'negative', 'both negative', 'giant', 'short', 'twice'],
)
def test_refused_archives(tmp_path, content, message):
    (tmp_path / 'f.npz').write_bytes(content)
    with pytest.raises(ValueError, match=message) as info:
        item_features('image', tmp_path / 'f.npz', ['a'], None)
    assert str(tmp_path / 'f.npz') in str(info.value)


def test_archives_of_zeros_up_to_a_limit():
    """What compresses well is no bomb yet: 16 MiB of zeros."""
    content = io.BytesIO(member('(4194304,)', [bytes(1 << 20)] * 16, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(content) as archive:
        assert Npz(archive)['a'].shape == (4194304,) and len(content.getvalue()) < 1 << 20


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs named pipes')
@pytest.mark.parametrize('kind', ['pipe', 'folder', 'socket', 'device', 'link'])
@pytest.mark.parametrize('name', ['f.npy', 'f.npz', 'f.safetensors', 'order.txt'])
def test_what_is_no_file(tmp_path, kind, name):
    path = tmp_path / name
    special(kind, path)
    error = FileNotFoundError if kind == 'link' else ValueError
    with pytest.raises(error, match=r"' (must be a regular file|is a link)") as info:
        if name == 'order.txt':
            read_order(path)
        else:
            item_features('image', path, ['a'], ['a'])
    assert str(path) in str(info.value)


def test_tensors_of_any_precision(tmp_path):
    """Those that NumPy does not know, too."""
    torch_file = pytest.importorskip('safetensors.torch')
    x = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.half, torch.double, torch.int16):
        vectors = dict(zip('ab', x.to(dtype)))
        torch_file.save_file({k: v.clone() for k, v in vectors.items()}, tmp_path / 'f.safetensors')
        for source in (vectors, tmp_path / 'f.safetensors'):
            found, mask, _ = item_features('image', source, ['a', 'b'], None)
            assert found.tolist() == x.to(dtype).float().tolist() and mask.all()


def test_an_id_twice():
    with pytest.raises(ValueError, match="'image' name an item twice"):
        item_features('image', {1: [1.0], '1': [2.0]}, ['1'], None)
