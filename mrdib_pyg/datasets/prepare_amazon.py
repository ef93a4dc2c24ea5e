import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._amazon_files import MetaTexts, check_download, read_image_features
from mrdib_pyg.datasets._source import Source, Workspace
from mrdib_pyg.datasets._rows import Columns, collect
from mrdib_pyg.datasets._download import download as download_file
from mrdib_pyg.datasets._encode_text import describe_encoder, encode_texts
from mrdib_pyg.datasets._encode_text import text_encoder as make_encoder
from mrdib_pyg.datasets._item_features import fill_missing
from mrdib_pyg.datasets._prepare import Settings, find_prepared, prepare, write_prepared
from mrdib_pyg.datasets.prepare_report import PrepareReport

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
        else:
            meta = MetaTexts(files[f'meta_{category}.json.gz'], rows)
            texts = meta.read()
            assert encoder is not None
            notes = {
                'lines of the metadata are broken': meta.num_broken,
                'lines repeat an item': meta.num_repeated,
                'items are not in the metadata': len(rows) - len(meta.found),
            }
            notes = {what: count for what, count in notes.items() if count > 0}
            x, mask = encode_texts(
                [texts.get(raw) for raw in prepared.item_ids],
                encoder,
                cache,
            )
        report.modalities[modality] = {
            'channels': x.shape[1], 'items': int(mask.sum()), 'notes': notes
        }  # fmt: skip
        arrays[modality] = fill_missing(x, mask, fill)
    write_prepared(out, category.lower(), prepared, arrays, report)
    return report


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
