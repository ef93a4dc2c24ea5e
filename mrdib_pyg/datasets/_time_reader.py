"""The times of a table that is read in pieces."""

import re
import warnings
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from mrdib_pyg.datasets._columns import present_in, to_numbers

if TYPE_CHECKING:
    import pandas as pd

_DAY_OR_MONTH = re.compile(r'%[dm][^%\w]%[dm]')


class TimeReader:
    r"""Reads a column of times in pieces, all of them in one way: numbers as they are, or dates as
    seconds since 1970 in UTC.

    Dates are taken in the forms of ISO 8601, which may be mixed, or in one other form, that of the
    first date which is not in ISO 8601; unless that has the day and the month as numbers without
    the year before them, in which case no one knows which is which.

    Args:
        format (str, optional): The form of all dates, in the letters of :meth:`strftime`.
            (default: :obj:`None`)
    """

    def __init__(self, format: str | None = None) -> None:
        self.format = format
        #: Whether times are dates; not known before there is one.
        self.is_date: bool | None = None if format is None else True
        self._other: str | None = None  # the one form beside those of ISO 8601

    def read(self, column: 'pd.Series') -> np.ndarray:
        r"""Returns ``int64`` where all times are whole numbers, else ``float64`` with NaN for what
        is no time.

        Raises:
            ValueError: If dates are written in more than one way, or it cannot be told in which.
        """
        import pandas as pd

        if self.is_date is None:
            self.is_date = self._find_out(column)
        if not self.is_date:
            is_whole = column.dtype.kind in 'iu' and isinstance(column.dtype, np.dtype)
            if is_whole and column.dtype != np.uint64:
                return column.to_numpy(dtype=np.int64)
            return to_numbers(column)
        time = self._parse(column)
        seconds = (time - pd.Timestamp(0, tz='UTC')).dt.total_seconds()
        return seconds.to_numpy(dtype=np.float64, na_value=np.nan)

    def _find_out(self, column: 'pd.Series') -> bool | None:
        if column.dtype.kind == 'M':
            return True
        filled = column[present_in(column)]
        if len(filled) == 0:
            return None
        numbers = to_numbers(filled)
        if column.dtype.kind not in 'iufb' and np.isnan(numbers).mean() > 0.5:
            return True
        self._check_numbers(column, numbers[np.isfinite(numbers)])
        return False

    def _check_numbers(self, column: 'pd.Series', found: np.ndarray) -> None:
        # The seconds 19000101 to 21001231 are days of 1970 on which nobody has bought anything.
        if found.size == 0 or found.min() < 19000101 or found.max() > 21001231:
            return
        month, day = found // 100 % 100, found % 100
        if ((found % 1 == 0) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all():
            raise ValueError(
                f'the numbers in column {column.name!r}, such as {int(found[0])}, are dates by '
                f"their looks: give their form as 'time_format' '%Y%m%d'"
            )

    def _parse(self, column: 'pd.Series') -> 'pd.Series':
        import pandas as pd

        if column.dtype.kind == 'M':
            return pd.to_datetime(column, errors='coerce', utc=True)
        present = present_in(column)
        if column.dtype.kind == 'f':  # whole numbers beside empty fields
            numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
            is_whole = np.isfinite(numbers) & (numbers % 1 == 0)
            text = [str(int(x)) if ok else str(x) for x, ok in zip(numbers, is_whole)]
            column = pd.Series(text, index=column.index, name=column.name)
        column = column.astype(str)
        if self.format is not None:
            return pd.to_datetime(column, errors='coerce', utc=True, format=self.format)
        time = pd.to_datetime(column, errors='coerce', utc=True, format='ISO8601')
        other = time.isna().to_numpy() & present
        if other.any():
            self._other = self._other or self._guess(column[other])
            if self._other is not None:
                time[other] = pd.to_datetime(
                    column[other], errors='coerce', utc=True, format=self._other
                )
                other &= time.isna().to_numpy()
            with warnings.catch_warnings():  # that it finds no single form
                warnings.simplefilter('ignore', UserWarning)
                rest = pd.to_datetime(
                    column[other], errors='coerce', utc=True, format='mixed', dayfirst=True
                )
            if rest.notna().any():
                self._refuse(column, column[other][rest.notna()].iloc[0])
        return time

    def _guess(self, column: 'pd.Series') -> str | None:
        from pandas.tseries.api import guess_datetime_format

        with warnings.catch_warnings():  # that the day comes first
            warnings.simplefilter('ignore', UserWarning)
            for value in column.iloc[:1000]:
                found = guess_datetime_format(value)
                if found is None:
                    continue
                if _DAY_OR_MONTH.search(found) and not found.startswith('%Y'):
                    form = _DAY_OR_MONTH.sub(lambda x: f'%d{x.group()[2]}%m', found)
                    raise ValueError(
                        f'the dates in column {column.name!r}, such as {value[:40]!r}, may have '
                        f"the day or the month first: give their form as 'time_format', such as "
                        f'{form!r}'
                    )
                return found
        return None

    def _refuse(self, column: 'pd.Series', example: str) -> NoReturn:
        raise ValueError(
            f'the dates in column {column.name!r} are written in several ways, or in one that is '
            f"not known (such as '{example[:40]}'): write them as 2024-12-31 or as seconds, or "
            f"give their form as 'time_format'"
        )
