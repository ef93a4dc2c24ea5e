"""Amazon Reviews of 2014: its raw files, and the data folders made of them."""

import ast
import contextlib
import functools
import gzip
import hashlib
import html
import json
import os
import os.path as osp
import re
import warnings
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._download import download as download_file
from mrdib_pyg.datasets._prepare import Settings, find_prepared, prepare, write_prepared
from mrdib_pyg.datasets._rows import Columns, collect
from mrdib_pyg.datasets._source import Source, Workspace
from mrdib_pyg.datasets.features import fill_missing
from mrdib_pyg.datasets.folder import InteractionFolder
from mrdib_pyg.datasets.ids import IdMap
from mrdib_pyg.datasets.prepare_report import PrepareReport
from mrdib_pyg.datasets.tables import load_ids, without_counts
from mrdib_pyg.datasets.text import describe_encoder, encode_texts, join_text
from mrdib_pyg.datasets.text import text_encoder as make_encoder

#: Where the authors of the data set publish it.
BASE = 'https://snap.stanford.edu/data/amazon/productGraph'
CATEGORIES = (
    'Amazon_Instant_Video', 'Apps_for_Android', 'Automotive', 'Baby', 'Beauty', 'Books',
    'CDs_and_Vinyl', 'Cell_Phones_and_Accessories', 'Clothing_Shoes_and_Jewelry', 'Digital_Music',
    'Electronics', 'Grocery_and_Gourmet_Food', 'Health_and_Personal_Care', 'Home_and_Kitchen',
    'Kindle_Store', 'Movies_and_TV', 'Musical_Instruments', 'Office_Products',
    'Patio_Lawn_and_Garden', 'Pet_Supplies', 'Sports_and_Outdoors', 'Tools_and_Home_Improvement',
    'Toys_and_Games', 'Video_Games',
)  # fmt: skip
MODALITIES = ('image', 'text')


def find_category(name: str) -> str:
    r"""Returns the name of a category as its files have it: ``'Sports'`` is
    ``'Sports_and_Outdoors'``.

    Raises:
        ValueError: If it cannot be part of the name of a file, or begins several names.
    """
    plain = name.strip().replace(' ', '_')
    if re.fullmatch(r'[A-Za-z0-9_]{1,100}', plain) is None:
        raise ValueError(
            f"'name' needs to be a category such as 'Baby' or 'Sports_and_Outdoors' (got {name!r})"
        )
    lower = plain.lower()
    for known in CATEGORIES:
        if known.lower() == lower:
            return known
    found = [known for known in CATEGORIES if known.lower().startswith(lower)]
    if len(found) > 1:
        raise ValueError(f"'name' {name!r} is not clear: it may be {' or '.join(found)}")
    return found[0] if found else plain


def raw_files(category: str, modalities: Sequence[str] = MODALITIES) -> dict[str, str]:
    r"""Returns the names of the raw files of a category, and their addresses."""
    out = {f'ratings_{category}.csv': f'{BASE}/categoryFiles/ratings_{category}.csv'}
    if 'text' in modalities:
        out[f'meta_{category}.json.gz'] = f'{BASE}/categoryFiles/meta_{category}.json.gz'
    if 'image' in modalities:
        name = f'image_features_{category}.b'
        out[name] = f'{BASE}/image_features/categoryFiles/{name}'
    return out


