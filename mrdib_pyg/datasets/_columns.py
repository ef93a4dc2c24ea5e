"""What a column of a data frame holds, whatever its type."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def to_numbers(column: 'pd.Series') -> np.ndarray:
    r"""Returns ``float64``, NaN for what is no number."""
    import pandas as pd

    if column.dtype.kind == 'c':
        column = column.astype(str)
    with np.errstate(all='ignore'):
        numbers = pd.to_numeric(column, errors='coerce')
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def present_in(column: 'pd.Series') -> np.ndarray:
    r"""Returns which entries there are: neither missing nor, of texts, empty."""
    present = column.notna().to_numpy(dtype=bool)
    if column.dtype.kind not in 'iufbM':
        present = present & (column != '').to_numpy(dtype=bool, na_value=False)
    return present
