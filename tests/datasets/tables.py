"""A small table of interactions, written and read."""

import warnings

from mrdib_pyg.datasets import InteractionFolder

HEADER = 'user,item,stars,at\n'
# Users of text ids, an item with a leading zero, a repeated pair whose later row comes first.
ROWS = [
    ('ann', '007', 4, 30), ('bob', '12', 5, 10), ('ann', 'x y', 3, 20), ('bob', '007', 1, 40),
    ('ann', '12', 2, 60), ('ann', '12', 5, 50), ('cid', 'x y', 4, 70), ('bob', 'x y', 3, 5),
]  # fmt: skip
CSV = HEADER + ''.join(f'{u},{i},{r},{t}\n' for u, i, r, t in ROWS)
NAMES = {'user': 'user', 'item': 'item'}


def csv(folder, text=CSV, name='t.csv'):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(folder, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return InteractionFolder(folder, **kwargs)[0]
