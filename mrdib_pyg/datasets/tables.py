"""Tables of your own, made into data folders."""

import contextlib
import functools
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._columns import to_arrow
from mrdib_pyg.datasets._prepare import Settings, find_prepared, prepare, write_prepared
from mrdib_pyg.datasets._read import as_array
from mrdib_pyg.datasets._rows import Columns, collect, read_texts
from mrdib_pyg.datasets._source import Source, Workspace
from mrdib_pyg.datasets._values import as_id
from mrdib_pyg.datasets.features import fill_missing, item_features, read_order
from mrdib_pyg.datasets.folder import InteractionFolder
from mrdib_pyg.datasets.ids import IdMap
from mrdib_pyg.datasets.prepare_report import PrepareReport
from mrdib_pyg.datasets.text import describe_encoder, encode_texts
from mrdib_pyg.datasets.text import text_encoder as make_encoder

_BLOCK = 1 << 20


def prepare_table(
    table: Any,
    folder: str | os.PathLike,
    *,
    user: str,
    item: str,
    rating: str | None = None,
    time: str | None = None,
    time_format: str | None = None,
    weight: str | None = None,
    min_rating: float | None = None,
    k_core: int = 1,
    split: str | None = None,
    seed: int = 0,
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
    features: Mapping[str, Any] | None = None,
    item_order: Any = None,
    text: str | Sequence[str] | None = None,
    items: Any = None,
    item_id: str | None = None,
    text_encoder: str | os.PathLike | Callable = 'minilm',
    fill: str = 'mask',
    sep: str | None = None,
    header: bool | None = None,
    names: Sequence[str] | None = None,
    quote: bool = True,
    keep_null_words: bool = False,
    name: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    force: bool = False,
    reuse: bool = False,
    progress: bool = False,
) -> PrepareReport:
    r"""Converts a table with a row for each interaction, and features of the items, into a data
    folder, which :class:`InteractionFolder` and other toolboxes read.

    Rows without ids, or whose numbers cannot be read, are left out, ratings below a threshold too,
    then pairs of user and item that repeat (the earliest row stays), then users and items with few
    interactions, again and again (:func:`k_core`). What is left is numbered in order of first
    appearance; the ids are kept in ``user_ids.csv`` and ``item_ids.csv`` (:class:`IdMap`). What was
    left out, and why, is returned and is in the folder as ``report.json``.

    Args:
        table (str or pd.DataFrame): A file of text (CSV, TSV, other separators), JSON (an object
            a line, or a list) or Parquet, also packed (``.gz``, ``.bz2``, ``.xz``, ``.zst``,
            ``.zip``); a data frame, an Arrow table or a dictionary of columns. DuckDB reads it
            (extra ``[data]``).
        folder (str): The folder to write; it appears once it is complete.
        user (str): The column of user ids, of any type: they are kept as text. Bytes that are no
            UTF-8 become hexadecimal digits.
        item (str): The column of item ids.
        rating (str, optional): The column of ratings. (default: :obj:`None`)
        time (str, optional): The column of times: numbers in any unit, or dates, which become
            seconds since 1970. (default: :obj:`None`)
        time_format (str, optional): The form of these dates in the letters of ``strftime``, such
            as ``'%d/%m/%Y %H:%M'``; rows of another form are left out. Without it, dates may be
            of ISO 8601 and of one other form, the one that reads most of them.
            (default: :obj:`None`)
        weight (str, optional): The column of weights, such as counts of plays; those of repeated
            pairs are added up. Kept in the table; no model of this package reads it.
            (default: :obj:`None`)
        min_rating (float, optional): The least rating that counts. (default: :obj:`None`, all)
        k_core (int, optional): The least number of interactions of a user and of an item.
            (default: :obj:`1`, which drops nothing)
        split (str, optional): :obj:`'random'`, :obj:`'leave_one_out'` or :obj:`'temporal'`, see
            :func:`split_interactions`. (default: :obj:`'temporal'` if there is a column of times,
            else :obj:`'random'`)
        seed (int, optional): Of the random split. (default: :obj:`0`)
        ratios (tuple, optional): Of the temporal split. (default: :obj:`(0.8, 0.1, 0.1)`)
        features (Dict[str, Any], optional): For each modality an array ``[rows, F]`` or an
            ``.npy`` file whose rows are in the order of :obj:`item_order`; or a dictionary from
            item ids to vectors, or an ``.npz`` or ``.safetensors`` file that is one.
            (default: :obj:`None`)
        item_order (sequence or str, optional): The item id of each row of the arrays, or a text
            file with one a line. (default: :obj:`None`: ids are the numbers of the rows)
        text (str or List[str], optional): The columns of texts, joined and encoded as modality
            ``text``. (default: :obj:`None`)
        items (str or pd.DataFrame, optional): The table that has these columns, with a row per
            item. (default: :obj:`None`: :obj:`table` has them)
        item_id (str, optional): Its column of item ids. (default: :obj:`None`, as :obj:`item`)
        text_encoder (str or callable, optional): :obj:`'minilm'` (extra ``[text]``),
            :obj:`'hashing'`, the name or folder of another sentence encoder, or a function from a
            list of texts to an array ``[N, F]``. (default: :obj:`'minilm'`)
        fill (str, optional): Items without a modality get a :obj:`'mask'`, or the :obj:`'mean'` of
            the others. (default: :obj:`'mask'`)
        sep (str, optional): What separates the fields of a text file, of one to four characters.
            (default: :obj:`None`, found out)
        header (bool, optional): Whether its first line has the names of the columns. A file whose
            first line looks like data is refused. (default: :obj:`None`, found out)
        names (List[str], optional): The names of all its columns. (default: :obj:`None`)
        quote (bool, optional): Whether fields of a text file may stand in double quotes.
            (default: :obj:`True`)
        keep_null_words (bool, optional): Whether ids may be words that mean missing, such as
            ``NULL`` and ``NA``; blank ones never are. (default: :obj:`False`)
        name (str, optional): The table is called ``<name>.inter``. (default: :obj:`None`, after
            the folder)
        cache_dir (str, optional): Where the vector of each text is kept under a hash of it: by an
            encoder with a name, only texts that are new are encoded. (default: :obj:`None`)
        force (bool, optional): Replaces data that were prepared before. (default: :obj:`False`)
        reuse (bool, optional): Leaves data that were prepared before from the same inputs and by
            the same settings as they are, and returns their report. Files count as the same by
            their content (one that is gone counts as unchanged), data frames and arrays too; a
            text encoder by its name or its attribute :obj:`name`, and with a function that has
            none data are prepared anew, with a warning. (default: :obj:`False`)
        progress (bool, optional): Whether to show progress bars. (default: :obj:`False`)

    Returns:
        PrepareReport: What was left out and why, and what is left.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file or a setting is not as described, or nothing is left. Nothing is
            written then.

    Example:
        >>> report = prepare_table('orders.csv', 'data/shop', user='customer', item='sku',
        ...                        time='date', features={'image': 'images.npz'})
        >>> data = InteractionFolder('data/shop')[0]
    """
    out = Path(folder).expanduser().absolute()
    features = dict(features or {})
    rating, time, weight = (None if c is None else str(c) for c in (rating, time, weight))
    columns = Columns(
        str(user), str(item), rating, time, weight, min_rating, time_format, keep_null_words
    )
    texts = [str(c) for c in ((text,) if isinstance(text, (str, int)) else text or ())]
    item_id = columns.item if item_id is None else str(item_id)
    used = [*columns.by_kind().values(), *(texts if items is None else ())]
    _check_arguments(columns, texts, features, items, used)
    chosen = split or ('random' if time is None else 'temporal')
    settings = Settings(k_core, chosen, seed, tuple(ratios), fill)  # type: ignore[arg-type]
    settings.check(has_time=time is not None)
    described: dict[str, Any] = {
        **columns.by_kind(), **dict.fromkeys({'rating', 'time', 'weight'} - {*columns.by_kind()}),
        'min_rating': min_rating, **settings._asdict(), 'ratios': list(ratios),
        'modalities': [*features, *(['text'] if texts else [])],
        'sep': sep, 'quote': quote, 'name': name,
    }  # fmt: skip
    inputs = {'table': table, **{f'features {key}': value for key, value in features.items()}}
    if item_order is not None:
        item_order = item_order if _is_path(item_order) else list(item_order)
        inputs['item_order'] = item_order
    if texts:
        described |= {'text': texts, 'text_encoder': describe_encoder(text_encoder)}
        if items is not None:
            described['item_id'], inputs['items'] = item_id, items
    for key, value in (
        ('time_format', time_format), ('header', header), ('names', names and list(names)),
        ('keep_null_words', keep_null_words or None),
    ):  # fmt: skip
        if value is not None:
            described[key] = value
    report = PrepareReport(os.fspath(table) if _is_path(table) else 'a data frame', described)
    before = find_prepared(
        out, report, functools.partial(_describe_inputs, inputs, [*used, *texts, item_id]),
        [Path(value).expanduser() for value in inputs.values() if _is_path(value)],
        text_encoder if texts else None, force=force, reuse=reuse,
    )  # fmt: skip
    if before is not None:
        return before
    if split is None and time is not None:
        report.remarks.append(
            "the split is by time, since there are times; split='random' draws one for each user"
        )
    cache = None if cache_dir is None else Path(cache_dir).expanduser()
    encoder = make_encoder(text_encoder, progress, cache) if texts else None
    order = None if item_order is None else read_order(item_order)
    how: dict[str, Any] = {'sep': sep, 'quote': quote}
    found_texts: dict[str, str] = {}
    own = texts if items is None else []
    with Workspace(out) as work:
        source = Source(work, table, used, texts=own, header=header, names=names, **how)
        rows = collect(source, columns, report, own)
        if own:
            prepared = prepare(rows, settings, report)
            found_texts = read_texts(source, columns.item, own, prepared.item_ids)
    if not own:  # without the memory of what was read
        prepared = prepare(rows, settings, report)
    del rows
    if items is not None:
        with Workspace(out) as work:
            source = Source(work, items, [item_id, *texts], texts=texts, **how)
            fields = {f'f{place}': c for place, c in enumerate(texts)}
            source.create('texts', {'id': item_id, **fields})
            found_texts = read_texts(source, item_id, texts, prepared.item_ids)

    arrays: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}

    def add(modality: str, x: np.ndarray, mask: np.ndarray, notes: dict[str, int]) -> None:
        entry = {'channels': x.shape[1], 'items': int(mask.sum()), 'notes': notes}
        report.modalities[modality] = entry
        arrays[modality] = fill_missing(x, mask, fill)

    for modality, value in features.items():
        add(modality, *item_features(modality, value, prepared.item_ids, order))
    if encoder is not None:
        in_order = [found_texts.get(raw) for raw in prepared.item_ids]
        notes: dict[str, int] = {}
        add('text', *encode_texts(in_order, encoder, cache, notes), notes)
    name = name or re.sub(r'[^\w.-]', '_', out.name) or 'data'
    write_prepared(out, name, prepared, arrays, report)
    return report


