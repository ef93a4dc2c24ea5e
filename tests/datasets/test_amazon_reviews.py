import functools
import gzip
import http.server
import importlib
import pickle
import sys
import threading
import warnings

import numpy as np
import pytest
from raw_files import features, item_id, meta_line, record, write_amazon, write_meta

from mrdib_pyg.cli import main
from mrdib_pyg.datasets import (
    AmazonReviews,
    HashingTextEncoder,
    IdMap,
    InteractionFolder,
    data_hash,
    prepare_amazon,
)
from mrdib_pyg.datasets import amazon as files
from mrdib_pyg.datasets.amazon import find_category, raw_files
from mrdib_pyg.datasets.splits import random_split

QUICK = {'text_encoder': 'hashing'}


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp('amazon')
    return root, write_amazon(root / 'raw')


@pytest.fixture
def raw(tmp_path):
    write_amazon(tmp_path, num_users=12, num_items=9, per_user=8)
    return tmp_path


def prepare(root, name='Baby', out='out', **kwargs):
    return prepare_amazon(root, name, root / out, download=False, **{**QUICK, **kwargs})


def test_amazon_reviews(published):
    root, pairs = published
    dataset = AmazonReviews(root, 'baby', **QUICK)
    assert str(dataset) == 'AmazonReviews(Baby)' and len(dataset) == 1
    data = dataset[0]
    users = list(dict.fromkeys(user for user, _ in pairs))
    items = list(dict.fromkeys(item for _, item in pairs))
    assert dataset.user_ids.ids == users and dataset.item_ids.ids == items
    user = np.array([users.index(user) for user, _ in pairs])
    item = np.array([items.index(item) for _, item in pairs])
    label = random_split(user, item)
    for value, (relation, key) in enumerate(
        (('rates', 'edge_index'), ('val', 'edge_label_index'), ('test', 'edge_label_index'))
    ):
        expected = sorted(zip(user[label == value].tolist(), item[label == value].tolist()))
        assert data['user', relation, 'item'][key].t().tolist() == [list(p) for p in expected]
    numbers = [int(raw[1:]) for raw in items]
    assert (data['item'].x_image.numpy() == np.stack([features(n) for n in numbers])).all()
    kinds = ('soft', 'hard', 'wooden', 'blue')
    texts = [
        f'A {kinds[n % 4]} toy. Brand {n % 3}. Baby, {kinds[n % 4].title()}, Gifts. '
        f"It's \u201cvery\u201d good & cheap"
        for n in numbers
    ]
    assert (data['item'].x_text.numpy() == HashingTextEncoder()(texts)).all()
    assert 'has_image' not in data['item'] and 'has_text' not in data['item']
    table = np.loadtxt(next((root / 'processed').glob('*/baby.inter')), skiprows=1)
    assert table[:, 3].tolist() == [1_300_000_000 + 86_400 * n for n in range(len(pairs))]
    pickle.loads(pickle.dumps(dataset))  # for loaders with workers


def test_amazon_reviews_are_prepared_once_for_each_choice(published, monkeypatch):
    root, _ = published
    first = AmazonReviews(root, 'Baby', **QUICK)
    other = AmazonReviews(root, 'Baby', seed=1, modalities=['text'], **QUICK)
    assert data_hash(first[0]) != data_hash(other[0])
    assert len(list((root / 'processed').iterdir())) == 2
    module = importlib.import_module('mrdib_pyg.datasets.amazon')
    monkeypatch.setattr(module, 'prepare', None)
    again = AmazonReviews(root, 'Baby', **QUICK)
    assert data_hash(again[0]) == data_hash(first[0])
    assert again.report.to_dict() == first.report.to_dict()
    with pytest.raises(TypeError):  # since `prepare` is gone
        AmazonReviews(root, 'Baby', force_reload=True, **QUICK)
    InteractionFolder(again.folder)


def test_amazon_reviews_with_timestamps(raw):
    data = AmazonReviews(raw, 'Baby', modalities=[], timestamps=True)[0]
    time = np.concatenate([store.time.numpy() for store in data.edge_stores])
    assert (np.sort(time) == 1_300_000_000 + 86_400 * np.arange(96)).all()


