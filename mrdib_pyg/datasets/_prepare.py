"""From interactions to a folder: repeated pairs, k-core, numbers, split, files; and whether an old
folder may be replaced, or used again.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrdib_pyg.datasets.folder import array_files
from mrdib_pyg.datasets.ids import FILES, IdMap
from mrdib_pyg.datasets.prepare_report import FILE, PrepareReport
from mrdib_pyg.datasets.splits import SPLIT_NAMES, k_core, split_interactions
from mrdib_pyg.datasets.text import is_named
from mrdib_pyg.files import replacing, replacing_folder, write_array, write_table


class Settings(NamedTuple):
    r"""How interactions are cleaned and split; see :func:`prepare_table`."""

    k_core: int
    split: str
    seed: int
    ratios: tuple[float, float, float]
    fill: str

    def check(self, has_time: bool) -> None:
        if self.k_core < 1:
            raise ValueError(
                f"'k_core' needs to be at least 1, which drops nothing (got {self[0]})"
            )
        if self.split not in SPLIT_NAMES:
            raise ValueError(f"'split' needs to be one of {list(SPLIT_NAMES)} (got {self.split!r})")
        if self.split != 'random' and not has_time:
            raise ValueError(
                f"'split' {self.split!r} orders interactions by time: please name the column of "
                f"times, or split by 'random'"
            )
        if self.fill not in ('mask', 'mean'):
            raise ValueError(f"'fill' needs to be 'mask' or 'mean' (got {self.fill!r})")


class Rows(NamedTuple):
    r"""Interactions as indices of ids, one entry each, in the order of their table."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray | None
    time: np.ndarray | None
    weight: np.ndarray | None
    user_ids: list[str]
    item_ids: list[str]


class Prepared(NamedTuple):
    r"""Interactions as they are written: users and items numbered from 0, each with its id."""

    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    rating: np.ndarray | None
    time: np.ndarray | None
    weight: np.ndarray | None
    user_ids: list[str]
    item_ids: list[str]


def prepare(rows: Rows, settings: Settings, report: PrepareReport) -> Prepared:
    r"""Cleans, numbers and splits interactions."""
    if rows.user.size == 0:
        raise ValueError(f'no interaction of {report.source} is left: {_why(report)}')
    kept, weight = _first_of_pairs(rows)
    report.drop('that repeat a pair of user and item', rows.user.size - kept.size)
    stays = k_core(rows.user[kept], rows.item[kept], settings.k_core)
    what = f'of users or items with fewer than {settings.k_core} ({settings.k_core}-core)'
    report.drop(what, kept.size - stays.size)
    if stays.size == 0:
        raise ValueError(
            f'no interaction of {report.source} is left: {_why(report)}. Please choose a smaller '
            f"'k_core'"
        )
    kept = kept[stays]
    user, user_ids = _by_appearance(rows.user[kept], rows.user_ids)
    item, item_ids = _by_appearance(rows.item[kept], rows.item_ids)
    rating, time, weight = (
        None if array is None else array[kept] for array in (rows.rating, rows.time, weight)
    )
    label = split_interactions(
        settings.split, user, item, time, seed=settings.seed, ratios=settings.ratios
    )
    train = label == 0
    if not train.any():
        raise ValueError(
            f'no interaction of {report.source} would be left for training. Please choose another '
            f"'split'"
        )
    report.kept = {
        'interactions': int(user.size), 'users': len(user_ids), 'items': len(item_ids)
    }  # fmt: skip
    count = np.bincount(label, minlength=3).tolist()
    report.split = dict(zip(('train', 'validation', 'test'), count))
    for index, kind in ((user, 'users'), (item, 'items')):
        without = report.kept[kind] - np.count_nonzero(np.bincount(index[train]))
        report.note(f'{kind} have no training interaction', int(without))
    _warn_of_lists(item, item_ids)
    return Prepared(user, item, label, rating, time, weight, user_ids, item_ids)


