import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor

from mrdib_pyg.datasets import IdMap
from mrdib_pyg.serving.optional import require
from mrdib_pyg.serving.recommend import Recommendations
from mrdib_pyg.training.atomic import atomic_file

COLUMNS = ('userID', 'rank', 'itemID', 'score')
#: The suffixes of a file and what is written to it.
FORMATS = {
    '': 'csv', '.csv': 'csv', '.txt': 'csv', '.jsonl': 'jsonl', '.ndjson': 'jsonl',
    '.json': 'jsonl', '.parquet': 'parquet', '.pq': 'parquet',
}  # fmt: skip

Rows = tuple[list[Any], list[int], list[Any], list[float]]


def format_of(path: str | Path) -> str:
    r"""Returns :obj:`"csv"`, :obj:`"jsonl"` or :obj:`"parquet"`, by the suffix of a file.

    Raises:
        ValueError: If the suffix is none of these.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"'{path}' ends in '{suffix}'; recommendations are written as .csv, .jsonl (JSON "
            f'lines) or .parquet'
        )
    return FORMATS[suffix]


def save_recommendations(
    blocks: Iterable[Recommendations],
    path: str | Path,
    user_ids: IdMap | None = None,
    item_ids: IdMap | None = None,
    format: str | None = None,
) -> None:
    r"""Writes recommendations to a file as they come, so that memory does not grow with the users.
    The file appears whole or not at all.

    CSV and Parquet have the columns :obj:`userID`, :obj:`rank` (from 1), :obj:`itemID` and
    :obj:`score`, and a row for each user and item; JSON lines an object
    ``{"user": ..., "item": [...], "score": [...]}`` for each user. Places without an item are left
    out. Ids are integers or, with an :class:`~mrdib_pyg.datasets.IdMap`, strings.

    Args:
        blocks (Iterable[Recommendations]): What :func:`recommend` gives.
        path (str or Path): The file; its folder must exist.
        user_ids (IdMap, optional): The ids that users have outside. (default: :obj:`None`)
        item_ids (IdMap, optional): The ids that items have outside. (default: :obj:`None`)
        format (str, optional): :obj:`"csv"`, :obj:`"jsonl"` or :obj:`"parquet"` (which needs
            pyarrow). (default: :obj:`None`, by the suffix of :obj:`path`)

    Raises:
        ValueError: If neither :obj:`format` nor the suffix names one of the three.
        ImportError: If pyarrow is missing.
        OSError: If it cannot be written; the old file stays.
    """
    format = format_of(path) if format is None else format
    if format not in FORMATS.values():
        raise ValueError(f"'format' must be csv, jsonl or parquet (got '{format}')")
    if format == 'parquet':
        require('pyarrow.parquet', 'Parquet')
    with atomic_file(path) as part:
        if format == 'parquet':
            _write_parquet(blocks, part, user_ids, item_ids)
            return
        with open(part, 'w', encoding='utf-8', newline='') as file:
            write_text(blocks, file, user_ids, item_ids, format)


def write_text(
    blocks: Iterable[Recommendations],
    file: TextIO,
    user_ids: IdMap | None = None,
    item_ids: IdMap | None = None,
    format: str = 'csv',
) -> None:
    r"""As :func:`save_recommendations`, to an open file such as the standard output: as CSV or JSON
    lines.
    """
    if format == 'csv':
        file.write(','.join(COLUMNS) + '\n')
    for block in blocks:
        text = io.StringIO()
        if format == 'csv':
            _write_csv(block, text, user_ids, item_ids)
        else:
            for user, items, scores in _users(block, user_ids, item_ids):
                text.write(json.dumps({'user': user, 'item': items, 'score': scores}) + '\n')
        file.write(text.getvalue())


def _write_csv(
    block: Recommendations, text: TextIO, user_ids: IdMap | None, item_ids: IdMap | None
) -> None:
    plain = csv.writer(text, lineterminator='\n')
    # Of what ends a line it quotes its own alone.
    quoted = csv.writer(text, lineterminator='\n', quoting=csv.QUOTE_ALL)
    for user, items, scores in _users(block, user_ids, item_ids):
        writer = quoted if any('\r' in str(name) for name in (user, *items)) else plain
        ranked = enumerate(zip(items, scores), start=1)
        writer.writerows((user, rank, item, f'{score:.6g}') for rank, (item, score) in ranked)


def _write_parquet(
    blocks: Iterable[Recommendations], path: Path, user_ids: IdMap | None, item_ids: IdMap | None
) -> None:
    pa, parquet = require('pyarrow', 'Parquet'), require('pyarrow.parquet', 'Parquet')
    types = [pa.int64() if ids is None else pa.string() for ids in (user_ids, item_ids)]
    schema = pa.schema(zip(COLUMNS, [types[0], pa.int32(), types[1], pa.float32()]))
    with parquet.ParquetWriter(path, schema) as writer:
        for block in blocks:
            columns: Rows = ([], [], [], [])
            for user, items, scores in _users(block, user_ids, item_ids):
                columns[0].extend([user] * len(items))
                columns[1].extend(range(1, len(items) + 1))
                columns[2].extend(items)
                columns[3].extend(scores)
            writer.write_table(pa.table(dict(zip(COLUMNS, columns)), schema=schema))


def _users(
    block: Recommendations, user_ids: IdMap | None, item_ids: IdMap | None
) -> Iterator[tuple[Any, list[Any], list[float]]]:
    r"""Gives each user with the items that there are, and their scores."""
    user_name, item_name = _namer(user_ids), _namer(item_ids)
    rows: Sequence[Tensor] = (block.user, block.item, block.score)
    for user, items, scores in zip(*(rows_.tolist() for rows_ in rows)):
        ranked = [(item_name(i), s) for i, s in zip(items, scores) if i >= 0]
        yield user_name(user), [i for i, _ in ranked], [s for _, s in ranked]


def _namer(ids: IdMap | None) -> Callable[[int], Any]:
    return (lambda index: index) if ids is None else ids.__getitem__
