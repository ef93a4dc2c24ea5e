"""Reading of tables in pieces, so that memory does not grow with the file."""

import codecs
import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pandas as pd

#: Bytes of text that are read at a time. No row may be longer than twice that.
BLOCK = 16 << 20
ROWS = 500_000
_HEADER_LIMIT = 1 << 20
_MISSING = ['', 'NA', 'N/A', 'NaN', 'nan', 'NULL', 'null', 'None', 'none']
_SPREADSHEETS = ('.xlsx', '.xlsm', '.xls', '.ods', '.numbers')
_SEPARATORS = {'.csv': ',', '.tsv': '\t', '.tab': '\t', '.inter': '\t'}


class Chunks:
    r"""The rows of a table, as data frames of some columns.

    Args:
        source (str, Path or pd.DataFrame): A text file (``.csv``, ``.tsv``; also ``.gz``), a
            Parquet file (``.parquet``, ``.pq``) or a data frame.
        columns (List[str]): The columns to read.
        numbers (List[str], optional): Those of them that hold numbers; the others are read as text.
            (default: :obj:`()`)
        sep (str, optional): What separates the fields of a text file.
            (default: :obj:`None`, by the name of the file)
        header (List[str], optional): The names of all columns, of a text file that has no first
            line of names. (default: :obj:`None`)
        quote (bool, optional): Whether fields of a text file may stand in double quotes.
            (default: :obj:`True`)

    Attributes:
        num_rows (int): The rows read by now, those that are faulty included.
        num_faulty (int): The rows of a text file that had too many fields, and were left out.
    """

    def __init__(
        self,
        source: Any,
        columns: Sequence[str],
        numbers: Sequence[str] = (),
        *,
        sep: str | None = None,
        header: Sequence[str] | None = None,
        quote: bool = True,
    ) -> None:
        self.columns, self.numbers = list(dict.fromkeys(columns)), set(numbers)
        self.source, self.header, self.quote = source, header, quote
        self.quoting: Any = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
        self.num_rows = self.num_faulty = 0
        self.name = 'the data frame'
        self.kind = 'frame'
        if not hasattr(source, 'columns'):
            self.source = path = Path(source).expanduser()
            self.name = f"'{path}'"
            if not path.is_file():
                raise FileNotFoundError(f"there is no table '{path}'; name a file")
            suffixes = [suffix.lower() for suffix in path.suffixes]
            self.zipped = suffixes[-1:] == ['.gz']
            suffix = (suffixes[:-1] if self.zipped else suffixes)[-1:]
            self.kind = 'parquet' if suffix in (['.parquet'], ['.pq']) else 'text'
            if suffix and suffix[0] in _SPREADSHEETS:
                raise ValueError(
                    f"'{path}' is a spreadsheet. Please export it as CSV in UTF-8, or read it by "
                    f'pandas.read_excel and pass the data frame'
                )
            self.sep = sep or _SEPARATORS.get(suffix[0] if suffix else '', '')
            if self.kind == 'text' and len(self.sep) != 1:
                raise ValueError(
                    f"the name of '{path}' does not tell what separates its fields. Please pass "
                    f"'sep', one character such as ',' or a tab"
                    + (f' (got {sep!r})' if sep else '')
                )

    def __iter__(self) -> Iterator['pd.DataFrame']:
        if self.kind == 'frame':
            return self._frames()
        return self._parquet() if self.kind == 'parquet' else self._text()

    def _frames(self) -> Iterator['pd.DataFrame']:
        self._check_columns([str(name) for name in self.source.columns])
        places = {str(name): place for place, name in enumerate(self.source.columns)}
        frame = self.source.iloc[:, [places[name] for name in self.columns]]
        frame.columns = self.columns
        for begin in range(0, len(frame), ROWS):
            chunk = frame.iloc[begin : begin + ROWS]
            self.num_rows += len(chunk)
            yield chunk

    def _parquet(self) -> Iterator['pd.DataFrame']:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as e:
            raise ImportError(
                f"{self.name} is a Parquet file, which needs pyarrow: pip install 'mrdib_pyg[data]'"
            ) from e
        try:
            with pyarrow.parquet.ParquetFile(self.source) as file:
                self._check_columns(file.schema_arrow.names)
                for batch in file.iter_batches(ROWS, columns=self.columns):
                    self.num_rows += batch.num_rows
                    # Metadata of pandas are read even where they are to be ignored.
                    batch = batch.replace_schema_metadata(None)
                    # As floats, which pandas has for integers with nulls, large ids would be equal.
                    yield batch.to_pandas(integer_object_nulls=True)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as e:
            raise ValueError(
                f'{self.name} is damaged or not a Parquet file ({_first_line(e)})'
            ) from e

    def _text(self) -> Iterator['pd.DataFrame']:
        import pandas as pd

        with open(self.source, 'rb') as file:
            stream: Any = gzip.open(file) if self.zipped else file
            try:
                names = list(self.header) if self.header is not None else self._read_header(stream)
                self._check_columns(names)
                for block in self._blocks(stream):
                    yield self._parse(block, names)
            except (EOFError, gzip.BadGzipFile, zlib.error) as e:
                raise ValueError(
                    f'{self.name} is cut short or damaged after {self.num_rows} rows '
                    f'({_first_line(e)}). Please copy or download it again'
                ) from e
            except (pd.errors.ParserError, UnicodeDecodeError) as e:
                hint = ' or pass quote=False' if self.quote else ''
                if isinstance(e, UnicodeDecodeError):
                    hint = ', or convert it to UTF-8, e.g. by `iconv -f latin1 -t utf8`'
                raise ValueError(
                    f'{self.name} cannot be read as UTF-8 text with the separator {self.sep!r}, '
                    f'after {self.num_rows} rows: {_first_line(e)}. Please mend it{hint}'
                ) from e

    def _read_header(self, stream: BinaryIO) -> list[str]:
        line = stream.readline(_HEADER_LIMIT)
        if not line.strip():
            raise ValueError(f'{self.name} is empty, or its first line is: expected column names')
        try:
            text = line.decode('utf-8-sig')
            return next(csv.reader([text], delimiter=self.sep, quoting=self.quoting))
        except (UnicodeDecodeError, csv.Error) as e:
            raise ValueError(f'the first line of {self.name} is no row of names ({e})') from e

    def _check_columns(self, names: Sequence[str]) -> None:
        for name in self.columns:
            if names.count(name) != 1:
                what = 'has no column' if name not in names else 'has more than one column'
                shown = ', '.join(names[:20])
                others = [sep for sep in ';\t,|' if len(names) == 1 and sep in names[0]]
                hint = (
                    f"; is it separated by {others[0]!r}? Then pass that as 'sep'" if others else ''
                )
                raise ValueError(
                    f'{self.name} {what} {name!r}; its columns are {shown[:500]}{hint}'
                )

    def _blocks(self, stream: BinaryIO) -> Iterator[bytes]:
        rest = b''
        begin = True
        while data := stream.read(BLOCK):
            block = rest + (data.removeprefix(codecs.BOM_UTF8) if begin else data)
            begin = False
            cut = _last_row_end(block, self.quote)
            if cut == 0 and len(block) >= 2 * BLOCK:
                raise ValueError(
                    f'{self.name} has a row of more than {BLOCK >> 20} MiB after {self.num_rows} '
                    f'rows: a line end is missing, or a double quote does not end. Please mend it'
                    + (', or pass quote=False if quotes are plain text' if self.quote else '')
                )
            rest = block[cut:]
            if cut > 0:
                yield block[:cut]
        if rest:
            yield rest

    def _parse(self, block: bytes, names: list[str]) -> 'pd.DataFrame':
        import pandas as pd

        # A first row of the right length: the parser measures later ones by it.
        first = self.sep.join('0' * len(names)).encode() + b'\n'
        places = {name: names.index(name) for name in self.columns}
        numbers = [places[name] for name in self.columns if name in self.numbers]
        options: dict[str, Any] = {
            'header': None, 'names': range(len(names)), 'index_col': False, 'sep': self.sep,
            'dtype': {place: str for place in range(len(names)) if place not in numbers},
            'keep_default_na': False, 'na_values': {place: _MISSING for place in numbers},
            'quoting': self.quoting, 'on_bad_lines': 'warn', 'low_memory': False,
        }  # fmt: skip
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            frame = pd.read_csv(io.BytesIO(first + block), **options).iloc[1:]
        faulty = sum(len(re.findall('Skipping line', str(w.message))) for w in caught)
        self.num_faulty += faulty
        self.num_rows += len(frame) + faulty
        frame = frame[list(places.values())]
        frame.columns = list(places)
        return frame


def _last_row_end(block: bytes, quote: bool) -> int:
    r"""Where the last row ends that is complete: no line end inside of quotes counts."""
    cut = block.rfind(b'\n') + 1
    quotes = block.count(b'"', 0, cut) if quote else 0
    while cut > 0 and quotes % 2 == 1:
        before = block.rfind(b'\n', 0, block.rfind(b'"', 0, cut)) + 1
        quotes -= block.count(b'"', before, cut)
        cut = before
    return cut


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
