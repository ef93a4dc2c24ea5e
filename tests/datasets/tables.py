"""A small table of interactions, written and read."""

import warnings

import pandas as pd
import pytest

from mrdib_pyg.datasets import IdMap, InteractionFolder, prepare_table

HEADER = 'user,item,stars,at\n'
# Users of text ids, an item with a leading zero, a repeated pair whose later row comes first.
ROWS = [
    ('ann', '007', 4, 30), ('bob', '12', 5, 10), ('ann', 'x y', 3, 20), ('bob', '007', 1, 40),
    ('ann', '12', 2, 60), ('ann', '12', 5, 50), ('cid', 'x y', 4, 70), ('bob', 'x y', 3, 5),
]  # fmt: skip
CSV = HEADER + ''.join(f'{u},{i},{r},{t}\n' for u, i, r, t in ROWS)
NAMES = {'user': 'user', 'item': 'item'}
VECTORS = {'007': [1, 2], 'x y': [3, 4], 'unknown': [9, 9]}


def csv(folder, text=CSV, name='t.csv'):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def frame(**kwargs):
    table = pd.DataFrame(ROWS, columns=['user', 'item', 'stars', 'at'])
    return table.astype(kwargs) if kwargs else table


def load(folder, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return InteractionFolder(folder, **kwargs)[0]


def read_back(folder):
    """The rows of the table that was written, with the ids in the place of the indices."""
    users, items = IdMap.load(folder, 'user'), IdMap.load(folder, 'item')
    (path,) = folder.glob('*.inter')
    table = pd.read_csv(path, sep='\t')
    table['userID'] = [users[u] for u in table['userID']]
    table['itemID'] = [items[i] for i in table['itemID']]
    return table


def refuse(folder, match, error=ValueError, table=CSV, **kwargs):
    path = csv(folder, table) if isinstance(table, (str, bytes)) else table
    out = folder / 'never'
    with pytest.raises(error, match=match):
        prepare_table(path, out, **{**NAMES, **kwargs})
    assert not out.exists() and not list(folder.glob('.never*'))
