import os
import sys
import types
import unicodedata

import numpy as np
import pandas as pd
import pytest
import torch
from tables import NAMES, csv, refuse

from mrdib_pyg.cli import main
from mrdib_pyg.datasets import (
    HashingTextEncoder,
    InteractionTable,
    SentenceTextEncoder,
    prepare_table,
)
from mrdib_pyg.datasets.text import MINILM, as_text, encode_texts


def test_texts(tmp_path):
    items = pd.DataFrame(
        {'id': ['12', '007', '12', 'x y'], 'title': ['red\n car', None, 'late', ' '],
         'brand': ['A', 'B', 'C', None]}
    )  # fmt: skip
    seen = []

    def encoder(texts):
        seen.append(list(texts))
        return [[len(text), 1] for text in texts]

    out = tmp_path / 'out'
    report = prepare_table(
        csv(tmp_path), out, **NAMES, text=['title', 'brand'], items=items, item_id='id',
        text_encoder=encoder,
    )  # fmt: skip
    assert seen == [['B', 'red car. A']]
    assert np.load(out / 'text_feat.npy').tolist() == [[1, 1], [10, 1], [0, 0]]
    assert np.load(out / 'text_mask.npy').tolist() == [True, True, False]
    assert report.settings['text_encoder'].endswith('encoder')
    # The columns of the interactions themselves: the first text of an item counts.
    text = 'user,item,title\na,1,\nb,1,car\na,2,boat\nc,1,other\n'
    prepare_table(
        csv(tmp_path, text), tmp_path / 'own', **NAMES, text='title', text_encoder=encoder
    )
    assert seen[1] == ['car', 'boat']


class Encoder:
    """The number of characters, and what it was asked."""

    name, width = 'mine', 2

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        return np.array([[len(text)] * self.width for text in texts])


def test_each_text_is_encoded_once(tmp_path):
    text = 'user,item,title\na,1,x\nb,2,yy\nc,3,x\n'
    encoder, cache = Encoder(), tmp_path / 'a' / 'cache'

    def prepare(text=text):
        prepare_table(
            csv(tmp_path, text), tmp_path / 'out', **NAMES, text='title', text_encoder=encoder,
            cache_dir=cache, force=True,
        )  # fmt: skip
        x = np.load(tmp_path / 'out' / 'text_feat.npy')
        assert x.dtype == np.float32
        return x.tolist()

    assert prepare() == prepare() == [[1, 1], [2, 2], [1, 1]]
    assert encoder.asked == [['x', 'yy']]
    # Another order, another core, a new text: only that is encoded.
    assert prepare('user,item,title\na,9,zzz\nb,2,yy\n') == [[3, 3], [2, 2]]
    assert encoder.asked[1:] == [['zzz']] and len(list(cache.iterdir())) == 2
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert prepare() == [[1, 1], [2, 2], [1, 1]]
    assert encoder.asked[2:] == [['x', 'yy']]
    encoder.name = 'other'
    prepare()
    assert encoder.asked[3:] == [['x', 'yy']]
    encoder.width = 3  # under the same name
    assert prepare('user,item,title\na,1,x\nb,2,new\n') == [[1] * 3, [3] * 3]
    assert encoder.asked[4:] == [['new'], ['x', 'new']]
    prepare('user,item,title\na,1,x\nb,2,new\n')
    assert len(encoder.asked) == 6
    # What is no file of vectors of this encoder is left alone.
    (file, *_) = sorted(cache.iterdir())
    for array in (np.ones(3), np.zeros(2, [('key', 'V16'), ('x', 'f4')])):
        np.save(file.with_name(file.name[:-8] + '0.npy'), array)
    prepare('user,item,title\na,1,x\nb,2,new\n')
    assert len(encoder.asked) == 6 and not list(cache.glob('*.part'))


def test_vectors_that_were_changed_are_not_used(tmp_path):
    encoder, cache = Encoder(), tmp_path / 'cache'
    x, _ = encode_texts(['car', 'boat'], encoder, cache)
    (path,) = cache.iterdir()
    array = np.load(path)
    array['x'] += 1
    np.save(path, array)
    assert encode_texts(['car', 'boat'], encoder, cache)[0].tolist() == x.tolist()
    assert len(encoder.asked) == 2
    if hasattr(os, 'mkfifo'):
        path.unlink()
        os.mkfifo(path)  # which would be read forever
        assert encode_texts(['car', 'boat'], encoder, cache)[0].tolist() == x.tolist()
        assert path.is_file()


