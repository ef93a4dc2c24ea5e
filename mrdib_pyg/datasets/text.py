"""Texts to features: what counts as a text, encoders, and a cache of their vectors."""

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

#: The sentence encoder that multimodal recommenders are mostly compared with.
MINILM = 'sentence-transformers/all-MiniLM-L6-v2'
Encoder = Callable[[Sequence[str]], Any]

_KEY = 16  # bytes
# Written without blanks between words: kana, ideographs, Thai, Lao, Burmese, Tibetan, Khmer.
_NO_BLANKS = (
    r'\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff'
    r'\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff'
)


def as_text(value: Any) -> str:
    r"""Returns what a field holds as one line of text, ``''`` if it is missing
    (:func:`~mrdib_pyg.datasets.missing.is_missing`): bytes are decoded, the entries of a list,
    array, set or mapping joined by blanks.

    Raises:
        ValueError: If it is something else that prints only as its ``repr``.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value).rstrip(b'\0').decode('utf-8', 'replace')
    if isinstance(value, str):
        # Half of a surrogate pair could not be written.
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
    r"""Joins the fields of an item that are there."""
    return '. '.join(filter(None, map(as_text, fields)))


class HashingTextEncoder:
    r"""Turns texts into vectors by the words and pairs of words in them, as in `"Feature Hashing
    for Large Scale Multitask Learning" <https://arxiv.org/abs/0902.2206>`_: each goes to one of
    :obj:`channels` places, with a sign, by a fixed hash function; rows have unit length.

    Texts are brought to Unicode's form NFC and to lower case. In scripts without blanks between
    words, such as Chinese, Japanese and Thai, each character is a word.

    It learns nothing, downloads nothing and gives the same bits everywhere: for tests, for first
    tries, and as a baseline of what a sentence encoder brings.

    Args:
        channels (int, optional): The width of the vectors. (default: :obj:`384`)

    Shapes:
        - **input:** :obj:`N` texts
        - **output:** ``float32`` ``[N, channels]``, zero for a text without words
    """

    def __init__(self, channels: int = 384) -> None:
        if channels < 1:
            raise ValueError(f"'channels' needs to be positive (got {channels})")
        self.channels = channels

    @property
    def name(self) -> str:
        r"""What identifies it, for a cache of its vectors."""
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
    # A character's marks, such as the vowels of Thai and Hindi, are part of it, but not of `\w`.
    marks = ''.join(filter(lambda c: unicodedata.category(c)[0] == 'M', map(chr, range(0x1F000))))
    other = rf'[^\W{_NO_BLANKS}]'
    return re.compile(rf'(?=\w)[{_NO_BLANKS}][{marks}]*|{other}(?:{other}|[{marks}])*')


class SentenceTextEncoder:
    r"""Turns texts into vectors by a model of the `sentence-transformers
    <https://sbert.net>`_ library, which is the extra ``[text]``.

    Args:
        model (str, optional): The name of a model, which is downloaded once, or a folder that
            holds one. (default: :obj:`'sentence-transformers/all-MiniLM-L6-v2'`)
        batch_size (int, optional): The texts of one step. (default: :obj:`64`)
        device (str, optional): Where it runs. (default: :obj:`None`, CUDA where it is there)
        progress (bool, optional): Whether to show a progress bar. (default: :obj:`False`)

    Raises:
        ImportError: If sentence-transformers is not installed.
        FileNotFoundError: If there is no such model, or it cannot be downloaded.
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
        r"""What identifies it, for a cache of its vectors."""
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
        r"""Loads the model, which its first call does otherwise."""
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
                f'downloaded ({reason}). Please name the folder of a model, or encode by hashing'
            ) from e

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.model!r})'


def text_encoder(
    encoder: str | os.PathLike | Encoder, progress: bool = False, cache_dir: Path | None = None
) -> Encoder:
    r"""Returns the encoder of a name: ``'minilm'``, ``'hashing'``, else a sentence encoder's.

    A sentence encoder is loaded at once, so that one that cannot be fails before anything is read,
    unless :obj:`cache_dir` has vectors of it: it may not be needed then.
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
    r"""Whether the vectors of an encoder can be told from those of another one."""
    name = getattr(encoder, 'name', None)
    return not callable(encoder) or (isinstance(name, str) and name != '')


def describe_encoder(encoder: str | os.PathLike | Encoder) -> str:
    r"""An encoder in a word, for the settings of a report."""
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
    r"""Encodes the texts that are there, each once. A text whose vector is all zeros counts as
    missing.

    Args:
        texts (List[Any]): One for each item, as :func:`as_text` takes it.
        encoder (Callable): From a list of texts to an array ``[N, F]``.
        cache_dir (Path, optional): Where vectors are kept, each under a hash of the encoder's
            ``name`` and of its text: only texts that are new are encoded. An encoder without a
            name gets all texts every time. (default: :obj:`None`)
        notes (Dict[str, int], optional): Gets the number of texts that encode to nothing.
            (default: :obj:`None`)

    Returns:
        The features ``float32`` ``[num_items, F]``, zero where there is no text, and which items
        have one.

    Raises:
        ValueError: If no item has a text, or the encoder returns anything but finite numbers.
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
        raise ValueError('none of the items has a text that encodes to anything but zeros')
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
    raise ValueError('the text encoder returned values that are no finite real numbers')


def _encode_new(texts: list[str], encoder: Encoder, folder: Path) -> np.ndarray:
    r"""Encodes the texts that the cache lacks, and adds them. Each call adds a file, which appears
    once it is complete, so several processes may write at a time.
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
            # The kept ones are of another encoder of that name.
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
    r"""The vectors that are kept of an encoder, of the width of the newest. What does not match the
    hash in its name counts as not there.
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
