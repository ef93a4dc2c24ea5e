import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from mrdib_pyg.datasets._read import check_file, shown
from mrdib_pyg.files import replacing

#: The files of a data folder, and the columns of their index.
FILES = {'user': ('user_ids.csv', 'userID'), 'item': ('item_ids.csv', 'itemID')}


class IdMap:
    r"""The raw ids of users or items: row :obj:`i` of every tensor belongs to :obj:`ids[i]`.

    A data folder keeps them in :obj:`user_ids.csv` and :obj:`item_ids.csv`, with the columns
    :obj:`userID` (or :obj:`itemID`) and :obj:`raw_id` and one row for each index from 0.

    Args:
        ids (Sequence[str]): The ids, all different. They are converted to strings.

    Raises:
        ValueError: If an id comes twice.

    Example:
        >>> ids = IdMap(['B00005MDZ8', 'B00005MKYI'])
        >>> ids.index('B00005MKYI'), ids[0]
        (1, 'B00005MDZ8')
    """

    def __init__(self, ids: Iterable[object]) -> None:
        self.ids: Sequence[str] = [str(raw) for raw in ids]
        self._index = {raw: i for i, raw in enumerate(self.ids)}
        if len(self._index) < len(self.ids):
            twice = next(raw for i, raw in enumerate(self.ids) if self._index[raw] != i)
            raise ValueError(f"'ids' must be all different (got {twice!r} twice)")

    def index(self, raw: object) -> int:
        r"""Returns the index of an id, or raises :class:`KeyError`."""
        return self._index[str(raw)]

    def save(self, folder: str | os.PathLike, kind: str) -> None:
        r"""Writes the file of a data folder, atomically.

        Args:
            folder (str): The folder; it must exist.
            kind (str): :obj:`'user'` or :obj:`'item'`.
        """
        name, column = FILES[kind]
        text = io.StringIO(newline='')
        text.write(f'{column},raw_id\n')
        # Strings in quotes, since an id may hold line breaks.
        writer = csv.writer(text, lineterminator='\n', quoting=csv.QUOTE_NONNUMERIC)
        writer.writerows(enumerate(self.ids))
        with replacing(Path(folder) / name) as file:
            file.write(text.getvalue().encode())

    @classmethod
    def load(cls, folder: str | os.PathLike, kind: str) -> 'IdMap | None':
        r"""Reads the file of a data folder, or the one that MMRec writes instead:
        :obj:`u_id_mapping.csv` or :obj:`i_id_mapping.csv`.

        Args:
            folder (str): The folder.
            kind (str): :obj:`'user'` or :obj:`'item'`.

        Returns:
            IdMap: The ids, or :obj:`None` if there is no such file or folder.

        Raises:
            FileNotFoundError: If the file is a broken link.
            ValueError: If the file does not have the form above. The message names it.
        """
        name, column = FILES[kind]
        folder = Path(folder).expanduser()
        for path, read in (
            (folder / name, _read_ids),
            (folder / f'{kind[0]}_id_mapping.csv', _read_mapping),
        ):
            if not os.path.lexists(path):
                continue
            check_file(path)
            try:
                with open(path, encoding='utf-8-sig', newline='') as file:
                    return cls(read(file, column))
            except (ValueError, csv.Error) as e:
                raise ValueError(
                    f'{shown(path)} cannot be read ({e}); it needs a row for each index from 0'
                ) from e
        return None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> str:
        return self.ids[index]

    def __contains__(self, raw: object) -> bool:
        return str(raw) in self._index

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({len(self)})'


def _read_ids(file: TextIO, column: str) -> list[str]:
    reader = csv.reader(file, strict=True)
    if next(reader, None) != [column, 'raw_id']:
        raise ValueError(f'expected the header {column},raw_id')
    ids: list[str] = []
    for row in reader:
        if len(row) != 2 or row[0] != str(len(ids)):
            raise ValueError(f'line {reader.line_num} is not {len(ids)},<raw id>')
        ids.append(row[1])
    return ids


def _read_mapping(file: TextIO, column: str) -> list[str]:
    # As folders of MMRec have them: two columns in any order, separated by tabs or commas.
    lines = file.read().splitlines()
    is_tabbed = '\t' in (lines or [''])[0]
    dialect: dict[str, Any] = {'delimiter': '\t', 'quoting': csv.QUOTE_NONE} if is_tabbed else {}
    header, *rows = [*csv.reader(filter(None, lines), **dialect)] or [[]]
    if column not in header or any(len(row) != 2 for row in (header, *rows)):
        raise ValueError(f'expected two columns, {column} and one of raw ids')
    place = header.index(column)
    ids = {row[place]: row[1 - place] for row in rows}
    wrong = next((str(i) for i in range(len(rows)) if str(i) not in ids), None)
    if wrong is not None:
        raise ValueError(f'{column} {wrong} is missing among {len(rows)} rows')
    return [ids[str(i)] for i in range(len(rows))]
