"""Texts to features, by the encoder of the user's choice, and a cache of the results."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._text_store import TextStore
from mrdib_pyg.datasets.hashing_text_encoder import HashingTextEncoder
from mrdib_pyg.datasets.sentence_text_encoder import SentenceTextEncoder

Encoder = Callable[[Sequence[str]], Any]


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