def find_raw_files(
    root: Path,
    category: str,
    modalities: Sequence[str] = MODALITIES,
    download: bool = True,
    url: str | None = None,
    progress: bool = False,
) -> dict[str, Path]:
    r"""Finds the raw files in :obj:`root` or ``root/raw``; missing ones are downloaded into the
    latter.

    Returns:
        Dict[str, Path]: The path of each, by its name.

    Raises:
        FileNotFoundError: If one is missing and cannot be downloaded. The message says which files
            to put where.
        ValueError: If the table of ratings is cut short.
    """
    names = raw_files(category, modalities)
    folder = _raw_folder(root, names)
    missing = [name for name in names if not (folder / name).is_file()]
    new = [path for path in (folder, root) if not path.exists()]
    reason = ''
    for name in missing if download else []:
        address = names[name] if url is None else f'{url.rstrip("/")}/{name}'
        try:
            download_file(address, folder / name, progress, functools.partial(check_download, name))
        except ConnectionError as e:
            reason = f'; {e}'
            break
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        for path in new:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise FileNotFoundError(
            f"'{folder}' lacks {', '.join(missing)}{reason}. Please put there the files of Amazon "
            f"Reviews 2014 for the category '{category}', from {BASE}: {', '.join(names)}"
        )
    for name in names:
        # Of what was cut, the last line has no end; the other files are found out as they are read.
        if name.endswith('.csv') and not _ends_a_line(folder / name):
            try:
                check_download(name, folder / name)
            except ValueError as e:
                raise ValueError(f"'{folder / name}' is damaged: {e}; download it again") from e
    return {name: folder / name for name in names}


def _ends_a_line(path: Path) -> bool:
    with open(path, 'rb') as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read() in (b'', b'\n')


def _raw_folder(root: Path, names: Iterable[str]) -> Path:
    return root if any((root / name).is_file() for name in names) else root / 'raw'


def _describe_files(root: Path, names: Iterable[str], before: Mapping[str, Any]) -> dict[str, Any]:
    r"""The sizes of the raw files: one that is gone has that of before."""
    paths = {name: _raw_folder(root, names) / name for name in names}
    return {
        name: path.stat().st_size if path.is_file() else before.get(name)
        for name, path in paths.items()
    }


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


#: Nesting of metadata beyond this is refused.
DEPTH = 32
_TEXT = r"""[uU]?(?:'[^'\\\n]*(?:\\.[^'\\\n]*)*'|"[^"\\\n]*(?:\\.[^"\\\n]*)*")"""
_TEXT_OR_WORD = re.compile(rf'({_TEXT})|\b(null|true|false|nan|NaN)\b|(?<=\d)L\b', re.DOTALL)
_WORDS = {'null': 'None', 'nan': 'None', 'NaN': 'None', 'true': 'True', 'false': 'False'}
_REST = re.compile(
    r'[\s,:]+|[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,4})?|None|True|False'
)


