"""Any table as a relation of DuckDB: text files, JSON, Parquet, data frames, Arrow tables."""

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import lzma
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from mrdib_pyg.datasets._columns import find_columns, is_number, plain_names, to_arrow

if TYPE_CHECKING:
    import pyarrow as pa

#: What DuckDB may hold in memory; what is more goes to a temporary folder beside the output.
MEMORY = '448MB'
_BLOCK = 16 << 20
_HEADER_LIMIT = 1 << 20
#: A row that is put behind the last one: it does not arrive where a double quote does not end.
_END = '\x02end of table\x02'
_SPREADSHEETS = ('.xlsx', '.xlsm', '.xls', '.ods', '.numbers')
_SEPARATORS = {'.tsv': '\t', '.tab': '\t', '.inter': '\t', '.item': '\t', '.user': '\t'}
_REASONS = {
    'TOO MANY COLUMNS': 'with too many fields',
    'UNQUOTED VALUE': 'with a double quote that does not end as a field does',
    'LINE SIZE OVER MAXIMUM': 'of more than 2 MB',
}
_TORN = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


class Workspace:
    r"""A connection to DuckDB and a temporary folder, which goes with everything that was spilled.

    Args:
        folder (Path): The folder that is to be written; the temporary one is beside it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import duckdb
            import pyarrow  # noqa: F401
        except ImportError as e:
            raise ImportError(
                f"tables need duckdb and pyarrow ({e}): pip install 'mrdib_pyg[data]'"
            ) from e
        parent = folder.resolve().parent
        while not parent.is_dir():
            parent = parent.parent
        self.folder = Path(tempfile.mkdtemp('.tmp', f'.{folder.name}.', parent))
        self.duckdb, self.num_sources = duckdb, 0
        try:
            self.connection: duckdb.DuckDBPyConnection = duckdb.connect(
                ':memory:',
                config={
                    'memory_limit': MEMORY,
                    'temp_directory': str(self.folder / 'spilled'),
                    'threads': torch.get_num_threads(),
                    'preserve_insertion_order': True,
                    'autoinstall_known_extensions': False,
                },
            )
            self.connection.execute("SET TimeZone = 'UTC'")
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def __enter__(self) -> 'Workspace':
        return self

    def __exit__(self, *args: Any) -> None:
        self.connection.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, sql: str, *values: Any) -> list[tuple]:
        r"""Runs a statement and returns its rows."""
        result = self.connection.execute(sql, list(values))
        return result.fetchall() if result.description else []

    def stream(self, sql: str) -> Iterator['pa.RecordBatch']:
        r"""Runs a query and returns its rows a batch at a time."""
        import pyarrow

        return pyarrow.RecordBatchReader.from_stream(self.connection.sql(sql))


class Source:
    r"""A table, with the columns that are wanted of it.

    Args:
        work (Workspace): Where it is read.
        table (Any): A path, a data frame, an Arrow table or a dictionary of columns.
        columns (List[str]): The columns to read.
        texts (List[str], optional): Those of them that are texts, or lists of them.
            (default: :obj:`()`)
        sep (str, optional): What separates the fields of a text file.
            (default: :obj:`None`, found out)
        header (bool, optional): Whether its first line has the names of the columns.
            (default: :obj:`None`, found out)
        names (List[str], optional): The names of all its columns. (default: :obj:`None`)
        quote (bool, optional): Whether its fields may stand in double quotes.
            (default: :obj:`True`)

    Attributes:
        name (str): The table, for messages.
        types (Dict[str, str]): The type of each column, in the words of DuckDB.
    """

    def __init__(
        self,
        work: Workspace,
        table: Any,
        columns: Sequence[str],
        *,
        texts: Sequence[str] = (),
        sep: str | None = None,
        header: bool | None = None,
        names: Sequence[str] | None = None,
        quote: bool = True,
    ) -> None:
        self.work, self.columns = work, list(dict.fromkeys(columns))
        self.sep, self.header, self.quote = sep, header, quote
        self.names = None if names is None else [str(name) for name in names]
        self.rejects, self.ends, self.is_json = '', False, False
        work.num_sources += 1
        self._id = work.num_sources
        if isinstance(table, (str, os.PathLike)):
            self.path = Path(table).expanduser()
            self.name = f"'{self.path}'"
            with self.reading():
                self._open_file()
        else:
            self.name = 'the data frame'
            frame = to_arrow(table, self.columns, texts, self.name)
            view = f'frame{self._id}'
            with self.reading():
                work.connection.register(view, frame)
            self.relation = view
            self.expressions = {name: f'c{place}' for place, name in enumerate(self.columns)}
        with self.reading():
            described = work.connection.sql(f'SELECT {self._list()} FROM {self.relation} LIMIT 0')
            self.types = {name: str(kind) for name, kind in zip(self.columns, described.types)}

    def create(self, table: str, aliases: Mapping[str, str]) -> dict[str, int]:
        r"""Makes a table of it, whose rows are in the order of the file.

        Args:
            table (str): The name of the table.
            aliases (Dict[str, str]): For each column of it one of the wanted columns.

        Returns:
            Dict[str, int]: The rows that were left out, by the reason.
        """
        listed = [f'{self.expressions[name]} AS "{key}"' for key, name in aliases.items()]
        if self.is_json:
            listed.append("coalesce(json_type(json) <> 'OBJECT', true) AS broken")
        out: dict[str, int] = {}
        with self.reading():
            self.work.run(
                f'CREATE TABLE {table} AS SELECT {", ".join(listed)} FROM {self.relation}'
            )
            if self.is_json:
                ((count,),) = self.work.run(f'SELECT count(*) FILTER (broken) FROM {table}')
                out['that are no JSON object'] = count
                self.work.run(f'DELETE FROM {table} WHERE broken')
            elif self.rejects:
                out = self._check_rejects()
            if self.ends:
                self._check_end(table, next(iter(aliases)))
        return out

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        r"""Turns the errors of DuckDB and Arrow into one that names the table."""
        import pyarrow

        try:
            yield
        except (self.work.duckdb.Error, pyarrow.ArrowException, RuntimeError) as e:
            message = (str(e).splitlines() or [type(e).__name__])[0][:200]
            raise ValueError(f'{self.name} is damaged or cannot be read ({message})') from e

    def _list(self) -> str:
        return ', '.join(self.expressions[name] for name in self.columns)

    def _open_file(self) -> None:
        path = self.path
        if path.is_dir():
            held = ', '.join(sorted(p.name for p in path.iterdir())[:9])
            raise ValueError(f'{self.name} is a folder; name one of its tables (it has {held})')
        if not path.is_file():
            raise FileNotFoundError(f"there is no table '{path}'; name a file")
        suffixes = [suffix.lower() for suffix in path.suffixes]
        if suffixes[-1:] and suffixes[-1] in _SPREADSHEETS:
            raise ValueError(
                f'{self.name} is a spreadsheet. Please export it as CSV in UTF-8, or read it by '
                f'pandas.read_excel and pass the data frame'
            )
        packed = suffixes.pop() if suffixes[-1:] and suffixes[-1] in _OPENERS else ''
        suffix = suffixes[-1] if suffixes else ''
        with open(path, 'rb') as file:
            start = file.read(4)
        # The link has a name without letters that would stand for several files.
        link = self.work.folder / f'table{self._id}'
        if suffix in ('.parquet', '.pq') or (start == b'PAR1' and not packed):
            link.symlink_to(path.resolve())
            self._use_parquet(link)
            return
        packed = packed or next(
            (kind for begin, kind in _MAGIC.items() if start[: len(begin)] == begin), ''
        )
        if packed:
            self._unpack(packed, link)
        else:
            link.symlink_to(path.resolve())
        self._read_text(link, suffix)

    def _use_parquet(self, link: Path) -> None:
        self.relation = f"read_parquet('{link}', hive_partitioning=false)"
        names = self.work.connection.sql(f'SELECT * FROM {self.relation} LIMIT 0').columns
        places = find_columns(names, self.columns, self.name)
        self.expressions = {name: _quoted(names[place]) for name, place in places.items()}

    def _unpack(self, packed: str, link: Path) -> None:
        try:
            with _OPENERS[packed](self.path) as source, open(link, 'wb') as target:
                shutil.copyfileobj(source, target, _BLOCK)
        except _TORN as e:
            if isinstance(e, OSError) and e.errno is not None:
                raise
            raise ValueError(
                f'{self.name} is cut short or damaged ({e}). Please copy or download it again'
            ) from e

    def _read_text(self, link: Path, suffix: str) -> None:
        with open(link, 'rb') as file:
            begin = file.read(_HEADER_LIMIT)
        if begin[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError(f'{self.name} is UTF-16; convert it by `iconv -f utf16 -t utf8`')
        text = begin.removeprefix(codecs.BOM_UTF8).lstrip()
        if not text:
            raise ValueError(f'{self.name} is empty, or its first line is: expected column names')
        if suffix in ('.json', '.jsonl', '.ndjson') or text[:1] == b'{' or text[:2] == b'[{':
            self._use_json(link, 'array' if text[:1] == b'[' else 'newline_delimited')
        else:
            self._use_csv(link, begin, suffix)

    def _use_json(self, link: Path, form: str) -> None:
        self.is_json = True
        self.relation = f"read_json_objects('{link}', format='{form}'" + (
            ', ignore_errors=true)' if form == 'newline_delimited' else ')'
        )
        found = self.work.run(
            f'SELECT json_keys(json) FROM {self.relation} WHERE json IS NOT NULL LIMIT 1000'
        )
        names = list(dict.fromkeys(key for (keys,) in found for key in keys or ()))
        if not names:
            raise ValueError(f'{self.name} has no JSON objects, one a line or in a list')
        self.expressions = {}
        for name, place in find_columns(names, self.columns, self.name).items():
            pointer = names[place].replace('~', '~0').replace('/', '~1').replace("'", "''")
            self.expressions[name] = f"json->'/{pointer}'"

    def _use_csv(self, link: Path, begin: bytes, suffix: str) -> None:
        first = self._first_line(begin)
        sep, fields = self._split(first, suffix)
        names, num_skipped = self._names_of(fields, sep)
        num_quotes, ends = _scan(link)
        if self.quote and num_quotes == 0:
            quote = ''
        else:
            quote = '"' if self.quote and len(sep) == 1 else ''
        if ends is None or quote:
            link = self._copy(link, ends, sep.join([_END] * len(names)) if quote else '')
            self.ends = bool(quote)
        places = find_columns(names, self.columns, self.name, sep if num_skipped else '')
        columns = ', '.join(f"'c{place}': 'VARCHAR'" for place in range(len(names)))
        escaped = sep.replace("'", "''")
        self.relation = (
            f"read_csv('{link}', auto_detect=false, delim='{escaped}', quote='{quote}', "
            f"escape='{quote}', header=false, skip={num_skipped}, columns={{{columns}}}, "
            f'null_padding=true, ignore_errors=true, strict_mode=true, '
            f'parallel={str(not quote).lower()}, store_rejects=true, '
            f"rejects_table='errors{self._id}', rejects_scan='scans{self._id}')"
        )
        self.rejects = f'errors{self._id}'
        self.expressions = {}
        for name, place in places.items():
            padded = num_skipped and fields[place] != fields[place].lstrip()
            self.expressions[name] = f'ltrim(c{place})' if padded else f'c{place}'

    def _first_line(self, begin: bytes) -> str:
        try:
            text = begin.decode('utf-8-sig', 'strict' if len(begin) < _HEADER_LIMIT else 'ignore')
        except UnicodeDecodeError as e:
            end = begin.find(b'\n') + 1 or len(begin)
            try:
                text = begin[:end].decode('utf-8-sig')
            except UnicodeDecodeError:
                raise ValueError(
                    f'the first line of {self.name} is no row of names ({e}); is it UTF-8?'
                ) from e
        if '\0' in text[:1000]:
            raise ValueError(f'the first line of {self.name} is no row of names: it is binary')
        if not text.split('\n', 1)[0].strip():
            raise ValueError(f'{self.name} is empty, or its first line is: expected column names')
        return text

    def _split(self, text: str, suffix: str) -> tuple[str, list[str]]:
        r"""What separates the fields, and those of the first line."""
        if self.sep is not None:
            if not 1 <= len(self.sep.encode()) <= 4 or set(self.sep) & set('"\n\r'):
                raise ValueError(
                    f"'sep' needs to be one to four characters such as ',' or '::' "
                    f'(got {self.sep!r})'
                )
            return self.sep, _fields(text, self.sep, self.quote)
        known = _SEPARATORS.get(suffix, ',')
        splits = {
            sep: _fields(text, sep, self.quote)
            for sep in dict.fromkeys([known, ',', '\t', ';', '|', '::', ' '])
        }
        for sep, fields in splits.items():
            wanted = len(self.names) if self.names is not None else 0
            if len(fields) == wanted or (self.names is None and not self._lacks(fields)):
                return sep, fields
        best = max(splits, key=lambda sep: len(splits[sep]) + (sep == known) - 99 * (sep == ' '))
        return best, splits[best]

    def _lacks(self, fields: Sequence[str]) -> bool:
        plain = plain_names(fields)
        return any(name not in fields and name not in plain for name in self.columns)

    def _names_of(self, fields: list[str], sep: str) -> tuple[list[str], int]:
        r"""The names of the columns, and how many lines of them there are."""
        if self.names is not None:
            if len(self.names) != len(fields):
                raise ValueError(
                    f"'names' has {len(self.names)} names, but the first line of {self.name} has "
                    f'{len(fields)} fields separated by {sep!r}: {", ".join(fields)[:200]!r}'
                )
            has_header = self.names == plain_names(fields) if self.header is None else self.header
            return self.names, int(has_header)
        if self.header is False:
            raise ValueError(
                f"without a header {self.name} needs the names of its columns: 'names'"
            )
        if self.header is None and _looks_like_data(fields):
            raise ValueError(
                f'line 1 of {self.name} looks like data: {", ".join(fields)[:200]!r}. Without a '
                f"line of names, give those of its {len(fields)} columns: header=False, 'names'"
            )
        return fields, 1

    def _copy(self, link: Path, ends: str | None, last: str) -> Path:
        r"""Makes a file with line ends of one kind and a row at the end."""
        if ends is None or link.is_symlink():
            copy = link.with_name(f'{link.name}.copy')
            with open(link, 'rb') as source, open(copy, 'wb') as target:
                held = b''
                while block := held + source.read(_BLOCK):
                    held = b'\r' if block.endswith(b'\r') and len(block) > 1 else b''
                    block = block.removesuffix(held)
                    if ends is None:
                        block = block.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
                    target.write(block)
            link = copy
        if last:
            end = (ends or '\n').encode()
            with open(link, 'ab') as target:
                target.write(end + last.encode() + end)
        return link

    def _check_rejects(self) -> dict[str, int]:
        found = self.work.run(
            f'SELECT error_type, count(DISTINCT line), min(line), arg_min(csv_line, line), '
            f"count(*) FILTER (trim(csv_line, chr(10) || chr(13)) LIKE '%' || chr(10) || '%') "
            f'FROM {self.rejects} GROUP BY ALL'
        )
        out: dict[str, int] = {}
        for kind, num, line, text, several in found:
            if kind == 'INVALID ENCODING':
                raise ValueError(
                    f'{self.name} cannot be read as UTF-8 text: line {line}, {text[:60]!r}. Please '
                    f'mend it, or convert it to UTF-8, e.g. by `iconv -f latin1 -t utf8`'
                )
            if kind in ('UNQUOTED VALUE', 'LINE SIZE OVER MAXIMUM') and several:
                self._refuse_quote(f'line {line}, {text[:60]!r}')
            out[_REASONS.get(kind, 'that cannot be split into fields')] = num
        self.work.run(f'DELETE FROM {self.rejects}')
        return out

    def _check_end(self, table: str, key: str) -> None:
        last = self.work.run(
            f'SELECT "{key}", rowid FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})'
        )
        if not last or last[0][0] != _END:
            self._refuse_quote('up to its end')
        self.work.run(f'DELETE FROM {table} WHERE rowid = {last[0][1]}')

    def _refuse_quote(self, where: str) -> NoReturn:
        raise ValueError(
            f'{self.name} has a double quote that does not end as a field does ({where}). Please '
            f'mend it, or pass quote=False if quotes are plain text'
        )


def _fields(text: str, sep: str, quote: bool) -> list[str]:
    if len(sep) > 1:
        return text.split('\n', 1)[0].rstrip('\r').split(sep)
    quoting: Any = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    try:
        return next(csv.reader(io.StringIO(text, newline=''), delimiter=sep, quoting=quoting))
    except (csv.Error, StopIteration):
        return [text.split('\n', 1)[0].rstrip('\r')]


def _looks_like_data(fields: Sequence[str]) -> bool:
    if all(field == str(place) for place, field in enumerate(fields)):
        return False  # as pandas numbers columns without names
    return any(is_number(field) for field in fields)


def _scan(path: Path) -> tuple[int, str | None]:
    r"""Counts the quotes of a file, and tells its line ends; :obj:`None` if of several kinds."""
    quotes = lines = returns = both = 0
    held = b''
    with open(path, 'rb') as file:
        while block := file.read(_BLOCK):
            quotes += block.count(b'"')
            if (num := block.count(b'\r')) > 0:
                both += block.count(b'\r\n') + (held == b'\r' and block[:1] == b'\n')
            returns += num
            lines += block.count(b'\n')
            held = block[-1:]
    if returns == 0:
        return quotes, '\n'
    return quotes, '\r\n' if returns == both == lines else None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextlib.contextmanager
def _open_zip(path: Path) -> Iterator[Any]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.startswith('__MACOSX')]
        if len(names) != 1:
            raise ValueError(
                f"'{path}' holds {len(names)} files ({', '.join(names)[:200]}): please unpack it "
                f'and name one'
            )
        with archive.open(names[0]) as file:
            yield file


def _open_zstd(path: Path) -> Any:
    import pyarrow

    return pyarrow.input_stream(str(path), compression='zstd')


_OPENERS: dict[str, Any] = {
    '.gz': gzip.open, '.bz2': bz2.open, '.xz': lzma.open, '.zip': _open_zip, '.zst': _open_zstd,
}  # fmt: skip
_MAGIC = {
    b'\x1f\x8b': '.gz', b'BZh': '.bz2', b'\xfd7zX': '.xz', b'PK\x03\x04': '.zip',
    b'\x28\xb5\x2f\xfd': '.zst',
}  # fmt: skip
