"""Texts to features: encoders, and a cache of their vectors."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._read import read_array
from mrdib_pyg.datasets._write import write_array

#: The sentence encoder that multimodal recommenders are mostly compared with.
MINILM = 'sentence-transformers/all-MiniLM-L6-v2'
Encoder = Callable[[Sequence[str]], Any]
_KEY = 16  # bytes


class HashingTextEncoder:
    r"""Turns texts into vectors by the words and pairs of words in them, as in `"Feature Hashing
    for Large Scale Multitask Learning" <https://arxiv.org/abs/0902.2206>`_: each goes to one of
    :obj:`channels` places, with a sign, by a fixed hash function; rows have unit length.

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
            n_features=self.channels, ngram_range=(1, 2), norm='l2', dtype=np.float32
        )
        return vectorizer.transform(texts).toarray()

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.channels})'


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
        r"""Loads the model, which its first call does otherwise.

        Raises:
            ImportError: If sentence-transformers is not installed.
            FileNotFoundError: If there is no such model, or it cannot be downloaded.
        """
        if self._encoder is not None:
            return
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as e:
            raise ImportError(
                f"the text encoder '{self.model}' needs sentence-transformers: pip install "
                f"'mrdib_pyg[text]', or encode by hashing"
            ) from e
        try:
            self._encoder = SentenceTransformer(self.model, device=self.device)
        except (OSError, ValueError) as e:
            reason = (str(e).splitlines() or [''])[0]
            raise FileNotFoundError(
                f"the text encoder '{self.model}' is no folder with a model and cannot be "
                f'downloaded ({reason}). Please name the folder of a model, or encode by hashing'
            ) from e

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.model!r})'


class TextStore:
    r"""The vectors of one encoder. Each call of :meth:`write` adds a file, which appears once it is
    complete, so several processes may write at a time; a damaged file counts as not there.

    Args:
        folder (Path): Where the files are; it is created when there is something to write.
        name (str): What identifies the encoder.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.prefix = f'text-{_digest(name).hex()[:16]}'

    def exists(self) -> bool:
        r"""Whether there are vectors of the encoder."""
        return any(self.folder.glob(f'{self.prefix}-*.npy'))

    def read(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        r"""Returns the vectors of texts, ``float32`` ``[N, F]``, and which of them are there."""
        rows: dict[bytes, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(_digest(text), []).append(row)
        x = np.zeros((len(texts), 0), dtype=np.float32)
        found = np.zeros(len(texts), dtype=bool)
        paths = self.folder.glob(f'{self.prefix}-*.npy')
        # The newest first: an encoder may have changed its width since.
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            try:
                array = read_array(path)
            except ValueError:
                continue
            if not _is_store(array):
                continue
            keys, vectors = array['key'].tobytes(), array['x']
            if x.shape[1] == 0:
                x = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
            if vectors.shape[1] != x.shape[1]:
                continue
            for place in range(len(array)):
                for row in rows.pop(keys[place * _KEY : (place + 1) * _KEY], ()):
                    x[row] = vectors[place]
                    found[row] = True
        return x, found & np.isfinite(x).all(axis=1)

    def write(self, texts: Sequence[str], x: np.ndarray) -> None:
        r"""Adds the vectors of texts, ``float32`` ``[N, F]``."""
        array = np.empty(len(texts), dtype=[('key', f'V{_KEY}'), ('x', '<f4', (x.shape[1],))])
        keys = b''.join(map(_digest, texts))
        array['key'] = np.frombuffer(keys, dtype=f'V{_KEY}')
        array['x'] = x
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(keys).hexdigest()[:16]
        write_array(self.folder / f'{self.prefix}-{name}.npy', array)


def _is_store(array: np.ndarray) -> bool:
    dtype = array.dtype
    if array.ndim != 1 or dtype.names != ('key', 'x'):
        return False
    x = dtype['x']
    return dtype['key'] == f'V{_KEY}' and x.base == np.float32 and x.ndim == 1 and x.shape[0] > 0


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()[:_KEY]


def text_encoder(
    encoder: str | os.PathLike | Encoder, progress: bool = False, cache_dir: Path | None = None
) -> Encoder:
    r"""Returns the encoder of a name: ``'minilm'``, ``'hashing'``, else a sentence encoder's.

    A sentence encoder is loaded at once, so that one that cannot be fails before anything is read,
    unless :obj:`cache_dir` has vectors of it: it may not be needed then.
    """
    if encoder == 'hashing':
        return HashingTextEncoder()
    if encoder == 'minilm':
        encoder = SentenceTextEncoder(progress=progress)
    elif not callable(encoder):
        encoder = SentenceTextEncoder(encoder, progress=progress)
    if isinstance(encoder, SentenceTextEncoder):
        if cache_dir is None or not TextStore(cache_dir, encoder.name).exists():
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
    texts: Sequence[str | None], encoder: Encoder, cache_dir: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""Encodes the texts that are there.

    Args:
        texts (List[str]): One for each item; :obj:`None` or empty if there is none.
        encoder (Callable): From a list of texts to an array ``[N, F]``.
        cache_dir (Path, optional): Where vectors are kept, each under a hash of the encoder's
            ``name`` and of its text: only texts that are new are encoded. An encoder without a
            name gets all texts every time.

    Returns:
        The features ``float32`` ``[num_items, F]``, zero where there is no text, and which items
        have one.
    """
    mask = np.array([bool(text) for text in texts], dtype=bool)
    there = [text for text in texts if text]
    if len(there) == 0:
        raise ValueError('none of the items has a text to encode. Please leave the text out')
    if cache_dir is not None and is_named(encoder):
        vectors = _encode_new(there, encoder, TextStore(cache_dir, describe_encoder(encoder)))
    else:
        vectors = _check(np.asarray(encoder(there)), len(there))
    x = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
    x[mask] = vectors
    return x, mask


def _encode_new(texts: list[str], encoder: Encoder, store: TextStore) -> np.ndarray:
    x, found = store.read(texts)
    if found.all():
        return x
    new = list(dict.fromkeys(text for text, there in zip(texts, found) if not there))
    vectors = _check(np.asarray(encoder(new)), len(new))
    if found.any() and vectors.shape[1] != x.shape[1]:  # kept vectors are of another encoder
        found[:] = False
        new = list(dict.fromkeys(texts))
        vectors = _check(np.asarray(encoder(new)), len(new))
    store.write(new, vectors)
    if not found.any():
        x = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
    rows = {text: row for row, text in enumerate(new)}
    x[~found] = vectors[[rows[text] for text, there in zip(texts, found) if not there]]
    return x


def _check(vectors: np.ndarray, num: int) -> np.ndarray:
    if vectors.ndim != 2 or len(vectors) != num or vectors.shape[1] == 0:
        raise ValueError(
            f'the text encoder returned the shape {list(vectors.shape)} for {num} texts, expected '
            f'[{num}, F]'
        )
    if vectors.dtype.kind not in 'fiu' or not np.isfinite(vectors).all():
        raise ValueError('the text encoder returned values that are no finite real numbers')
    return vectors.astype(np.float32)