def _warn_of_lists(item: np.ndarray, item_ids: list[str]) -> None:
    once = int(np.count_nonzero(np.bincount(item) == 1))
    lists = sum(re.search(r'\S[\s,;|]+\S', raw) is not None for raw in item_ids)
    if once > 0.9 * item.size and (item.size >= 100 or (lists > 0.5 * item.size and once > 2)):
        longest = max(item_ids, key=len)
        warnings.warn(
            f'{once:,} of {item.size:,} interactions are with an item that has no other, such as '
            f'{longest[:60]!r}: nothing can be learned of it. If the column holds several items in '
            f'a field, please write a row for each',
            stacklevel=4,
        )


def _why(report: PrepareReport) -> str:
    reasons = [f'{count:,} {reason}' for reason, count in report.reasons().items()]
    return f'{report.num_rows:,} rows were read' + (f', {", ".join(reasons)}' if reasons else '')


def _first_of_pairs(rows: Rows) -> tuple[np.ndarray, np.ndarray | None]:
    r"""The places of the earliest row of each pair (of equal times, and without times, of the
    first), in order, and the weights of all rows, which are added up at these places.
    """
    code = rows.user.astype(np.int64) * (int(rows.item.max()) + 1) + rows.item
    order = np.argsort(code, kind='stable')
    code = code[order]
    same = np.zeros(code.size + 1, dtype=bool)  # as the one before
    same[1:-1] = code[1:] == code[:-1]
    kept = np.ones(code.size, dtype=bool)
    again = order[same[:-1] | same[1:]]
    weight = rows.weight
    if again.size > 0:
        code = rows.user[again].astype(np.int64) * (int(rows.item.max()) + 1) + rows.item[again]
        keys = (code,) if rows.time is None else (rows.time[again], code)
        within = np.lexsort((again, *keys))
        again, code = again[within], code[within]
        first = np.ones(code.size, dtype=bool)
        first[1:] = code[1:] != code[:-1]
        kept[again] = first
        if weight is not None:
            weight = weight.copy()
            sums = np.add.reduceat(weight[again].astype(np.float64), np.flatnonzero(first))
            weight[again[first]] = sums
    return np.flatnonzero(kept), weight


def _by_appearance(index: np.ndarray, ids: list[str]) -> tuple[np.ndarray, list[str]]:
    r"""Relabels by first appearance; returns the new numbers, and the ids in their order."""
    place = np.full(len(ids), index.size, dtype=np.int64)
    place[index[::-1]] = np.arange(index.size - 1, -1, -1)  # the first place is written last
    codes = np.argsort(place, kind='stable')[: np.count_nonzero(place < index.size)]
    number = np.empty(len(ids), dtype=np.int32)
    number[codes] = np.arange(codes.size)
    return number[index], [ids[code] for code in codes.tolist()]


def find_prepared(
    folder: Path,
    report: PrepareReport,
    describe: Callable[[Mapping[str, Any]], dict[str, Any]],
    paths: Iterable[Path],
    encoder: Any = None,
    *,
    force: bool,
    reuse: bool,
) -> PrepareReport | None:
    r"""Returns the report of data that were prepared before and can stay; adds the inputs to the
    settings of :obj:`report`.

    Args:
        folder (Path): The folder that is to be written.
        report (PrepareReport): With the source and all other settings.
        describe (Callable): Describes the inputs, given their earlier description.
        paths (List[Path]): The files that are read.
        encoder (str or callable, optional): The text encoder. Data of a function without a name
            cannot be told from those of another: they are prepared anew, with a warning.
            (default: :obj:`None`)
        force (bool): Whether to replace data.
        reuse (bool): Whether to leave data of the same inputs and settings as they are.

    Raises:
        ValueError: If the folder holds anything else, or an input that would be replaced.
    """
    before = _check_target(folder, force, reuse)
    known: Any = getattr(before, 'settings', None)  # whatever the file holds
    known = known.get('inputs') if isinstance(known, Mapping) else None
    known = known if isinstance(known, Mapping) and reuse and not force else {}
    inputs = report.settings['inputs'] = describe(known)
    if before is not None and not force:
        settings = {**json.loads(json.dumps(report.settings)), 'inputs': known}
        changed = [name for name, entry in inputs.items() if known.get(name) != entry]
        same = before.source == report.source and before.settings == settings
        if changed or not same:
            content = (
                f'another content of {", ".join(changed)}'
                if same
                else ('another table or by other settings')
            )
            raise ValueError(
                f"'{folder}' holds data that were prepared from {content} (see its {FILE}); name "
                f'another folder, or replace them by force_reload=True'
            )
        if is_named(encoder) and any(folder.glob('*.inter')):
            return before
        if not is_named(encoder):
            warnings.warn(
                f"'{folder}' is prepared anew: another function may have encoded its texts. Give "
                f"the text encoder an attribute 'name' that identifies it, and data are reused",
                stacklevel=4,
            )
    if before is not None:
        _check_replaced(folder, before, paths)
    return None


