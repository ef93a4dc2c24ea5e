"""From interactions to a folder: repeated pairs, k-core, numbers, split, files."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrdib_pyg.datasets._collect import Rows
from mrdib_pyg.datasets.folder import array_files
from mrdib_pyg.datasets.ids import FILES, IdMap
from mrdib_pyg.datasets.prepare_report import FILE, PrepareReport
from mrdib_pyg.datasets.splits import SPLIT_NAMES, k_core, split_interactions
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
    user, item = rows.user.astype(np.int64), rows.item.astype(np.int64)
    if user.size == 0:
        raise ValueError(f'no interaction of {report.source} is left: {_why(report)}')
    kept, weight = _first_of_pairs(user, item, rows.time, rows.weight)
    report.drop('that repeat a pair of user and item', user.size - kept.size)
    user, item = user[kept], item[kept]

    stays = k_core(user, item, settings.k_core)
    what = f'of users or items with fewer than {settings.k_core} ({settings.k_core}-core)'
    report.drop(what, kept.size - stays.size)
    if stays.size == 0:
        raise ValueError(
            f'no interaction of {report.source} is left: {_why(report)}. Please choose a smaller '
            f"'k_core'"
        )
    kept, user, item = kept[stays], user[stays], item[stays]
    weight = None if weight is None else weight[stays]
    user, user_codes = _by_appearance(user, len(rows.user_ids))
    item, item_codes = _by_appearance(item, len(rows.item_ids))
    time = None if rows.time is None else rows.time[kept]
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
        'interactions': int(user.size), 'users': len(user_codes), 'items': len(item_codes)
    }  # fmt: skip
    count = np.bincount(label, minlength=3).tolist()
    report.split = dict(zip(('train', 'validation', 'test'), count))
    for index, kind in ((user, 'users'), (item, 'items')):
        without = report.kept[kind] - np.count_nonzero(np.bincount(index[train]))
        report.note(f'{kind} have no training interaction', int(without))
    return Prepared(
        user, item, label, None if rows.rating is None else rows.rating[kept], time, weight,
        [rows.user_ids[code] for code in user_codes.tolist()],
        [rows.item_ids[code] for code in item_codes.tolist()],
    )  # fmt: skip


def _why(report: PrepareReport) -> str:
    reasons = [f'{count:,} {reason}' for reason, count in report.reasons().items()]
    return f'{report.num_rows:,} rows were read' + (f', {", ".join(reasons)}' if reasons else '')


def _first_of_pairs(
    user: np.ndarray, item: np.ndarray, time: np.ndarray | None, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    r"""The earliest row of each pair (of equal times, and without times, the first), in the order
    of the table, and the sum of the weights of all its rows.
    """
    code = user * (int(item.max()) + 1) + item
    order = np.arange(code.size) if time is None else np.argsort(time, kind='stable')
    order = order[np.argsort(code[order], kind='stable')]
    code = code[order]
    first = np.ones(code.size, dtype=bool)
    first[1:] = code[1:] != code[:-1]
    kept = order[first]
    sums = None
    if weight is not None:
        sums = np.add.reduceat(weight[order].astype(np.float64), np.flatnonzero(first))
        sums = sums.astype(np.float32)[np.argsort(kept)]
    kept.sort()
    return kept, sums


def _by_appearance(index: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Numbers what appears from 0 in that order; returns the numbers, and what was numbered."""
    place = np.full(num, index.size, dtype=np.int64)
    place[index[::-1]] = np.arange(index.size - 1, -1, -1)  # the first place is written last
    codes = np.argsort(place, kind='stable')[: np.count_nonzero(place < index.size)]
    number = np.empty(num, dtype=np.int64)
    number[codes] = np.arange(codes.size)
    return number[index], codes


def check_target(
    folder: Path, report: PrepareReport, force: bool, reuse: bool
) -> PrepareReport | None:
    r"""Refuses a folder that holds something else; returns the report of one that can stay."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' is a file; name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    before = PrepareReport.load(folder)
    if before is None:
        raise ValueError(
            f"'{folder}' is not empty, and was not prepared by this package; name another folder"
        )
    if force:
        known = _prepared_files(folder, before)
        foreign = [path.name for path in array_files(folder) if path.name not in known]
        if foreign:  # their rows belong to the items of the old data
            raise ValueError(
                f"'{folder}' holds {', '.join(foreign)}, whose rows belong to the items that are "
                f'to be replaced; move them away first, or name another folder'
            )
        return None
    if not reuse:
        raise ValueError(
            f"'{folder}' holds prepared data already; name another folder, or force to replace them"
        )
    settings = json.loads(json.dumps(report.settings))
    if before.source != report.source or before.settings != settings:
        raise ValueError(
            f"'{folder}' holds data that were prepared from another table or by other settings "
            f'(see its {FILE}); name another folder, or replace them by force_reload=True'
        )
    return before if any(folder.glob('*.inter')) else None


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