def test_amazon_reviews_of_other_inputs(raw):
    calls = []

    def data(encoder, **kwargs):
        return AmazonReviews(raw, 'Baby', modalities=['text'], text_encoder=encoder, **kwargs)[0]

    def named(texts):
        calls.append(len(texts))
        return np.full((len(texts), 2), 3.0)

    # One function cannot be told from another.
    assert data(lambda texts: np.ones((len(texts), 2)))['item'].x_text[0, 0] == 1
    with pytest.warns(UserWarning, match="prepared anew.*an attribute 'name'"):
        assert data(lambda texts: np.full((len(texts), 2), 2))['item'].x_text[0, 0] == 2
    named.name = 'mine'
    for _ in range(2):
        assert data(named)['item'].x_text[0, 0] == 3
    assert calls == [9]
    # Files that are gone contradict nothing; others of another size do.
    (raw / 'meta_Baby.json.gz').unlink()
    data(named)
    with open(raw / 'ratings_Baby.csv', 'a') as f:
        f.write(f'A-new,{item_id(0)},5.0,1\n')
    with pytest.raises(ValueError, match='another content of ratings_Baby.csv.*force_reload=True'):
        data(named)


def test_a_missing_text_encoder_fails_first(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sentence_transformers', None)
    with pytest.raises(ImportError, match='needs sentence-transformers'):
        prepare_amazon(tmp_path / 'none', 'Baby', tmp_path / 'out', download=False)
    with pytest.raises(FileNotFoundError, match='lacks'):
        prepare_amazon(
            tmp_path / 'none', 'Baby', tmp_path / 'out', download=False, modalities=['image']
        )


def test_another_core_encodes_nothing_anew(raw):
    seen = []

    def encoder(texts):
        seen.extend(texts)
        return np.ones((len(texts), 2))

    encoder.name = 'mine'
    for core in (5, 1, 6):
        prepare(raw, out=f'{core}', k_core=core, modalities=['text'], text_encoder=encoder)
    assert 0 < len(seen) == len(set(seen))
    assert all(p.name.startswith('text-') for p in (raw / 'cache').iterdir())


def test_categories():
    assert find_category('baby') == 'Baby'
    assert find_category('Sports') == 'Sports_and_Outdoors'
    assert find_category('Clothing') == 'Clothing_Shoes_and_Jewelry'
    assert find_category('cell phones') == 'Cell_Phones_and_Accessories'
    assert find_category('Electronics') == 'Electronics'
    assert find_category('My_Own') == 'My_Own'
    with pytest.raises(ValueError, match='Beauty or Books'):
        find_category('B')
    for name in ('', '../Baby', 'a/b', 'Baby.csv', 'é', 'x' * 101):
        with pytest.raises(ValueError, match="'name' needs to be a category"):
            find_category(name)
    assert list(raw_files('Baby')) == [
        'ratings_Baby.csv', 'meta_Baby.json.gz', 'image_features_Baby.b'
    ]  # fmt: skip
    assert list(raw_files('Baby', [])) == ['ratings_Baby.csv']
    for address in raw_files('Baby').values():
        assert address.startswith('https://snap.stanford.edu/data/amazon/productGraph/')


def test_raw_files_with_faults_that_are_survived(raw):
    items = [item_id(n) for n in range(9)]
    write_meta(raw / 'meta_Baby.json.gz', [
        meta_line(items[0], 'First'),
        meta_line(items[0], 'Second'),  # a repeated record
        meta_line('B999999999', 'Of no rating'),
        meta_line(items[1])[:-1],  # torn
        "{'asin': '" + items[2] + "', 'title': __import__('os').system('x')}",
        '', 'garbage', '{}', "{'asin': 5}",
        "{'asin': '" + items[3] + "', 'title': 'x" + 'y' * files.LINE + "'}",  # too long
        "{'asin': '" + items[4] + "', 'title': " + '[' * 100 + ']' * 100 + '}',
        meta_line(items[5], 'Caf\u00e9 \U0001f600 \u4f60\u597d'),
        '{"asin": "' + items[6] + '", "title": "as JSON \\u00e9", "price": null}',
        "{'title': u'named last \\xe9', 'asin': u'" + items[7] + "'}",
        meta_line(items[8], ''),  # no text
    ])  # fmt: skip
    broken = features(1)
    broken[7] = np.nan
    (raw / 'image_features_Baby.b').write_bytes(
        record(items[0], features(0)) + record(items[0], features(5))  # a repeated record
        + record('B999999999', features(3)) + record(items[1], broken)
        + record(items[2], features(2))
    )  # fmt: skip
    seen = []

    def encoder(texts):
        seen.extend(texts)
        return np.ones((len(texts), 2))

    report = prepare(raw, text_encoder=encoder)
    ids = IdMap.load(raw / 'out', 'item')
    assert sorted(seen) == sorted(
        ['First', 'Caf\u00e9 \U0001f600 \u4f60\u597d', 'as JSON \u00e9', 'named last \u00e9']
    )
    assert report.modalities['text']['notes'] == {
        'lines of the metadata are broken': 7,
        'lines repeat an item': 1,
        'items are not in the metadata': 4,
    }
    assert report.modalities['image']['notes'] == {
        'records are of items that are not kept': 1,
        'records repeat an item': 1,
        'vectors hold NaN or infinity and count as missing': 1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        item = InteractionFolder(raw / 'out')[0]['item']
    assert {ids[i] for i in item.has_image.nonzero().view(-1).tolist()} == {items[0], items[2]}
    assert (item.x_image[ids.index(items[0])].numpy() == features(0)).all()
    assert (item.x_image[~item.has_image] == 0).all()
    assert item.has_text.sum() == 4
    assert 'image: 2 items have it, 4096 channels; 1 records' in str(report)


@pytest.mark.parametrize('modality', ['image', 'text'])
def test_columns_in_another_order_are_refused(raw, modality):
    path = raw / 'ratings_Baby.csv'
    rows = [line.split(',') for line in path.read_text().splitlines()]
    path.write_text(''.join(f'{i},{u},{r},{t}\n' for u, i, r, t in rows))
    with pytest.raises(ValueError, match=f'0 of 12 items have .* {modality}.*user, item, rating'):
        prepare(raw, modalities=[modality])
    assert not (raw / 'out').exists()


def test_mean_filling(raw):
    items = [item_id(n) for n in range(9)]
    (raw / 'image_features_Baby.b').write_bytes(
        record(items[0], features(0)) + record(items[4], features(4))
    )
    prepare(raw, fill='mean', modalities=['image'])
    x = np.load(raw / 'out' / 'image_feat.npy')
    ids = IdMap.load(raw / 'out', 'item')
    assert not (raw / 'out' / 'image_mask.npy').exists()
    assert np.allclose(x[ids.index(items[1])], (features(0) + features(4)) / 2, atol=1e-6)
    assert (x[ids.index(items[4])] == features(4)).all()


def test_duplicates_k_core_and_rating(raw):
    path = raw / 'ratings_Baby.csv'
    lines = path.read_text().splitlines()
    once = [f'A-once,{item_id(0)},5.0,1', f'A-twice,{item_id(0)},5.0,1']
    path.write_text('\n'.join([*lines, lines[0], *once, once[1], 'torn']) + '\n')
    report = prepare(raw)
    assert report.num_rows == len(lines) + 5
    assert report.dropped == {
        'without an item id (item)': 1,
        'that repeat a pair of user and item': 2,
        'of users or items with fewer than 5 (5-core)': 2,
    }
    assert report.kept['users'] == 12
    report = prepare(raw, out='high', k_core=1, min_rating=4)
    ratings = [float(line.split(',')[2]) for line in lines]
    assert report.kept['interactions'] == sum(r >= 4 for r in ratings) + 2


def short(number):
    return str(number).rjust(9, '0').encode()


def test_ids_of_nine_bytes(raw):
    """Filled up to ten they are read; without, every later record is shifted, which is noticed."""
    path = raw / 'ratings_Baby.csv'
    path.write_text(path.read_text().replace(item_id(3), short(3).decode()))
    good = [record(item_id(n), features(n)) for n in range(9)]
    for filled in (b'\0', b' '):
        good[3] = record(short(3) + filled, features(3))
        (raw / 'image_features_Baby.b').write_bytes(b''.join(good))
        prepare(raw, out=f'out{ord(filled)}', modalities=['image'])
        ids = IdMap.load(raw / f'out{ord(filled)}', 'item')
        x = np.load(raw / f'out{ord(filled)}' / 'image_feat.npy')
        assert (x[ids.index(short(3).decode())] == features(3)).all()
    good[3] = short(3) + features(3).tobytes()
    (raw / 'image_features_Baby.b').write_bytes(b''.join(good))
    with pytest.raises(ValueError, match='an id does not have 10 bytes.*download it again'):
        prepare(raw, modalities=['image'])
    (raw / 'image_features_Baby.b').write_bytes(b''.join(good) + b'\0')
    with pytest.raises(ValueError, match=r'record [4-8] \(byte \d+\) has no item id'):
        prepare(raw, modalities=['image'])
    assert not (raw / 'out').exists()


@pytest.mark.parametrize('name', ['ratings_Baby.csv', 'meta_Baby.json.gz', 'image_features_Baby.b'])
def test_files_cut_short(raw, name):
    path = raw / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f'{name}.*(cut short|damaged).*download it again'):
        prepare(raw)
    assert not (raw / 'out').exists()
    path.write_bytes(b'')
    with pytest.raises(ValueError):
        prepare(raw)


def test_metadata_without_compression(raw):
    path = raw / 'meta_Baby.json.gz'
    packed = prepare(raw, modalities=['text']).to_dict()
    path.write_bytes(gzip.decompress(path.read_bytes()))
    plain = prepare(raw, out='plain', modalities=['text']).to_dict()
    assert packed['settings'].pop('inputs') != plain['settings'].pop('inputs')
    assert plain == packed


def test_missing_files(tmp_path, raw):
    with pytest.raises(FileNotFoundError) as info:
        prepare_amazon(tmp_path / 'none', 'Sports', tmp_path / 'x', download=False, **QUICK)
    for name in raw_files('Sports_and_Outdoors'):
        assert name in str(info.value)
    assert str(tmp_path / 'none' / 'raw') in str(info.value)
    (raw / 'meta_Baby.json.gz').unlink()
    with pytest.raises(FileNotFoundError, match=f"'{raw}' lacks meta_Baby.json.gz. Please put"):
        prepare(raw)
    with pytest.raises(FileNotFoundError, match='could not be downloaded.*Please put there'):
        prepare_amazon(tmp_path / 'n', 'Baby', tmp_path / 'x', url='http://127.0.0.1:9', **QUICK)
    assert not (tmp_path / 'n').exists() and not (tmp_path / 'x').exists()
    with pytest.raises(ValueError, match="'modalities' needs to be of"):
        prepare(raw, modalities=['audio'])


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(raw):
    handler = functools.partial(Quiet, directory=str(raw))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_download(tmp_path, raw, mirror):
    dataset = AmazonReviews(tmp_path / 'root', url=mirror, **QUICK)
    assert sorted(p.name for p in (tmp_path / 'root' / 'raw').iterdir()) == sorted(
        raw_files('Baby')
    )
    assert dataset.report.settings['inputs'] == {
        name: (raw / name).stat().st_size for name in raw_files('Baby')
    }
    assert data_hash(dataset[0]) == data_hash(AmazonReviews(raw, **QUICK)[0])


@pytest.mark.parametrize('name', ['ratings_Baby.csv', 'meta_Baby.json.gz', 'image_features_Baby.b'])
@pytest.mark.parametrize('fault', ['short', 'page', 'empty'])
def test_downloads_are_checked(tmp_path, raw, mirror, name, fault):
    """The server itself may have a faulty file: the number of bytes does not tell."""
    whole = (raw / name).read_bytes()
    page = b'<html>Please come back later</html>\n'
    (raw / name).write_bytes({'short': whole[:-7], 'page': page, 'empty': b''}[fault])
    with pytest.raises(FileNotFoundError, match=f'lacks.*{name}.*is not complete or damaged'):
        AmazonReviews(tmp_path / 'root', url=mirror, **QUICK)
    assert not list(tmp_path.glob(f'root/raw/{name}*'))
    (raw / name).write_bytes(whole)
    AmazonReviews(tmp_path / 'root', url=mirror, **QUICK)


def test_a_table_without_a_last_line_end_is_complete(raw):
    path = raw / 'ratings_Baby.csv'
    path.write_bytes(path.read_bytes().rstrip(b'\n'))
    files.check_download(path.name, path)
    (raw / 'plain').write_text(meta_line(item_id(1)))
    files.check_download('meta_Baby.json.gz', raw / 'plain')


def test_memory_is_that_of_the_items_that_are_kept(raw, monkeypatch):
    """However many others there are, a batch of records is all that is read at a time."""
    largest = 0
    original = np.fromfile

    def spy(file, dtype, count):
        nonlocal largest
        largest = max(largest, count * dtype.itemsize)
        return original(file, dtype, count)

    with open(raw / 'image_features_Baby.b', 'ab') as f:
        for n in range(300):
            f.write(record(item_id(1000 + n), features(0)))
    monkeypatch.setattr(np, 'fromfile', spy)
    report = prepare(raw, modalities=['image'])
    assert np.load(raw / 'out' / 'image_feat.npy').shape == (9, 4096)
    assert report.modalities['image']['notes'] == {'records are of items that are not kept': 300}
    assert 0 < largest < 5_000_000


def test_from_raw_files_to_a_trained_model(published, tmp_path, capsys):
    root, _ = published
    out = tmp_path / 'baby'
    argv = ['prepare', 'amazon', '--category', 'Baby', '--root', root, '--out', out]
    argv = [*map(str, argv), '--text-encoder', 'hashing', '--no-download', '--quiet']
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert '320 rows of ratings_Baby.csv' in text and f'wrote {out}' in text
    run = str(tmp_path / 'run')
    argv = ['train', '--dataset', str(out), '--mrdib', '--epochs', '1', '--quiet', '--out', run]
    assert main([*argv, '--set', 'channels=8', '--json']) == 0
    assert '"recall@20"' in capsys.readouterr().out