def parse_literal(text: str) -> Any:
    r"""Returns the value that :obj:`text` spells as a Python literal or as JSON: dictionaries,
    lists, texts and numbers.

    :func:`ast.literal_eval` compiles its text, which deep nesting and long sums can make crash the
    interpreter: it only gets what is flat enough, and has no operators.

    Raises:
        ValueError: If it is no literal, or is nested too deeply.
    """
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    plain = _TEXT_OR_WORD.sub(lambda found: found[1] or _WORDS.get(found[2] or '', ''), text)
    marks = _REST.sub('', _TEXT_OR_WORD.sub(lambda found: '' if found[1] else found[0], plain))
    depth = deepest = 0
    for mark in marks:
        if mark not in '[](){}':
            raise ValueError(f'{mark!r} is not part of a literal')
        depth += 1 if mark in '[({' else -1
        deepest = max(deepest, depth)
    if deepest > DEPTH:
        raise ValueError(f'nested more than {DEPTH} times')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of escapes that Python does not know
            return ast.literal_eval(plain.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as e:
        raise ValueError(f'no literal ({e})') from e


def _text(entry: Mapping[str, Any]) -> str:
    categories = entry.get('categories')
    names: list[str] = []
    for path in categories if isinstance(categories, list) else []:
        for name in path if isinstance(path, list) else [path]:
            if isinstance(name, str) and name not in names:
                names.append(name)
    fields = [entry.get('title'), entry.get('brand'), ', '.join(names), entry.get('description')]
    texts = [html.unescape(field) for field in fields if isinstance(field, str)]
    # Pairs of surrogates are one character; a half of one is none.
    return join_text(x.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') for x in texts)


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


def prepare_amazon(
    root: str | os.PathLike,
    name: str,
    folder: str | os.PathLike,
    *,
    modalities: Sequence[str] = MODALITIES,
    text_encoder: str | os.PathLike | Callable = 'minilm',
    k_core: int = 5,
    min_rating: float | None = None,
    split: str = 'random',
    seed: int = 0,
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
    fill: str = 'mask',
    download: bool = True,
    url: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    force: bool = False,
    reuse: bool = False,
    progress: bool = False,
) -> PrepareReport:
    r"""Makes a folder that :class:`InteractionFolder` and other toolboxes read of the raw files of
    Amazon Reviews 2014, published with `"Image-based Recommendations on Styles and Substitutes"
    <https://arxiv.org/abs/1506.04757>`_ and `"Ups and Downs" <https://arxiv.org/abs/1602.01585>`_.

    Three files are read, a piece at a time: ``ratings_<Category>.csv`` (user, item, rating, time),
    ``meta_<Category>.json.gz`` (a Python literal a line) and ``image_features_<Category>.b`` (4,096
    numbers an item). Of the last two only items that stay are kept in memory. The text of an item
    is its title, brand, categories and description. See :func:`prepare_table` for the order of the
    steps.

    Args:
        root (str): The folder with the raw files, or the one to download them into, as ``raw``.
        name (str): The category: :obj:`'Baby'`, :obj:`'Sports'`, :obj:`'Clothing'` or the full name
            of any other.
        folder (str): The folder to write; it appears once it is complete.
        modalities (sequence of str, optional): The modalities to prepare.
            (default: :obj:`('image', 'text')`)
        text_encoder (str or callable, optional): As in :func:`prepare_table`.
            (default: :obj:`'minilm'`)
        k_core (int, optional): The least number of interactions of a user and of an item.
            (default: :obj:`5`)
        min_rating (float, optional): The least rating that counts. (default: :obj:`None`, all)
        split (str, optional): :obj:`'random'`, :obj:`'leave_one_out'` or :obj:`'temporal'`.
            (default: :obj:`'random'`)
        seed (int, optional): Of the random split. (default: :obj:`0`)
        ratios (tuple, optional): Of the temporal split. (default: :obj:`(0.8, 0.1, 0.1)`)
        fill (str, optional): Items without a modality get a :obj:`'mask'`, or the :obj:`'mean'` of
            the others. (default: :obj:`'mask'`)
        download (bool, optional): Whether to download missing files. (default: :obj:`True`)
        url (str, optional): A mirror: the address of a folder with the files.
            (default: :obj:`None`, the authors')
        cache_dir (str, optional): Where the vector of each text is kept, as in
            :func:`prepare_table`. (default: :obj:`None`, ``root/cache``)
        force (bool, optional): Replaces data that were prepared before. (default: :obj:`False`)
        reuse (bool, optional): Leaves data that were prepared before by the same settings, from
            raw files of the same size (or that are gone since), as they are, and returns their
            report. As in :func:`prepare_table`, a text encoder needs a name for that.
            (default: :obj:`False`)
        progress (bool, optional): Whether to show progress bars. (default: :obj:`False`)

    Returns:
        PrepareReport: What was left out and why, and what is left.

    Raises:
        FileNotFoundError: If a raw file is missing and cannot be downloaded.
        ValueError: If a file is damaged, or a setting is not as described. Nothing is written then.
    """
    category = find_category(name)
    base, out = Path(root).expanduser(), Path(folder).expanduser().absolute()
    settings = Settings(k_core, split, seed, tuple(ratios), fill)  # type: ignore[arg-type]
    settings.check(has_time=True)
    report = PrepareReport(
        f'ratings_{category}.csv',
        describe_settings(category, settings, modalities, text_encoder, min_rating),
    )
    names = list(raw_files(category, modalities))
    before = find_prepared(
        out, report, functools.partial(_describe_files, base, names),
        [],
        text_encoder if 'text' in modalities else None, force=force, reuse=reuse,
    )  # fmt: skip
    if before is not None:
        return before
    cache = base / 'cache' if cache_dir is None else Path(cache_dir).expanduser()
    encoder = make_encoder(text_encoder, progress, cache) if 'text' in modalities else None
    files = find_raw_files(base, category, modalities, download, url, progress)
    report.settings['inputs'] = _describe_files(base, names, {})  # downloaded ones too

    columns = Columns('user', 'item', 'rating', 'time', min_rating=min_rating)
    names_of = list(columns.by_kind().values())
    with Workspace(out) as work:
        path = files[f'ratings_{category}.csv']
        source = Source(work, path, names_of, sep=',', header=False, names=names_of)
        prepared = prepare(collect(source, columns, report), settings, report)
    arrays: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    rows = {raw: i for i, raw in enumerate(prepared.item_ids)}
    for modality in modalities:
        notes: dict[str, int]
        if modality == 'image':
            path = files[f'image_features_{category}.b']
            x, mask, notes = read_image_features(path, rows)
            num_faulty = notes.get('vectors hold NaN or infinity and count as missing', 0)
            _check_found(modality, int(mask.sum()) + num_faulty, category, prepared.item_ids)
        else:
            meta = MetaTexts(files[f'meta_{category}.json.gz'], rows)
            texts = meta.read()
            _check_found(modality, len(meta.found), category, prepared.item_ids)
            assert encoder is not None
            notes = {
                'lines of the metadata are broken': meta.num_broken,
                'lines repeat an item': meta.num_repeated,
                'items are not in the metadata': len(rows) - len(meta.found),
            }
            notes = {what: count for what, count in notes.items() if count > 0}
            in_order = [texts.get(raw) for raw in prepared.item_ids]
            x, mask = encode_texts(in_order, encoder, cache, notes)
        report.modalities[modality] = {
            'channels': x.shape[1], 'items': int(mask.sum()), 'notes': notes
        }  # fmt: skip
        arrays[modality] = fill_missing(x, mask, fill)
    write_prepared(out, category.lower(), prepared, arrays, report)
    return report


def _check_found(modality: str, count: int, category: str, item_ids: Sequence[str]) -> None:
    if count == 0:
        raise ValueError(
            f'0 of {len(item_ids):,} items have a record of their {modality}: the items of '
            f'ratings_{category}.csv are such as {item_ids[0][:40]!r}. Its columns need to be '
            f'user, item, rating, time, in this order (another release has the item first), and '
            f'all files of one release'
        )


def describe_settings(
    category: str,
    settings: Settings,
    modalities: Sequence[str],
    text_encoder: str | os.PathLike | Callable,
    min_rating: float | None,
) -> dict[str, Any]:
    r"""The settings as they are kept in a report."""
    unknown = [modality for modality in modalities if modality not in MODALITIES]
    if unknown or len(set(modalities)) < len(modalities):
        raise ValueError(f"'modalities' needs to be of {list(MODALITIES)} (got {modalities})")
    out: dict[str, Any] = {'category': category, 'min_rating': min_rating, **settings._asdict()}
    out['ratios'], out['modalities'] = list(settings.ratios), list(modalities)
    if 'text' in modalities:
        out['text_encoder'] = describe_encoder(text_encoder)
    return out


class AmazonReviews(InteractionFolder):
    r"""A category of the Amazon Reviews of 2014, from the `"Image-based Recommendations on Styles
    and Substitutes" <https://arxiv.org/abs/1506.04757>`_ paper, with image features and encoded
    texts, from the raw files that its authors publish.

    At first use the raw files are looked for in :obj:`root` and ``root/raw``, missing ones are
    downloaded into the latter (a download that was stopped is continued), and
    :func:`prepare_amazon` writes a folder into ``root/processed``, one for each choice of settings.
    It is read from then on.

    Args:
        root (str): The folder with the raw files, or the one to download them into.
        name (str, optional): The category: :obj:`'Baby'`, :obj:`'Sports'`, :obj:`'Clothing'` or the
            full name of any other, such as :obj:`'Electronics'`. (default: :obj:`'Baby'`)
        transform (callable, optional): A transform of the :class:`HeteroData`, applied at every
            access. (default: :obj:`None`)
        pre_transform (callable, optional): A transform of the :class:`HeteroData`, applied once.
            (default: :obj:`None`)
        force_reload (bool, optional): Prepares the data anew. (default: :obj:`False`)
        modalities (sequence of str, optional): The modalities to prepare and read.
            (default: :obj:`('image', 'text')`)
        text_encoder (str or callable, optional): :obj:`'minilm'` (extra ``[text]``),
            :obj:`'hashing'`, which needs no download, the name or folder of another sentence
            encoder, or a function from a list of texts to an array ``[N, F]``; data of one without
            an attribute :obj:`name` are prepared anew each time. (default: :obj:`'minilm'`)
        k_core (int, optional): The least number of interactions of a user and of an item.
            (default: :obj:`5`)
        min_rating (float, optional): The least rating that counts. (default: :obj:`None`, all)
        split (str, optional): :obj:`'random'`, :obj:`'leave_one_out'` or :obj:`'temporal'`, see
            :func:`split_interactions`. (default: :obj:`'random'`)
        seed (int, optional): Of the random split. (default: :obj:`0`)
        ratios (tuple, optional): Of the temporal split. (default: :obj:`(0.8, 0.1, 0.1)`)
        fill (str, optional): Items without a modality get a :obj:`'mask'`, or the :obj:`'mean'` of
            the others. (default: :obj:`'mask'`)
        url (str, optional): A mirror: the address of a folder with the raw files.
            (default: :obj:`None`, the authors')
        cache_dir (str, optional): As in :class:`InteractionFolder`. (default: :obj:`None`)
        timestamps (bool, optional): As in :class:`InteractionFolder`. (default: :obj:`False`)
        progress (bool, optional): Whether to show progress bars. (default: :obj:`False`)

    Attributes:
        report (PrepareReport): What was left out of the raw files, and why.
        user_ids (IdMap): The id of each user.
        item_ids (IdMap): The id of each item.

    Raises:
        FileNotFoundError: If a file is missing and cannot be downloaded. The message says which
            files to put where.
        ValueError: If a file is damaged, or a setting is not as described.

    Example:
        >>> dataset = AmazonReviews('data/amazon', 'Baby', text_encoder='hashing')
        >>> dataset.report.kept
        {'interactions': 160792, 'users': 19445, 'items': 7050}
    """

    report: PrepareReport
    user_ids: IdMap
    item_ids: IdMap

    def __init__(
        self,
        root: str | os.PathLike,
        name: str = 'Baby',
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        force_reload: bool = False,
        *,
        modalities: Sequence[str] = MODALITIES,
        text_encoder: str | os.PathLike | Callable = 'minilm',
        k_core: int = 5,
        min_rating: float | None = None,
        split: str = 'random',
        seed: int = 0,
        ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
        fill: str = 'mask',
        url: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        timestamps: bool = False,
        progress: bool = False,
    ) -> None:
        self.category = find_category(name)
        self.modalities = list(modalities)
        settings = Settings(k_core, split, seed, tuple(ratios), fill)  # type: ignore[arg-type]
        described = describe_settings(self.category, settings, modalities, text_encoder, min_rating)
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        self._folder = f'{self.category.lower()}-{digest[:8]}'
        self._prepare = lambda: prepare_amazon(
            self.root, self.category, self.folder, modalities=modalities,
            text_encoder=text_encoder, k_core=k_core, min_rating=min_rating, split=split, seed=seed,
            ratios=ratios, fill=fill, url=url, force=force_reload, reuse=True, progress=progress,
        )  # fmt: skip
        with without_counts():
            super().__init__(
                root, transform, pre_transform, force_reload,
                modalities=modalities, cache_dir=cache_dir, timestamps=timestamps,
            )  # fmt: skip
        self.user_ids, self.item_ids = load_ids(self.folder)

    @property
    def raw_dir(self) -> str:
        if any((Path(self.root) / name).is_file() for name in self.raw_file_names):
            return self.root
        return osp.join(self.root, 'raw')

    @property
    def raw_file_names(self) -> list[str]:
        return list(raw_files(self.category, self.modalities))

    @property
    def folder(self) -> str:
        return osp.join(self.root, 'processed', self._folder)

    def download(self) -> None:
        r"""Downloads what is missing and prepares the folder that is read."""
        self.report = self._prepare()
        del self._prepare  # it would keep the dataset from being pickled

    def _download(self) -> None:
        # The base class would create the folder before there is anything to put into it.
        self.download()

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.category})'
