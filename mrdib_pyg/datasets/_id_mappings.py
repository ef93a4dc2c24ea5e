"""The files of ids that other toolboxes write beside a table of interactions."""

import csv
from pathlib import Path

_FILES = {'user': ('u_id_mapping.csv', 'userID'), 'item': ('i_id_mapping.csv', 'itemID')}


def read_id_mapping(folder: Path, kind: str) -> list[str] | None:
    r"""Reads ``u_id_mapping.csv`` or ``i_id_mapping.csv``, which folders of MMRec have: two columns
    with a header, one of raw ids and one of indices, separated by tabs or commas, in any order.

    Args:
        folder (Path): The data folder.
        kind (str): :obj:`'user'` or :obj:`'item'`.

    Returns:
        List[str]: The raw id of each index, or :obj:`None` where there is no such file.

    Raises:
        ValueError: If an index is missing, or comes twice.
    """
    name, column = _FILES[kind]
    path = folder / name
    if not path.is_file():
        return None
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            first = file.readline()
            file.seek(0)
            rows = list(csv.reader(file, delimiter='\t' if '\t' in first else ','))
        place = rows[0].index(column)
        ids = {int(row[place]): row[1 - place] for row in rows[1:] if row}
        if len(rows[0]) != 2 or sorted(ids) != list(range(sum(map(bool, rows[1:])))):
            raise ValueError(f'the column {column} is not 0, 1, 2, ...')
    except (ValueError, IndexError, csv.Error) as e:
        raise ValueError(
            f"'{path}' cannot be read ({e}); it needs the columns {column} and another one of ids"
        ) from e
    return [ids[index] for index in range(len(ids))]
