"""Reading of the metadata and image features of Amazon Reviews 2014, in pieces."""

import gzip
import html
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._literal import parse_literal
from mrdib_pyg.datasets.text import join_text

#: A record of image features: the id of an item, and what a network made of its picture.
CHANNELS = 4096
RECORD = np.dtype([('item', 'S10'), ('x', '<f4', CHANNELS)])
#: Bytes of a line of metadata; longer ones are broken.
LINE = 1 << 20
_BATCH = 256
_ASIN = re.compile(rb"""['"]asin['"]\s*:\s*u?['"]([^'"\\]{1,64})['"]""")
_ID = re.compile(rb'[0-9A-Za-z]+')
_RATING = re.compile(rb'[^,]+,[^,]+,[0-9.]+,[0-9]{9,10}\s*')


def check_download(name: str, path: Path) -> None:
    r"""Checks what can be told of a raw file without its content: the checksum of an archive, the
    size of records, the last line of a table.

    Raises:
        ValueError: If it is cut short or damaged.
    """
    size = path.stat().st_size
    if name.endswith('.b'):
        if size % RECORD.itemsize != 0 or size == 0:
            raise ValueError(f'{size} bytes are no whole number of records of {RECORD.itemsize}')
        return
    with open(path, 'rb') as file:
        if name.endswith('.csv'):
            file.seek(max(0, size - 1000))
            last = file.read().rstrip(b'\r\n').rpartition(b'\n')[2]
            if _RATING.fullmatch(last) is None:
                raise ValueError(
                    f'its last line is no user, item, rating and time ({last[-60:]!r})'
                )
            return
        start = file.peek(2)[:2]
        if start != b'\x1f\x8b':
            if start[:1] != b'{':
                raise ValueError(f'it is neither gzip nor a record a line (it starts by {start!r})')
            return
        try:
            with gzip.open(file) as stream:
                while stream.read(1 << 20):
                    pass
        except (EOFError, gzip.BadGzipFile, zlib.error) as e:
            raise ValueError(f'it is no complete gzip archive ({e})') from e


class MetaTexts:
    r"""The texts of items: title, brand, categories and description.

    Args:
        path (Path): ``meta_<Category>.json.gz``: a Python literal or JSON object a line.
        items (Collection[str]): The items whose texts are wanted; other lines are not parsed.

    Attributes:
        num_lines (int): The lines that were read.
        num_broken (int): Those that are too long, have no item, or are of an item that is wanted
            and cannot be parsed.
        num_repeated (int): Those of an item that had a line before: the first counts.
        found (set of str): The items that have a line.
    """

    def __init__(self, path: Path, items: Collection[str]) -> None:
        self.path, self.items = path, items
        self.num_lines = self.num_broken = self.num_repeated = 0
        self.found: set[str] = set()

    def read(self) -> dict[str, str]:
        r"""Reads all texts that are not empty, by item.

        Raises:
            ValueError: If the file is cut short or damaged.
        """
        out: dict[str, str] = {}
        for line in self._lines():
            try:
                entry = self._parse(line)
            except ValueError:
                self.num_broken += 1
                continue
            if entry is None:
                continue
            item = entry['asin']
            if item in self.found:
                self.num_repeated += 1
                continue
            self.found.add(item)
            if text := _text(entry):
                out[item] = text
        return out

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        named = _ASIN.findall(line)
        if len(named) == 0:
            raise ValueError('there is no item')
        if not any(name.decode('latin-1') in self.items for name in named):
            return None
        entry = parse_literal(line.decode('utf-8').strip())
        if not isinstance(entry, dict) or not isinstance(entry.get('asin'), str):
            raise ValueError('there is no item')
        return entry if entry['asin'] in self.items else None

    def _lines(self) -> Iterator[bytes]:
        with open(self.path, 'rb') as file:
            stream = gzip.open(file) if file.peek(2)[:2] == b'\x1f\x8b' else file
            try:
                while line := stream.readline(LINE):
                    self.num_lines += 1
                    if len(line) < LINE or line.endswith(b'\n'):
                        if line.strip():
                            yield line
                        continue
                    self.num_broken += 1
                    while len(line) == LINE and not line.endswith(b'\n'):
                        line = stream.readline(LINE)
            except (EOFError, gzip.BadGzipFile, zlib.error) as e:
                raise ValueError(
                    f"'{self.path}' is cut short or damaged after {self.num_lines} lines ({e}). "
                    f'Please delete it and download it again'
                ) from e


def _text(entry: Mapping[str, Any]) -> str:
    categories = entry.get('categories')
    names: list[str] = []
    for path in categories if isinstance(categories, list) else []:
        for name in path if isinstance(path, list) else [path]:
            if isinstance(name, str) and name not in names:
                names.append(name)
    fields = [entry.get('title'), entry.get('brand'), ', '.join(names), entry.get('description')]
    return join_text([html.unescape(field) for field in fields if isinstance(field, str)])


def read_image_features(
    path: Path, items: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    r"""Reads the features of some items, a batch of records at a time.

    Args:
        path (Path): ``image_features_<Category>.b``: records of an id of ten bytes (shorter ones
            filled up with zeros or blanks) and 4,096 ``float32``, without anything between.
        items (Dict[str, int]): The row of each item that is wanted.

    Returns:
        The features ``float32`` ``[num_items, 4096]``, zero where there are none, which items have
        them, and counts of what was left out, by the reason.

    Raises:
        ValueError: If the file is cut short or damaged.
    """
    size = path.stat().st_size
    if size % RECORD.itemsize != 0 or size == 0:
        raise ValueError(
            f"'{path}' has {size} bytes, which is no whole number of records of "
            f'{RECORD.itemsize}: it is cut short, or an id does not have 10 bytes. Please delete '
            f'it and download it again'
        )
    x = np.zeros((len(items), CHANNELS), dtype=np.float32)
    seen = np.zeros(len(items), dtype=bool)
    faulty = np.zeros(len(items), dtype=bool)
    others = repeated = 0
    with open(path, 'rb') as file:
        for begin in range(0, size // RECORD.itemsize, _BATCH):
            batch = np.fromfile(file, RECORD, _BATCH)
            for place, raw in enumerate(batch['item'].tolist()):
                raw = raw.rstrip(b' ')
                if _ID.fullmatch(raw) is None:
                    raise ValueError(
                        f"'{path}' is damaged: record {begin + place} (byte "
                        f'{(begin + place) * RECORD.itemsize}) has no item id (got {raw!r}). '
                        f'Please delete it and download it again'
                    )
                row = items.get(raw.decode())
                if row is None:
                    others += 1
                elif seen[row]:
                    repeated += 1
                else:
                    seen[row] = True
                    x[row] = batch['x'][place]
                    if not np.isfinite(x[row]).all():
                        faulty[row], x[row] = True, 0.0
    notes = {
        'records are of items that are not kept': others,
        'records repeat an item': repeated,
        'vectors hold NaN or infinity and count as missing': int(faulty.sum()),
    }
    return x, seen & ~faulty, {what: count for what, count in notes.items() if count > 0}