class Column:
    """As an Arrow scalar, which is no Python object yet."""

    def as_py(self):
        return ['Baby', None, 'Cups']


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (['Baby', 'Cups'], 'Baby Cups'),
        ([['Baby', 'Cups'], ['Toys']], 'Baby Cups Toys'),
        (('a', None, 'NULL', b'b', 3), 'a b 3'),
        (np.array(['red', 'cup']), 'red cup'),
        (np.array([['red', None], ['x', float('nan')]], dtype=object), 'red x'),
        (np.array([f'w{n}' for n in range(1500)]), ' '.join(f'w{n}' for n in range(1500))),
        (pd.Series(['a', 'b']), 'a b'),
        (torch.tensor([1, 2]), '1 2'),
        ({'en': 'cup', 'fr': ['tasse']}, 'cup tasse'),
        ({'b', 'a'}, 'a b'),
        (Column(), 'Baby Cups'),
        (b'red  cup\n', 'red cup'), (bytearray(b'x'), 'x'), (np.bytes_(b'x'), 'x'),
        (b'caf\xc3\xa9\0\0', 'caf\u00e9'), (b'\xff', '\ufffd'), ('\ud800', '?'),
        (5, '5'), (2.5, '2.5'), (np.float32(0.5), '0.5'), (True, 'True'),
        (np.datetime64('2024-01-02'), '2024-01-02'),
        ([], ''), ((), ''), ({}, ''), ([[], [None]], ''), (np.array([]), ''), (b'', ''),
        (None, ''), (float('nan'), ''), (pd.NA, ''), (pd.NaT, ''), (np.datetime64('NaT'), ''),
        (' \t', ''), (b' NULL ', ''), ('nanny', 'nanny'), ('Na', 'Na'),
    ],
    ids=str,
)  # fmt: skip
def test_as_text(value, text):
    assert as_text(value) == text


def test_a_text_is_never_a_repr():
    class Picture:
        pass

    for value in (Picture(), [Picture()]):
        with pytest.raises(ValueError, match=r'must be a string.*Picture'):
            as_text(value)


def test_texts_that_encode_to_nothing_are_missing():
    notes = {}
    x, mask = encode_texts(
        ['red', '!!!', '\U0001f44d\ufe0f', None, ['blue'], 'red'],
        HashingTextEncoder(8),
        notes=notes,
    )
    assert mask.tolist() == [True, False, False, False, True, True]
    assert x.any(axis=1).tolist() == mask.tolist() and list(notes.values()) == [2]
    for texts in (['!!!'], [None, [], 'NULL']):
        with pytest.raises(ValueError, match='none of the items has a text'):
            encode_texts(texts, HashingTextEncoder(8))


def test_interaction_table_keeps_vectors_of_texts(tmp_path):
    table = pd.DataFrame({'user': [1, 2], 'item': [1, 2], 'title': ['car', 'boat']})
    encoder = Encoder()
    for seed in (0, 1):
        InteractionTable(
            tmp_path / f'{seed}', table, **NAMES, text='title', text_encoder=encoder, seed=seed,
            cache_dir=tmp_path / 'cache',
        )  # fmt: skip
    assert encoder.asked == [['car', 'boat']]


def test_command_keeps_vectors_of_texts(tmp_path, capsys, monkeypatch):
    path = csv(tmp_path, 'user,item,title\na,1,x\nb,2,yy\n')
    asked = []
    call = HashingTextEncoder.__call__
    monkeypatch.setattr(
        HashingTextEncoder, '__call__', lambda self, texts: asked.append(texts) or call(self, texts)
    )
    for out in ('a', 'b'):
        argv = ['prepare', 'table', path, '--user', 'user', '--item', 'item', '--text', 'title']
        argv += ['--text-encoder', 'hashing', '--cache', tmp_path / 'c', '--out', tmp_path / out]
        assert main([*map(str, argv), '--quiet']) == 0
    assert asked == [['x', 'yy']] and len(list((tmp_path / 'c').iterdir())) == 1
    capsys.readouterr()


class Sentences:
    """Stands for `SentenceTransformer`, which downloads a model."""

    def __init__(self, model, device=None):
        if 'none' in model:
            raise OSError(f'{model} is not a local folder\nand so on')
        self.model, self.device = model, device

    def encode(self, texts, batch_size, show_progress_bar, convert_to_numpy):
        assert isinstance(texts, list) and convert_to_numpy
        return np.array([[len(text), batch_size, show_progress_bar] for text in texts], 'f4')


def test_sentence_text_encoder(tmp_path, monkeypatch):
    module = types.SimpleNamespace(SentenceTransformer=Sentences)
    monkeypatch.setitem(sys.modules, 'sentence_transformers', module)
    encoder = SentenceTextEncoder('~/m', batch_size=7, device='cpu', progress=True)
    assert encoder(('a', 'bc')).tolist() == [[1, 7, 1], [2, 7, 1]]
    assert encoder._encoder.model == os.path.expanduser('~/m')
    assert encoder._encoder.device == 'cpu' and encoder.name.startswith('sentence-/')
    assert str(SentenceTextEncoder()) == (
        "SentenceTextEncoder('sentence-transformers/all-MiniLM-L6-v2')"
    )
    table = pd.DataFrame({'user': [1, 2], 'item': [1, 2], 'title': ['car', 'boat']})
    for choice, progress in (('minilm', False), ('some/model', True)):
        prepare_table(
            table, tmp_path / choice, **NAMES, text='title', text_encoder=choice, progress=progress
        )  # fmt: skip
        x = np.load(tmp_path / choice / 'text_feat.npy')
        assert x.tolist() == [[3, 64, progress], [4, 64, progress]]


