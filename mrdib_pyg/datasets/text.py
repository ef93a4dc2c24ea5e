"""Texts to features: conversion to text, encoders, and a cache of their vectors."""

import hashlib
import numbers
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._read import as_array, read_array
from mrdib_pyg.datasets.missing import is_missing
from mrdib_pyg.files import remove_special, write_array

#: The usual sentence encoder of multimodal recommenders.
MINILM = 'sentence-transformers/all-MiniLM-L6-v2'
Encoder = Callable[[Sequence[str]], Any]

_KEY = 16  # bytes
# Scripts without blanks: kana, ideographs, Thai, Lao, Burmese, Tibetan, Khmer.
_NO_BLANKS = (
    r'\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff'
    r'\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff'
)


def as_text(value: Any) -> str:
    r"""Converts a field to one line of text, ``''`` if it is missing. Bytes are decoded, and the
    entries of a list, array, set or mapping joined by blanks. Objects without a text of their own
    raise :class:`ValueError`.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value).rstrip(b'\0').decode('utf-8', 'replace')
    if isinstance(value, str):
        # Half of a surrogate pair cannot be written.
        text = ' '.join(value.split()).encode('utf-8', 'replace').decode('utf-8')
        return '' if is_missing(text) else text
    for convert in ('tolist', 'to_pylist', 'as_py'):  # arrays, tensors, series; Arrow's
        if hasattr(value, convert):
            return as_text(getattr(value, convert)())
    if is_missing(value):
        return ''
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, Iterable):
        entries = list(filter(None, map(as_text, value)))
        return ' '.join(sorted(entries) if isinstance(value, (set, frozenset)) else entries)
    if not isinstance(value, numbers.Number) and type(value).__str__ is object.__str__:
        raise ValueError(
            f'a text must be a string, bytes, a number, or a list of these (got '
            f'{type(value).__qualname__})'
        )
    return as_text(str(value))


def join_text(fields: Iterable[Any]) -> str:
    r"""Joins the fields of an item without the missing ones."""
    return '. '.join(filter(None, map(as_text, fields)))


class HashingTextEncoder:
    r"""Hashes the words and word pairs of a text to signed places of a vector of unit length, as in
    `"Feature Hashing for Large Scale Multitask Learning" <https://arxiv.org/abs/0902.2206>`_.

    Texts are brought to Unicode's form NFC and to lower case. In scripts without blanks between
    words, such as Chinese, Japanese and Thai, each character is a word.

    It learns nothing, downloads nothing and gives the same bits everywhere. Use it for tests and
    first tries, and as a baseline for sentence encoders.

    Args:
        channels (int, optional): The width of the vectors. (default: :obj:`384`)

    Shapes:
        - **input:** :obj:`N` texts
        - **output:** ``float32`` ``[N, channels]``, zero for a text without words
    """

    def __init__(self, channels: int = 384) -> None:
        if channels < 1:
            raise ValueError(f"'channels' must be positive (got {channels})")
        self.channels = channels

    @property
    def name(self) -> str:
        r"""The key of the encoder in a cache of vectors."""
        return f'hashing-{self.channels}'

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        from sklearn.feature_extraction.text import HashingVectorizer

        vectorizer = HashingVectorizer(
            n_features=self.channels, ngram_range=(1, 2), norm='l2', dtype=np.float32,
            preprocessor=_normalize, tokenizer=_words, token_pattern=None,
        )  # fmt: skip
        return vectorizer.transform(texts).toarray()

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.channels})'


def _normalize(text: str) -> str:
    return unicodedata.normalize('NFC', unicodedata.normalize('NFC', text).lower())


def _words(text: str) -> list[str]:
    return re.findall(r'\w+', text) if text.isascii() else _pattern().findall(text)


@cache
def _pattern() -> re.Pattern[str]:
    # `\w` lacks the marks of a character, such as the vowels of Thai and Hindi.
    marks = ''.join(filter(lambda c: unicodedata.category(c)[0] == 'M', map(chr, range(0x1F000))))
    other = rf'[^\W{_NO_BLANKS}]'
    return re.compile(rf'(?=\w)[{_NO_BLANKS}][{marks}]*|{other}(?:{other}|[{marks}])*')


class SentenceTextEncoder:
    r"""Turns texts into vectors by a model of the `sentence-transformers
    <https://sbert.net>`_ library, which is the extra ``[text]``.

    Args:
        model (str, optional): The name of a model, which is downloaded once, or the folder of one.
            (default: :obj:`'sentence-transformers/all-MiniLM-L6-v2'`)
        batch_size (int, optional): The number of texts per step. (default: :obj:`64`)
        device (str, optional): The device. (default: :obj:`None`, CUDA if available)
        progress (bool, optional): Whether to show a progress bar. (default: :obj:`False`)

    Raises:
        ImportError: If sentence-transformers is not installed.
        FileNotFoundError: If the model does not exist or cannot be downloaded.
    """

    def __init__(
        self,
        model: str | os.PathLike = MINILM,
        batch_size: int = 64,
        device: str | None = None,
        progress: bool = False,
    ) -> None:
        self.model = os.path.expanduser(os.fspath(model))
        self.batch_size, self.device, self.progress = batch_size, device, progress
        self._encoder: Any = None

    @property
    def name(self) -> str:
        r"""The key of the encoder in a cache of vectors."""
        return f'sentence-{self.model}'

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.load()
        return self._encoder.encode(
            list(texts),
            batch_size=self.batch_size,
            show_progress_bar=self.progress,
            convert_to_numpy=True,
        )

    def load(self) -> None:
        r"""Loads the model before its first call."""
        if self._encoder is not None:
            return
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as e:
            raise ImportError(
                f'the text encoder {self.model!r} needs sentence-transformers: pip install '
                f"'mrdib_pyg[text]', or encode by hashing"
            ) from e
        try:
            self._encoder = SentenceTransformer(self.model, device=self.device)
        except (OSError, ValueError) as e:
            reason = (str(e).splitlines() or [''])[0]
            raise FileNotFoundError(
                f'the text encoder {self.model!r} is no folder with a model and cannot be '
                f'downloaded ({reason}); name the folder of a model, or encode by hashing'
            ) from e

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.model!r})'


def text_encoder(
    encoder: str | os.PathLike | Encoder, progress: bool = False, cache_dir: Path | None = None
) -> Encoder:
    r"""Returns an encoder by name: ``'minilm'``, ``'hashing'`` or that of a sentence encoder, which
    is loaded at once to fail early, unless :obj:`cache_dir` has vectors of it.
    """
    if encoder == 'hashing':
        return HashingTextEncoder()
    if not callable(encoder):
        encoder = SentenceTextEncoder(MINILM if encoder == 'minilm' else encoder, progress=progress)
    if isinstance(encoder, SentenceTextEncoder):
        if cache_dir is None or not _kept(cache_dir, encoder.name):
            encoder.load()
    return encoder


def is_named(encoder: Any) -> bool:
    r"""Whether an encoder has a name, by which its vectors can be cached."""
    name = getattr(encoder, 'name', None)
    return not callable(encoder) or (isinstance(name, str) and name != '')


def describe_encoder(encoder: str | os.PathLike | Encoder) -> str:
    r"""The name of an encoder, for a report."""
    if not callable(encoder):
        return os.fspath(encoder)
    if is_named(encoder):
        return str(encoder.name)  # type: ignore[attr-defined]
    return f'function {getattr(encoder, "__qualname__", type(encoder).__qualname__)}'


def encode_texts(
    texts: Sequence[Any],
    encoder: Encoder,
    cache_dir: Path | None = None,
    notes: dict[str, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Encodes each different text once, to features ``float32`` ``[num_items, F]`` (zero without a
    text) and the mask of items with a text. A text whose vector is all zeros counts as missing, and
    its count goes to :obj:`notes`. :obj:`cache_dir` keeps the vectors of encoders with a name.
    """
    found = list(map(as_text, texts))
    rows = {text: row for row, text in enumerate(dict.fromkeys(filter(None, found)))}
    if len(rows) == 0:
        raise ValueError('none of the items has a text to encode; leave the text out')
    if cache_dir is not None and is_named(encoder):
        vectors = _encode_new(list(rows), encoder, cache_dir)
    else:
        vectors = _encode(list(rows), encoder)
    mask = np.array([text != '' for text in found])
    x = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
    x[mask] = vectors[[rows[text] for text in found if text]]
    has = mask & x.any(axis=1)
    if not has.any():
        raise ValueError('none of the items has a text with a vector other than zeros')
    if notes is not None and (mask & ~has).any():
        notes['texts encode to zeros and count as missing'] = int((mask & ~has).sum())
    return x, has


