"""Texts to features, by the encoder of the user's choice, and a cache of the results."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._read import read_array
from mrdib_pyg.datasets._write import write_array
from mrdib_pyg.datasets.hashing_text_encoder import HashingTextEncoder
from mrdib_pyg.datasets.sentence_text_encoder import SentenceTextEncoder

Encoder = Callable[[Sequence[str]], Any]


def text_encoder(encoder: str | os.PathLike | Encoder, progress: bool = False) -> Encoder:
    r"""Returns the encoder of a name: ``'minilm'``, ``'hashing'``, else a sentence encoder's."""
    if callable(encoder):
        return encoder
    if encoder == 'hashing':
        return HashingTextEncoder()
    if encoder == 'minilm':
        return SentenceTextEncoder(progress=progress)
    return SentenceTextEncoder(encoder, progress=progress)


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
        cache_dir (Path, optional): Where arrays are kept, under a hash of the encoder's ``name``
            and of the texts; an encoder without a name is called every time.

    Returns:
        The features ``float32`` ``[num_items, F]``, zero where there is no text, and which items
        have one.
    """
    mask = np.array([bool(text) for text in texts], dtype=bool)
    there = [text for text in texts if text]
    if len(there) == 0:
        raise ValueError('none of the items has a text to encode. Please leave the text out')
    path = None
    name = getattr(encoder, 'name', None)
    if cache_dir is not None and isinstance(name, str):
        digest = hashlib.sha256(repr(name).encode('utf-8', 'replace'))
        for text in there:
            content = text.encode('utf-8', 'replace')
            digest.update(f'\n{len(content)} '.encode() + content)
        path = cache_dir / f'text-{digest.hexdigest()[:32]}.npy'
    vectors = None
    if path is not None and path.is_file():
        try:
            vectors = _check(np.array(read_array(path)), len(there))
        except ValueError:  # torn: encoded anew
            vectors = None
    if vectors is None:
        vectors = _check(np.asarray(encoder(there)), len(there))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_array(path, vectors)
    x = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
    x[mask] = vectors
    return x, mask


def _check(vectors: np.ndarray, num: int) -> np.ndarray:
    if vectors.ndim != 2 or len(vectors) != num or vectors.shape[1] == 0:
        raise ValueError(
            f'the text encoder returned the shape {list(vectors.shape)} for {num} texts, expected '
            f'[{num}, F]'
        )
    if vectors.dtype.kind not in 'fiu' or not np.isfinite(vectors).all():
        raise ValueError('the text encoder returned values that are no finite real numbers')
    return vectors.astype(np.float32)
