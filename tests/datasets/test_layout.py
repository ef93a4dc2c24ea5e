"""What other toolboxes of the MMRec family rely on in a folder, read without this package."""

import numpy as np
import pandas as pd
import pytest
from raw_files import record, write_amazon

from mrdib_pyg.datasets import Planted, prepare_amazon, prepare_table, write_folder


def of_table(folder, fill):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {'who': rng.integers(0, 50, 900) * 7, 'what': [f'i{n}' for n in rng.integers(0, 60, 900)],
         'stars': rng.integers(1, 11, 900) / 2, 'at': rng.permutation(900),
         'title': rng.choice(['red car', 'blue boat', ''], 900)}
    )  # fmt: skip
    # In another order, in columns, and not for all.
    image = np.asfortranarray(rng.normal(size=(40, 5)))
    prepare_table(
        table, folder, user='who', item='what', rating='stars', time='at', k_core=5, fill=fill,
        features={'image': image}, item_order=[f'i{n}' for n in range(40)], text='title',
        text_encoder='hashing',
    )  # fmt: skip
    return ['image', 'text'], ['rating', 'timestamp']


def of_amazon(folder, fill):
    raw = folder.parent / 'raw'
    write_amazon(raw, num_users=12, num_items=9)
    (raw / 'image_features_Baby.b').write_bytes(record('B000000001', np.ones(4096)))
    prepare_amazon(raw, 'Baby', folder, text_encoder='hashing', fill=fill, download=False)
    return ['image', 'text'], ['rating', 'timestamp']


def of_write_folder(folder, fill):
    data = Planted(num_users=40, num_items=30, num_interactions=20)[0]
    write_folder(data, folder)
    return [key[2:] for key in data['item'] if key.startswith('x_')], []


@pytest.mark.parametrize(
    ('make', 'fill'),
    [(of_table, 'mean'), (of_table, 'mask'), (of_amazon, 'mean'), (of_amazon, 'mask'),
     (of_write_folder, None)],
)  # fmt: skip
def test_layout(tmp_path, make, fill):
    folder = tmp_path / 'out'
    modalities, columns = make(folder, fill)
    (path,) = folder.glob('*.inter')
    content = path.read_bytes()
    assert content.isascii() and b'\r' not in content and content.endswith(b'\n')
    table = pd.read_csv(path, sep='\t')
    assert list(table.columns) == ['userID', 'itemID', *columns, 'x_label']
    for name in ('userID', 'itemID', 'x_label'):
        assert table[name].dtype == np.int64  # without a fraction, and none is missing
    assert not table.isna().to_numpy().any()
    assert sorted(set(table['x_label'])) == [0, 1, 2]
    assert not table.duplicated(['userID', 'itemID']).any()
    num_users, num_items = table['userID'].nunique(), table['itemID'].nunique()
    assert sorted(set(table['userID'])) == list(range(num_users))
    assert sorted(set(table['itemID'])) == list(range(num_items))

    found = {p.name for p in folder.glob('*.npy')}
    assert {f'{name}_feat.npy' for name in modalities} <= found
    for name in modalities:
        x = np.load(folder / f'{name}_feat.npy', allow_pickle=False)
        assert x.dtype == np.dtype('<f4') and x.flags.c_contiguous and x.flags.aligned
        assert x.ndim == 2 and len(x) == num_items and np.isfinite(x).all()
        if f'{name}_mask.npy' not in found:
            assert (x != 0).any(axis=1).all()  # no zeros that only a mask explains
            continue
        mask = np.load(folder / f'{name}_mask.npy', allow_pickle=False)
        assert mask.dtype == bool and mask.shape == (num_items,)
        assert (x[~mask] == 0).all() and 0 < mask.sum() < num_items
    masks = found - {f'{name}_feat.npy' for name in modalities}
    assert masks == ({'image_mask.npy'} if fill == 'mask' else set())
    # The ids outside, a row for each number.
    for kind, num in (('user', num_users), ('item', num_items)) if columns else ():
        ids = pd.read_csv(folder / f'{kind}_ids.csv', dtype={'raw_id': str})
        assert ids[f'{kind}ID'].tolist() == list(range(num)) and ids['raw_id'].nunique() == num
