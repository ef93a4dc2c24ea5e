import copy
import os
import subprocess
import sys

import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import Planted, data_hash

SMALL = {'num_users': 30, 'num_items': 40, 'num_interactions': 5}


@pytest.fixture
def data():
    return Planted(missing=0.2, **SMALL)[0]


def test_data_hash_is_equal_in_another_process(data):
    code = (
        'from mrdib_pyg.datasets import Planted, data_hash;'
        f'print(data_hash(Planted(missing=0.2, **{SMALL})[0]))'
    )
    env = dict(
        os.environ, PYTHONHASHSEED='7', OMP_NUM_THREADS='2', PYTHONPATH=os.pathsep.join(sys.path)
    )
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert out.stdout.strip() == data_hash(data), out.stderr
    assert len(data_hash(data)) == 64


def test_data_hash_ignores_order_copies_and_graphs(data):
    digest = data_hash(data)
    other = copy.deepcopy(data)
    index = other['user', 'rates', 'item'].edge_index
    other['user', 'rates', 'item'].edge_index = index[:, torch.randperm(index.size(1))]
    other['item', 'image_knn', 'item'].edge_index = torch.zeros(2, 3, dtype=torch.long)
    other.name = 'another name'
    keys = list(other.edge_types)
    assert data_hash(other) == digest
    assert data_hash(data) == digest and list(other.edge_types) == keys


def edit(data, what):
    if what == 'users':
        data['user'].num_nodes += 1
    elif what == 'items':
        data['item'].num_nodes += 1
    elif what == 'train':
        data['user', 'rates', 'item'].edge_index[1, 0] += 1
    elif what == 'val':
        data['user', 'val', 'item'].edge_label_index[1, 0] += 1
    elif what == 'swap':
        val, test = data['user', 'val', 'item'], data['user', 'test', 'item']
        val.edge_label_index, test.edge_label_index = test.edge_label_index, val.edge_label_index
    elif what == 'feature':
        data['item'].x_text[3, 5] += 1e-5
    elif what == 'names':
        item = data['item']
        item.x_image, item.x_text = item.x_text, item.x_image
    elif what == 'shape':
        data['item'].x_image = data['item'].x_image.view(80, 32)
    elif what == 'modality':
        del data['item'].x_text
    elif what == 'mask':
        data['item'].has_image[0] ^= True
    elif what == 'no_mask':
        del data['item'].has_image


@pytest.mark.parametrize(
    'what',
    ['users', 'items', 'train', 'val', 'swap', 'feature', 'names', 'shape', 'modality', 'mask',
     'no_mask'],
)  # fmt: skip
def test_data_hash_sees(data, what):
    digest = data_hash(data)
    edit(data, what)
    assert data_hash(data) != digest


def test_data_hash_does_not_see_the_type_of_ids():
    data = HeteroData()
    data['user'].num_nodes = data['item'].num_nodes = 60000
    store = data['user', 'rates', 'item']
    store.edge_index = torch.tensor([[3, 50000, 59999], [4, 50001, 59999]])
    expected = data_hash(data)
    store.edge_index = store.edge_index.int()  # whose products would exceed 32 bits
    assert data_hash(data) == expected