def _check_arguments(
    columns: Columns, texts: list[str], features: Mapping[str, Any], items: Any, used: list[str]
) -> None:
    for modality in features:
        if re.fullmatch(r'[A-Za-z0-9_]+', modality) is None:
            raise ValueError(
                f"'features' names the modality {modality!r}: letters, digits and underscores only"
            )
    if texts and 'text' in features:
        raise ValueError("'text' and the features of that name exclude each other: rename these")
    if columns.min_rating is not None and columns.rating is None:
        raise ValueError(f"'min_rating' {columns.min_rating} needs the column of ratings: 'rating'")
    if columns.time_format is not None and columns.time is None:
        raise ValueError(
            f"'time_format' {columns.time_format!r} needs the column of times as 'time'"
        )
    if items is not None and not texts:
        raise ValueError("'items' is only read for texts: please name their columns as 'text'")
    if len(set(used)) < len(used):
        raise ValueError(f'a column has two uses: {used}')


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _describe_inputs(
    inputs: Mapping[str, Any], columns: Sequence[str], before: Mapping[str, Any]
) -> dict[str, Any]:
    r"""Describes inputs, as they are kept in a report. A file that is gone, or has the same content
    since, is described as it was before.
    """
    out: dict[str, Any] = {}
    for name, value in inputs.items():
        if _is_path(value):
            entry = before.get(name)
            out[name] = _of_file(os.fspath(value), entry if isinstance(entry, Mapping) else {})
            continue
        digest = hashlib.sha256()
        _update(digest, value, columns if name in ('table', 'items') else ())
        out[name] = {'sha256': digest.hexdigest()}
    return out


