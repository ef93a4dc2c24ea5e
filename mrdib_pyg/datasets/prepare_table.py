import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._chunks import Chunks
from mrdib_pyg.datasets._collect import Columns, as_id, collect
from mrdib_pyg.datasets._inputs import describe_inputs, find_prepared
from mrdib_pyg.datasets._prepare import Settings, prepare, write_prepared
from mrdib_pyg.datasets.features import fill_missing, item_features, read_order
from mrdib_pyg.datasets.prepare_report import PrepareReport
from mrdib_pyg.datasets.text import describe_encoder, encode_texts, join_text, text_encoder


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
    split: str = 'random',
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
    quote: bool = True,
    name: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    force: bool = False,
    reuse: bool = False,
    progress: bool = False,
) -> PrepareReport:
    r"""Makes a folder that :class:`InteractionFolder` and other toolboxes read of a table of
    interactions with a row each, and of features of the items.

    Rows without ids, or whose numbers cannot be read, are left out, ratings below a threshold too,
    then pairs of user and item that repeat (the earliest row stays), then users and items with few
    interactions, again and again (:func:`k_core`). What is left is numbered in order of first
    appearance; the ids are kept in ``user_ids.csv`` and ``item_ids.csv`` (:class:`IdMap`). What was
    left out, and why, is returned and is in the folder as ``report.json``.

    Args:
        table (str or pd.DataFrame): A CSV or TSV file (also ``.gz``), a Parquet file (extra
            ``[data]``), or a data frame. Files are read in pieces.
        folder (str): The folder to write; it appears once it is complete.
        user (str): The column of user ids, of any type: they are kept as text.
        item (str): The column of item ids.
        rating (str, optional): The column of ratings. (default: :obj:`None`)
        time (str, optional): The column of times: numbers in any unit, or dates, which become
            seconds since 1970. (default: :obj:`None`)
        time_format (str, optional): The form of these dates in the letters of ``strftime``, such
            as ``'%d/%m/%Y %H:%M'``; rows of another form are left out. Without it, dates may be
            of ISO 8601 or of one other form in which the day and the month are not both numbers.
            (default: :obj:`None`)
        weight (str, optional): The column of weights, such as counts of plays; those of repeated
            pairs are added up. Kept in the table; no model of this package reads it.
            (default: :obj:`None`)
        min_rating (float, optional): The least rating that counts. (default: :obj:`None`, all)
        k_core (int, optional): The least number of interactions of a user and of an item.
            (default: :obj:`1`, which drops nothing)
        split (str, optional): :obj:`'random'`, :obj:`'leave_one_out'` or :obj:`'temporal'`, see
            :func:`split_interactions`. (default: :obj:`'random'`)
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
        sep (str, optional): What separates the fields of a text file. (default: :obj:`None`, by its
            name)
        quote (bool, optional): Whether fields of a text file may stand in double quotes.
            (default: :obj:`True`)
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
    texts = (text,) if isinstance(text, str) else tuple(text or ())
    features = dict(features or {})
    for modality in features:
        if re.fullmatch(r'[A-Za-z0-9_]+', modality) is None:
            raise ValueError(
                f"'features' names the modality {modality!r}: letters, digits and underscores only"
            )
    if texts and 'text' in features:
        raise ValueError("'text' and the features of that name exclude each other: rename these")
    if min_rating is not None and rating is None:
        raise ValueError(f"'min_rating' {min_rating} needs the column of ratings as 'rating'")
    if time_format is not None and time is None:
        raise ValueError(f"'time_format' {time_format!r} needs the column of times as 'time'")
    if items is not None and not texts:
        raise ValueError("'items' is only read for texts: please name their columns as 'text'")
    settings = Settings(k_core, split, seed, tuple(ratios), fill)  # type: ignore[arg-type]
    settings.check(has_time=time is not None)
    names = texts if items is None else ()
    columns = Columns(user, item, rating, time, weight, names, min_rating, time_format)
    if len(set(columns.names())) < len(columns.names()):
        raise ValueError(f'a column has two uses: {columns.names()}')

    source = 'a data frame' if hasattr(table, 'columns') else os.fspath(table)
    described: dict[str, Any] = {
        'user': user, 'item': item, 'rating': rating, 'time': time, 'weight': weight,
        'min_rating': min_rating, **settings._asdict(), 'ratios': list(ratios),
        'modalities': [*features, *(['text'] if texts else [])],
        'sep': sep, 'quote': quote, 'name': name,
    }  # fmt: skip
    inputs = {'table': table, **{f'features {key}': value for key, value in features.items()}}
    if item_order is not None:
        item_order = item_order if _is_path(item_order) else list(item_order)
        inputs['item_order'] = item_order
    if texts:
        described['text'] = list(texts)
        described['text_encoder'] = describe_encoder(text_encoder)
        if items is not None:
            described['item_id'] = item_id or item
            inputs['items'] = items
    if time_format is not None:
        described['time_format'] = time_format
    report = PrepareReport(source, described)
    read = [*columns.names(), *texts, item_id or item]
    before = find_prepared(
        out, report, functools.partial(describe_inputs, inputs, read),
        text_encoder if texts else None, force=force, reuse=reuse,
    )  # fmt: skip
    if before is not None:
        return before
    cache = None if cache_dir is None else Path(cache_dir).expanduser()
    encoder = _encoder(text_encoder, progress, cache) if texts else None
    order = None if item_order is None else read_order(item_order)
    chunks = Chunks(table, columns.names(), columns.numbers(), sep=sep, quote=quote)
    rows = collect(chunks, columns, report)
    found_text = rows.text
    prepared = prepare(rows, settings, report)
    del rows

    arrays: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}

    def add(modality: str, x: np.ndarray, mask: np.ndarray, notes: dict[str, int]) -> None:
        entry = {'channels': x.shape[1], 'items': int(mask.sum()), 'notes': notes}
        report.modalities[modality] = entry
        arrays[modality] = fill_missing(x, mask, fill)

    for modality, value in features.items():
        add(modality, *item_features(modality, value, prepared.item_ids, order))
    if encoder is not None:
        if items is not None:
            found_text = _read_texts(items, item_id or item, texts, prepared.item_ids, sep, quote)
        in_order = [found_text.get(raw) for raw in prepared.item_ids]
        add('text', *encode_texts(in_order, encoder, cache), {})
    write_prepared(out, name or _name_of(out), prepared, arrays, report)
    return report


_encoder = text_encoder


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _name_of(folder: Path) -> str:
    return re.sub(r'[^\w.-]', '_', folder.name) or 'data'


def _read_texts(
    items: Any, item_id: str, texts: Sequence[str], wanted: Sequence[str], sep: Any, quote: bool
) -> dict[str, str]:
    kept = set(wanted)
    out: dict[str, str] = {}
    for frame in Chunks(items, [item_id, *texts], sep=sep, quote=quote):
        for raw, *fields in frame[[item_id, *texts]].itertuples(index=False):
            key = as_id(raw)
            if key in kept and key not in out and (text := join_text(fields)):
                out[key] = text
    return out
