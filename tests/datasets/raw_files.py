"""Raw files of Amazon Reviews 2014, generated in the published formats."""

import gzip
from pathlib import Path

import numpy as np


def item_id(number):
    return f'B{number:09d}'


def meta_line(item, title='A toy', **fields):
    """A Python literal as they are published: it is no JSON."""
    return repr({'asin': item, 'title': title, 'price': 3.17, **fields})


def record(item, x):
    raw = item if isinstance(item, bytes) else item.encode()
    return raw.ljust(10, b'\0') + np.asarray(x, dtype='<f4').tobytes()


def features(number):
    return np.random.default_rng(number).normal(size=4096).astype('f4')


def write_amazon(folder, category='Baby', num_users=40, num_items=30, per_user=8, seed=0):
    """Writes the three files of a category; returns the pairs of user and item in their order."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pairs = [
        (f'A{user:012d}X', item_id(item))
        for user in range(num_users)
        for item in rng.permutation(num_items)[:per_user]
    ]
    pairs = [pairs[place] for place in rng.permutation(len(pairs))]
    lines = [
        f'{user},{item},{rng.integers(1, 6)}.0,{1_300_000_000 + 86_400 * place}'
        for place, (user, item) in enumerate(pairs)
    ]
    (folder / f'ratings_{category}.csv').write_text('\n'.join(lines) + '\n')
    kinds = ('soft', 'hard', 'wooden', 'blue')
    meta = [
        meta_line(
            item_id(item), f'A {kinds[item % 4]} toy', brand=f'Brand {item % 3}',
            categories=[['Baby', kinds[item % 4].title()], ['Gifts']],
            description="It's \u201cvery\u201d good &amp; cheap",
        )
        for item in range(num_items)
    ]  # fmt: skip
    write_meta(folder / f'meta_{category}.json.gz', meta)
    content = b''.join(record(item_id(item), features(item)) for item in range(num_items))
    (folder / f'image_features_{category}.b').write_bytes(content)
    return pairs


def write_meta(path, lines):
    text = '\n'.join(lines) + '\n'
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