def _encode(texts: list[str], encoder: Encoder) -> np.ndarray:
    vectors = as_array(encoder(texts))
    if vectors.ndim != 2 or len(vectors) != len(texts) or vectors.shape[1] == 0:
        raise ValueError(
            f'the text encoder returned the shape {list(vectors.shape)} for {len(texts)} texts, '
            f'expected [{len(texts)}, F]'
        )
    if vectors.dtype.kind in 'fiu':
        with np.errstate(over='ignore'):
            vectors = vectors.astype(np.float32)
        if np.isfinite(vectors).all():
            return vectors
    raise ValueError('the text encoder must return finite real numbers (got others)')


def _encode_new(texts: list[str], encoder: Encoder, folder: Path) -> np.ndarray:
    r"""Encodes the texts that the cache lacks. Each call adds a file atomically, so several
    processes may write at a time.
    """
    name = describe_encoder(encoder)
    keys = [hashlib.sha256(text.encode()).digest()[:_KEY] for text in texts]
    kept: dict[bytes, np.ndarray] = {}
    for array in _kept(folder, name):
        kept.update(zip(array['key'].tolist(), array['x']))
    new = [row for row, key in enumerate(keys) if key not in kept]
    if new:
        vectors = _encode([texts[row] for row in new], encoder)
        if any(kept[key].shape != vectors[0].shape for key in keys if key in kept):
            # The cached vectors are of another encoder of this name.
            new, vectors = list(range(len(texts))), _encode(texts, encoder)
        array = np.empty(len(new), [('key', f'V{_KEY}'), ('x', '<f4', vectors.shape[1:])])
        array['key'] = np.array([keys[row] for row in new], f'V{_KEY}')
        array['x'] = vectors
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _file_name(name, array)
        remove_special(path)
        write_array(path, array)
        kept.update(zip((keys[row] for row in new), vectors))
    return np.stack([kept[key] for key in keys])


def _kept(folder: Path, name: str) -> list[np.ndarray]:
    r"""The cached vectors of an encoder, of the width of the newest. Files that do not match the
    hash in their name are ignored.
    """
    found = []
    for path in folder.glob(f'{_prefix(name)}-*.npy'):
        try:
            array, time = read_array(path), path.stat().st_mtime_ns
        except (ValueError, OSError):
            continue
        if array.dtype.names == ('key', 'x') and path.name == _file_name(name, array):
            found.append((time, path.name, array))
    found.sort(key=lambda entry: entry[:2])
    return [array for *_, array in found if array.dtype == found[-1][2].dtype]


def _prefix(name: str) -> str:
    return f'text-{hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]}'


def _file_name(name: str, array: np.ndarray) -> str:
    digest = hashlib.sha256(f'{name}\n{array.dtype}\n'.encode('utf-8', 'surrogatepass'))
    digest.update(np.ascontiguousarray(array).data)
    return f'{_prefix(name)}-{digest.hexdigest()[:16]}.npy'