def _check_target(folder: Path, force: bool, reuse: bool) -> PrepareReport | None:
    r"""Refuses a folder that holds something else; returns the report of prepared data."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' is a file; name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    before = PrepareReport.load(folder)
    if before is None:
        raise ValueError(
            f"'{folder}' is not empty, and was not prepared by this package; name another folder"
        )
    if not force and not reuse:
        raise ValueError(
            f"'{folder}' holds prepared data already; name another folder, or pass force=True to "
            f'replace them'
        )
    return before


def _check_replaced(folder: Path, before: PrepareReport, paths: Iterable[Path]) -> None:
    known = _prepared_files(folder, before)
    foreign = [path.name for path in array_files(folder) if path.name not in known]
    if foreign:  # their rows belong to the items of the old data
        raise ValueError(
            f"'{folder}' holds {', '.join(foreign)}, whose rows belong to the items that are "
            f'to be replaced; move them away first, or name another folder'
        )
    # A link in the folder would be replaced, what it leads to would not.
    inside = {folder.resolve() / name for name in known}
    for path in paths:
        if inside & {path.resolve(), path.parent.resolve() / path.name}:
            raise ValueError(
                f"'{path}' is an input, and one of the files of '{folder}' that are to be "
                f'replaced; move it away first, or name another folder'
            )


def write_prepared(
    folder: Path,
    name: str,
    prepared: Prepared,
    features: dict[str, tuple[np.ndarray, np.ndarray | None]],
    report: PrepareReport,
) -> None:
    r"""Writes all files, the table last: without it, a folder is not taken for a data set.

    A folder gets its name only once it is complete; one that has it until then gives way to it.
    """
    if re.fullmatch(r'[\w.-]+', name) is None:
        raise ValueError(f"'name' needs to be letters, digits and ._- only (got {name!r})")
    before = PrepareReport.load(folder)
    old = [] if before is None else _prepared_files(folder, before)
    with replacing_folder(folder, old) as part:
        for modality, (x, mask) in features.items():
            write_array(part / f'{modality}_feat.npy', x)
            if mask is not None:
                write_array(part / f'{modality}_mask.npy', mask)
        for kind, ids in (('user', prepared.user_ids), ('item', prepared.item_ids)):
            IdMap(ids).save(part, kind)
        with replacing(part / FILE) as f:
            f.write(report.to_json().encode())
        columns: dict[str, np.ndarray] = {'userID': prepared.user, 'itemID': prepared.item}
        for column, array in (
            ('rating', prepared.rating), ('timestamp', prepared.time), ('weight', prepared.weight)
        ):  # fmt: skip
            if array is not None:
                columns[column] = array
        columns['x_label'] = prepared.label
        write_table(part / f'{name}.inter', columns)


def _prepared_files(folder: Path, report: PrepareReport) -> list[str]:
    r"""The files of a folder that its report speaks of, and its table."""
    names = [m for m in report.modalities if Path(m).name == m]  # no path out of the folder
    modalities = [f'{m}_{kind}.npy' for m in names for kind in ('feat', 'mask')]
    tables = [path.name for path in folder.glob('*.inter')]
    return [FILE, *(name for name, _ in FILES.values()), *modalities, *tables]
