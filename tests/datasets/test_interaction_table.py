import os
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from tables import CSV, NAMES, VECTORS, csv, frame

from mrdib_pyg.datasets import InteractionTable


def test_interaction_table(tmp_path):
    root = tmp_path / 'shop'
    arguments = {**NAMES, 'features': {'image': VECTORS}, 'seed': 3}
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # the report says what is missing
        dataset = InteractionTable(root, csv(tmp_path), **arguments)
        assert str(dataset) == 'InteractionTable(shop)' and len(dataset) == 1
        assert dataset[0]['item'].x_image.tolist() == [[1, 2], [0, 0], [3, 4]]
        assert dataset.item_ids.index('x y') == 2 and dataset.user_ids[0] == 'ann'
        assert dataset.report.kept['items'] == 3
        # It is read from then on: the table may be gone.
        (tmp_path / 't.csv').unlink()
        again = InteractionTable(root, tmp_path / 't.csv', **arguments)
        assert again.report.to_dict() == dataset.report.to_dict()
        with pytest.raises(ValueError, match='by other settings'):
            InteractionTable(root, tmp_path / 't.csv', **{**arguments, 'seed': 4})
        with pytest.raises(ValueError, match='from another table'):
            InteractionTable(root, tmp_path / 'u.csv', **arguments)
        csv(tmp_path, CSV + 'dan,12,4,90\n')
        new = InteractionTable(
            root, tmp_path / 't.csv', force_reload=True, **{**arguments, 'seed': 4}
        )
    assert new[0]['user'].num_nodes == 4


def test_interaction_table_with_timestamps(tmp_path):
    table = frame(at='float64')
    data = InteractionTable(tmp_path / 'shop', table, **NAMES, time='at', timestamps=True)[0]
    time = torch.cat([store.time for store in data.edge_stores]).tolist()
    assert sorted(time) == [5, 10, 20, 30, 40, 50, 70]


def test_interaction_table_of_other_inputs(tmp_path):
    """What was prepared from one input is not served for another one."""
    root, x = tmp_path / 'shop', np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / 'x.npy', x)
    items = pd.DataFrame({'sku': ['007', '12'], 'title': ['car', 'boat']})
    arguments = {
        **NAMES, 'features': {'a': x, 'b': VECTORS, 'c': str(tmp_path / 'x.npy')},
        'item_order': ['007', '12', 'x y'], 'items': items, 'item_id': 'sku', 'text': 'title',
        'text_encoder': 'hashing',
    }  # fmt: skip
    table = frame()
    first = InteractionTable(root, table, **arguments)
    before = {p.name: p.read_bytes() for p in root.iterdir()}
    other = table.copy()
    other.loc[3, 'item'] = 'new'
    changes = {
        'table': ({}, other),
        'features a': ({'features': {**arguments['features'], 'a': x + 1}}, table),
        'features b': ({'features': {**arguments['features'], 'b': {**VECTORS, '12': [0, 0]}}},
                       table),
        'item_order': ({'item_order': ['12', '007', 'x y']}, table),
        'items': ({'items': items.assign(title=['car', 'ship'])}, table),
    }  # fmt: skip
    for name, (change, data) in changes.items():
        with pytest.raises(ValueError, match=f'from another content of {name} .*force_reload'):
            InteractionTable(root, data, **{**arguments, **change})
    for change in ({'name': 'other'}, {'quote': False}, {'sep': ';'}, {'item_id': 'id'}):
        with pytest.raises(ValueError, match='by other settings'):
            InteractionTable(root, table, **{**arguments, **change})
    # Equal content is enough: other objects, columns that are not read, another time of a file.
    os.utime(tmp_path / 'x.npy', ns=(0, 0))
    features = {'c': str(tmp_path / 'x.npy'), 'b': dict(reversed(VECTORS.items())), 'a': x.copy()}
    features = {name: features[name] for name in 'abc'}
    again = InteractionTable(
        root, table.copy().assign(note=1), **{**arguments, 'features': features}
    )
    assert again.report.to_dict() == first.report.to_dict()
    np.save(tmp_path / 'x.npy', x + 1)
    with pytest.raises(ValueError, match='from another content of features c'):
        InteractionTable(root, table, **arguments)
    assert {p.name: p.read_bytes() for p in root.iterdir()} == before
    new = InteractionTable(root, table, force_reload=True, **arguments)
    assert new[0]['item'].x_c.tolist() == (x + 1).tolist()


def test_text_encoders_without_a_name(tmp_path):
    """A function cannot be told from another one: it is called again."""
    table = pd.DataFrame({'user': [1, 2], 'item': [1, 2], 'title': ['car', 'boat']})

    def data(encoder, root='root'):
        return InteractionTable(
            tmp_path / root, table, **NAMES, text='title', text_encoder=encoder
        )[0]['item'].x_text.tolist()  # fmt: skip

    assert data(lambda texts: [[1.0]] * len(texts)) == [[1], [1]]
    with pytest.warns(UserWarning, match="prepared anew.*an attribute 'name'"):
        assert data(lambda texts: [[2.0]] * len(texts)) == [[2], [2]]

    def named(texts):
        return [[3.0]] * len(texts)

    # What is replaced then is what `force` would replace.
    np.save(tmp_path / 'root' / 'mine_feat.npy', np.ones((2, 1)))
    with pytest.warns(UserWarning, match='prepared anew'):
        with pytest.raises(ValueError, match='holds mine_feat.npy, whose rows belong to'):
            data(lambda texts: [[2.0]] * len(texts))
    (tmp_path / 'root' / 'report.json').write_text(
        '{"source": "", "settings": [], "rows": 0, "dropped": {}, "kept": {}, "split": {}, '
        '"modalities": {}, "notes": {}}'
    )
    with pytest.raises(ValueError, match='from another table or by other settings'):
        data(lambda texts: [[2.0]] * len(texts))
    named.name = 'three'
    assert data(named, 'named') == data(named, 'named') == [[3], [3]]
    named.name = 'four'
    with pytest.raises(ValueError, match='by other settings'):
        data(named, 'named')
