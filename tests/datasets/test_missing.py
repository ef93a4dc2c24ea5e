import numpy as np
import pandas as pd
import pytest

from mrdib_pyg.datasets.missing import MISSING_WORDS, is_missing


@pytest.mark.parametrize('word', sorted(MISSING_WORDS))
def test_words(word):
    for value in (word, f' {word}\n', word.encode(), bytearray(word, 'ascii'), np.str_(word)):
        assert is_missing(value)
    assert not is_missing(f'{word}x') and not is_missing(f'{word}x'.encode())


@pytest.mark.parametrize(
    'value',
    [None, float('nan'), np.float32('nan'), np.datetime64('NaT'), pd.NaT, pd.NA, '\u00a0 \t'],
    ids=repr,
)
def test_missing(value):
    assert is_missing(value) is True


@pytest.mark.parametrize(
    'value',
    [0, 0.0, False, float('inf'), 'Na', 'na', 'none', '0', '-', b'\0', [], {}, np.array([]),
     np.array([np.nan, 1.0]), object(), pd.Timestamp(0)],
    ids=repr,
)  # fmt: skip
def test_there(value):
    assert is_missing(value) is False