@pytest.mark.parametrize('fault', ['package', 'model'])
def test_sentence_encoders_fail_before_anything_is_read(tmp_path, monkeypatch, fault):
    module = None if fault == 'package' else types.SimpleNamespace(SentenceTransformer=Sentences)
    monkeypatch.setitem(sys.modules, 'sentence_transformers', module)
    error, message = {
        'package': (ImportError, r"needs sentence-transformers: pip install 'mrdib_pyg\[text\]'"),
        'model': (FileNotFoundError, r'cannot be downloaded \(none is not a local folder\)'),
    }[fault]
    path = csv(tmp_path, b'\xff')  # would be refused
    options = {} if fault == 'package' else {'text_encoder': 'none'}
    refuse(tmp_path, message, error, path, text='title', **options)
    refuse(tmp_path, message, error, path, text='title', **options, cache_dir=tmp_path / 'c')
    refuse(tmp_path, 'no row of names', ValueError, path)
    # Where all vectors are there, it is not needed.
    table = pd.DataFrame({'user': [1], 'item': [1], 'title': ['car']})
    name = SentenceTextEncoder(options.get('text_encoder', MINILM)).name
    encoder = Encoder()
    encoder.name = name
    encode_texts(['car'], encoder, tmp_path / 'c')
    prepare_table(
        table, tmp_path / 'out', **NAMES, text='title', **options, cache_dir=tmp_path / 'c'
    )
    assert np.load(tmp_path / 'out' / 'text_feat.npy').tolist() == [[3, 3]]


def test_hashing_text_encoder():
    encoder = HashingTextEncoder(64)
    assert str(encoder) == 'HashingTextEncoder(64)' and encoder.name == 'hashing-64'
    x = encoder(['red wooden car', 'red wooden car', 'blue toy', '', 'wooden car red'])
    assert x.shape == (5, 64) and x.dtype == np.float32
    assert np.allclose(np.linalg.norm(x, axis=1), [1, 1, 1, 0, 1])
    assert (x[0] == x[1]).all() and x[0] @ x[4] > 0.5 > x[0] @ x[2]
    with pytest.raises(ValueError, match=r"'channels' must be positive \(got"):
        HashingTextEncoder(0)


def test_hashing_keeps_the_vectors_of_words_of_two_letters():
    from sklearn.feature_extraction.text import HashingVectorizer

    rng = np.random.default_rng(0)
    letters = list('abcXYZ019_')
    texts = [
        ' '.join(''.join(rng.choice(letters, rng.integers(2, 7))) for _ in range(12))
        + rng.choice(['', '!', ' -- ', ' (ok)'])
        for _ in range(50)
    ] + ['café über', 'чай красный']
    before = HashingVectorizer(n_features=384, ngram_range=(1, 2), norm='l2', dtype=np.float32)
    assert (HashingTextEncoder()(texts) == before.transform(texts).toarray()).all()


@pytest.mark.parametrize(
    'texts',
    [
        ('C++', 'C#', 'R'),
        ('红色连衣裙', '蓝色连衣裙', '手机'),
        ('赤いドレス', '青いドレス', '本'),
        ('ชุดสีแดง', 'ชุดสีฟ้า', 'บ้าน'),
        ('हिन्दी किताब', 'हिन्दी', 'घर'),
    ],
    ids=['letters', 'Chinese', 'Japanese', 'Thai', 'Hindi'],
)  # fmt: skip
def test_hashing_of_other_scripts(texts):
    """No text vanishes, and texts that share a part are nearer than those that share none."""
    x = HashingTextEncoder(4096)(texts)
    assert np.allclose(np.linalg.norm(x, axis=1), 1)
    assert x[0] @ x[1] > 0.3 > abs(x[0] @ x[2])


def test_hashing_of_unicode_forms():
    encoder = HashingTextEncoder(4096)
    for text in ('café', '한국어', 'が', 'İstanbul'):
        x = encoder([unicodedata.normalize(form, text) for form in ('NFC', 'NFD')])
        assert (x[0] == x[1]).all() and x.any()
    x = encoder(['कि', 'की', 'iPhone手机', 'iphone'])
    assert abs(x[0] @ x[1]) < 0.5 < x[2] @ x[3] + 0.1  # vowels count; scripts part
