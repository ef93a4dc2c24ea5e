from collections.abc import Sequence

import numpy as np


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