def _of_file(name: str, before: Mapping[str, Any]) -> dict[str, Any]:
    path, known = Path(name).expanduser(), before.get('file') == name
    if not path.is_file():
        return dict(before) if known else {'file': name}
    stat = path.stat()
    entry = {'file': name, 'size': stat.st_size, 'mtime_ns': stat.st_mtime_ns}
    if known and all(before.get(key) == value for key, value in entry.items()):
        return dict(before)
    # Copied files have other times: their content tells.
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    entry['sha256'] = digest.hexdigest()
    return dict(before) if known and before.get('sha256') == entry['sha256'] else entry


def _update(digest: Any, value: Any, columns: Sequence[str]) -> None:
    if columns:
        for column in columns:
            with contextlib.suppress(ValueError):  # that there is none
                digest.update(f'\n{column!r}\n'.encode('utf-8', 'replace'))
                for batch in to_arrow(value, [column]).combine_chunks().to_batches(1_000_000):
                    digest.update(batch.serialize())
    elif isinstance(value, Mapping):
        by_id = {as_id(key): vector for key, vector in value.items()}
        for key in sorted(by_id):
            digest.update(f'\n{key!r} '.encode())
            _update(digest, by_id[key], ())
    else:
        array = as_array(value)
        if array.dtype.hasobject or array.dtype.kind in 'US':
            for raw in map(as_id, array.reshape(-1).tolist()):
                digest.update(f'\n{len(raw)} {raw}'.encode())
            return
        digest.update(f'\n{array.dtype} {list(array.shape)}\n'.encode())
        rows = max(1, _BLOCK * len(array) // max(1, array.nbytes)) if array.ndim > 0 else 1
        for begin in range(0, len(array) if array.ndim > 0 else 0, rows):
            digest.update(array[begin : begin + rows].tobytes())


class InteractionTable(InteractionFolder):
    r"""A table of interactions of your own, with features of the items, as one
    :class:`~torch_geometric.data.HeteroData`.

    At first use :func:`prepare_table` writes the folder :obj:`root`, in which ids are numbered and
    interactions split; it is read from then on, as :class:`InteractionFolder` does, and files may
    be gone then. Another content of a file, data frame or array is noticed and refused: reload.

    Args:
        root (str): The folder to write, or the one that was written before.
        table (str or pd.DataFrame): A table as in :func:`prepare_table`.
        transform (callable, optional): A transform of the :class:`HeteroData`, applied at every
            access. (default: :obj:`None`)
        pre_transform (callable, optional): A transform of the :class:`HeteroData`, applied once.
            (default: :obj:`None`)
        force_reload (bool, optional): Prepares the folder anew. (default: :obj:`False`)
        user (str): The column of user ids.
        item (str): The column of item ids.
        modalities (sequence of str, optional): The modalities to read. (default: :obj:`None`, all)
        cache_dir (str, optional): As in :class:`InteractionFolder` and in :func:`prepare_table`:
            for data and for vectors of texts. (default: :obj:`None`)
        timestamps (bool, optional): As in :class:`InteractionFolder`. (default: :obj:`False`)
        **kwargs (optional): Further arguments of :func:`prepare_table`, such as :obj:`time`,
            :obj:`features` and :obj:`split`.

    Attributes:
        report (PrepareReport): What was left out of the table, and why.
        user_ids (IdMap): The id of each user.
        item_ids (IdMap): The id of each item.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file or a setting is not as :func:`prepare_table` describes, or the folder
            was prepared by other settings or from another content.

    Example:
        >>> dataset = InteractionTable('data/shop', 'orders.csv', user='customer', item='sku',
        ...                            features={'image': 'images.npz'})
        >>> dataset[0]['item'].x_image.size()
        torch.Size([1200, 512])
    """

    report: PrepareReport
    user_ids: IdMap
    item_ids: IdMap

    def __init__(
        self,
        root: str | os.PathLike,
        table: Any,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        force_reload: bool = False,
        *,
        user: str,
        item: str,
        modalities: Sequence[str] | None = None,
        cache_dir: str | os.PathLike | None = None,
        timestamps: bool = False,
        **kwargs: Any,
    ) -> None:
        root = os.path.expanduser(os.fspath(root))
        self.report = prepare_table(
            table, root, user=user, item=item, cache_dir=cache_dir, force=force_reload, reuse=True,
            **kwargs,
        )  # fmt: skip
        with without_counts():
            super().__init__(
                root, transform, pre_transform, force_reload,
                modalities=modalities, cache_dir=cache_dir, timestamps=timestamps,
            )  # fmt: skip
        self.user_ids, self.item_ids = load_ids(root)


@contextlib.contextmanager
def without_counts() -> Iterator[None]:
    r"""Leaves out the counted warning of a folder: the report has these counts."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', r"'[^\n]*\.inter': ", UserWarning)
        yield


def load_ids(folder: str) -> tuple[IdMap, IdMap]:
    r"""Reads both files of ids of a folder that was prepared."""
    maps = [IdMap.load(folder, kind) for kind in ('user', 'item')]
    if maps[0] is None or maps[1] is None:
        raise FileNotFoundError(f"'{folder}' lacks a file of ids; prepare it anew")
    return maps[0], maps[1]
