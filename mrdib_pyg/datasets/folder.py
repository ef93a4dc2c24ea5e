import hashlib
import io
import os
import os.path as osp
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData, InMemoryDataset

from mrdib_pyg.datasets._read import (
    COLUMNS,
    TIME,
    check_file,
    file_hash,
    read_interactions,
    read_modality,
    shown,
)
from mrdib_pyg.files import remove_special, replacing, write_array, write_table
from mrdib_pyg.interactions import SPLITS, TRAIN_EDGE

#: Part of the key of cached data, so that other releases do not share it.
VERSION = 3
_KINDS = {kind.__name__: kind for kind in (Data, HeteroData)}
_DIGEST = hashlib.sha256().digest_size


class InteractionFolder(InMemoryDataset):
    r"""A folder with one table of interactions and one feature array per modality: the layout of
    the `MMRec <https://github.com/enoche/MMRec>`_ toolbox, as one
    :class:`~torch_geometric.data.HeteroData`.

    The folder holds

    * exactly one :obj:`*.inter`: tab separated, with a header that names the columns
      :obj:`userID`, :obj:`itemID` (integers from 0) and :obj:`x_label` (0 train, 1 validation,
      2 test) in any order; other columns, such as ratings, are ignored, and :obj:`timestamp` is
      optional,
    * any number of :obj:`<modality>_feat.npy`: ``[num_items, F]``, a row per item, cast to
      :obj:`float32`,
    * optionally :obj:`<modality>_mask.npy`: ``bool`` ``[num_items]``, :obj:`False` for items
      without the modality, whose features become zero. Without this file, items whose features
      are all zeros lack the modality.

    Other files are ignored (:class:`IdMap` reads :obj:`user_ids.csv` and :obj:`item_ids.csv`). The
    largest id sets the number of users. The rows of the features set the number of items, or the
    largest id if there are no features.

    The folder is only read. Repeated pairs within a split are coalesced. A pair in two splits is
    kept in both, although it cannot be hit where training items are masked. A warning counts these
    pairs, users without a training interaction (evaluation leaves them out) and items without a
    modality.

    Args:
        root (str): The folder.
        transform (callable, optional): A transform of the :class:`HeteroData`, applied at every
            access. (default: :obj:`None`)
        pre_transform (callable, optional): A transform of the :class:`HeteroData`, applied once.
            (default: :obj:`None`)
        force_reload (bool, optional): If set to :obj:`True`, ignores the cache.
            (default: :obj:`False`)
        modalities (sequence of str, optional): The modalities to read, in this order.
            :obj:`None` reads all, in alphabetical order. (default: :obj:`None`)
        cache_dir (str, optional): A folder that caches the data after :obj:`pre_transform`, by the
            content of the files and the printed form of :obj:`pre_transform` (data are not cached
            if it prints as an address, as functions do). A cached file is used only if it matches
            its SHA-256 and holds nothing but tensors and plain values.
            (default: :obj:`None`, nothing is written)
        timestamps (bool, optional): If set to :obj:`True`, reads the column :obj:`timestamp`,
            numbers in any unit, for :class:`~mrdib_pyg.transforms.InteractionSplit`. A repeated
            pair keeps its earliest time. (default: :obj:`False`)

    Shapes:
        - ``data['item'].x_<modality>``: ``float32`` ``[num_items, F]``, and where items lack it
          ``data['item'].has_<modality>``: ``bool`` ``[num_items]``
        - ``data['user', 'rates', 'item'].edge_index``: ``[2, num_train]``, sorted by user, item
        - ``data['user', 'val', 'item'].edge_label_index`` and
          ``data['user', 'test', 'item'].edge_label_index``: ``[2, num_held_out]``, likewise
        - ``time`` of each of the three with :obj:`timestamps`: ``int64``, or ``float64`` if some
          time is not an integer

    Raises:
        FileNotFoundError: If the folder, its table or a requested modality does not exist.
        ValueError: If a file does not have the form above. The message names it.

    Example:
        >>> dataset = InteractionFolder('data/baby')
        >>> data = dataset[0]
        >>> data['item'].x_image.size()
        torch.Size([7050, 4096])
    """

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        force_reload: bool = False,
        *,
        modalities: Sequence[str] | None = None,
        cache_dir: str | os.PathLike | None = None,
        timestamps: bool = False,
    ) -> None:
        # `process()` is not overridden, so the base class creates no folder in `root`.
        super().__init__(os.fspath(root), transform, pre_transform, force_reload=force_reload)
        self.cache_dir = None if cache_dir is None else osp.expanduser(os.fspath(cache_dir))
        table, features, masks = _find_files(Path(self.folder), modalities)
        self.name = table.stem
        self.timestamps = timestamps

        cache = self._cache_path([table, *features.values(), *masks.values()])
        data = None if cache is None or force_reload else read_cache(cache)
        if data is None:
            data = _read_folder(table, features, masks, timestamps)
            if pre_transform is not None:
                data = pre_transform(data)
            if cache is not None:
                write_cache(cache, data)
        self._data, self.slices = self.collate([data])

    @property
    def raw_dir(self) -> str:
        return self.root

    @property
    def folder(self) -> str:
        r"""The folder with the files."""
        return self.raw_dir

    def _cache_path(self, files: list[Path]) -> Path | None:
        printed = repr(self.pre_transform)
        if self.cache_dir is None or ' at 0x' in printed:
            return None
        key = [str(VERSION), str(self.timestamps), printed]
        key += [f'{file.name} {file_hash(file)}' for file in files]
        digest = hashlib.sha256('\n'.join(key).encode('utf-8', 'surrogatepass'))
        return Path(self.cache_dir) / f'{self.name}-{digest.hexdigest()[:16]}.pt'

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.name})'


def _find_files(
    folder: Path, modalities: Sequence[str] | None
) -> tuple[Path, dict[str, Path], dict[str, Path]]:
    if not folder.is_dir():
        raise FileNotFoundError(f'{shown(folder)} is not a folder')
    tables = sorted(folder.glob('*.inter'))
    if len(tables) == 0:
        raise FileNotFoundError(
            f"{shown(folder)} holds no '*.inter' file: expected one tab separated table with the "
            f'columns userID, itemID and x_label'
        )
    if len(tables) > 1:
        raise ValueError(
            f'{shown(folder)} holds {len(tables)} tables of interactions '
            f'({", ".join(shown(path.name)[1:-1] for path in tables)}), expected exactly one'
        )
    features = {p.name.removesuffix('_feat.npy'): p for p in sorted(folder.glob('*_feat.npy'))}
    masks = {p.name.removesuffix('_mask.npy'): p for p in sorted(folder.glob('*_mask.npy'))}
    for name, path in features.items():
        if re.fullmatch(r'[A-Za-z0-9_]+', name) is None:
            raise ValueError(
                f'{shown(path)} must name a modality of letters, digits and underscores (got '
                f'{name!r}); rename the file'
            )
    for name, path in masks.items():
        if name not in features:
            raise ValueError(f"{shown(path)} has no '{name}_feat.npy' beside it")
    if modalities is not None:
        for name in modalities:
            if name not in features:
                raise FileNotFoundError(
                    f"{shown(folder)} holds no '{name}_feat.npy'; its modalities are "
                    f'{list(features)}'
                )
        features = {name: features[name] for name in modalities}
        masks = {name: masks[name] for name in modalities if name in masks}
    return tables[0], features, masks


def _read_folder(
    table: Path, features: dict[str, Path], masks: dict[str, Path], timestamps: bool
) -> HeteroData:
    user, item, label, time = read_interactions(table, timestamps)
    if not (label == 0).any():
        raise ValueError(f'{shown(table)} holds no training interaction (x_label 0)')
    data = HeteroData()
    data.name = table.stem

    notes = []
    num_users, num_items = int(user.max()) + 1, int(item.max()) + 1
    data['user'].num_nodes = num_users
    first: Path | None = None
    for name, path in features.items():
        x, mask = read_modality(path, masks.get(name))
        if x.size(0) < num_items and first is None:
            raise ValueError(
                f'{shown(path)} has {x.size(0)} rows, but {shown(table)} names item '
                f'{num_items - 1}: expected one row per item, at least {num_items}'
            )
        if first is not None and x.size(0) != num_items:
            raise ValueError(
                f'{shown(path)} has {x.size(0)} rows, but {shown(first)} has {num_items}: expected '
                f'one row per item in each'
            )
        first, num_items = path, x.size(0)
        data['item'][f'x_{name}'] = x
        if mask is not None:
            data['item'][f'has_{name}'] = mask
            if without := int((~mask).sum()):
                why = '' if name in masks else ': their features are all zeros'
                notes.append(f'{without} of {num_items} items lack the modality {name!r}{why}')
    data['item'].num_nodes = num_items

    seen: dict[str, np.ndarray] = {}
    for value, (split, (relation, key)) in enumerate(SPLITS.items()):
        rows = label == value
        code = user[rows] * num_items + item[rows]
        if time is None:
            code = np.unique(code)
        else:
            order = np.lexsort((time[rows], code))
            code, places = np.unique(code[order], return_index=True)  # the earliest
            data['user', relation, 'item'].time = torch.from_numpy(time[rows][order][places])
        if code.size < rows.sum():
            notes.append(f'dropped {rows.sum() - code.size} repeated pair(s) of the {split} split')
        for other, other_code in seen.items():
            both = np.isin(code, other_code, assume_unique=True).sum()
            if both > 0:
                notes.append(f'kept {both} pair(s) that are in both the {other} and {split} splits')
        seen[split] = code
        index = torch.from_numpy(np.stack([code // num_items, code % num_items]))
        data['user', relation, 'item'][key] = index
    missing_users = num_users - data[TRAIN_EDGE].edge_index[0].unique().numel()
    if missing_users > 0:
        notes.append(f'{missing_users} of {num_users} users have no training interaction')
    if notes:
        warnings.warn(f'{shown(table)}: {"; ".join(notes)}', stacklevel=3)
    return data


def write_cache(path: Path, data: Data | HeteroData) -> None:
    r"""Writes data after their SHA-256, atomically, and creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save({'kind': type(data).__name__, 'data': data.to_dict()}, content)
    remove_special(path)
    with replacing(path) as f:
        f.write(_digest(path, content.getbuffer()))
        f.write(content.getbuffer())


def read_cache(path: Path) -> Data | HeteroData | None:
    r"""Reads a file of :func:`write_cache`. Returns :obj:`None` if it does not exist, and with a
    warning if it has changed or holds anything but tensors and plain values.
    """
    try:
        content = memoryview(check_file(path).read_bytes())
        if content[:_DIGEST] != _digest(path, content[_DIGEST:]):
            raise ValueError('its SHA-256 is another')
        # Never `InMemoryDataset.load`, which falls back to pickle, so that a file could run code.
        found = torch.load(io.BytesIO(content[_DIGEST:]), weights_only=True)
        return _KINDS[found['kind']].from_dict(found['data'])
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged bytes raise any error; its text advises to use pickle
        warnings.warn(
            f'{shown(path)} is damaged or was changed and is not used: the data are read anew '
            f'({type(error).__name__})',
            stacklevel=3,
        )
        return None


def _digest(path: Path, content: memoryview) -> bytes:
    # With the name of the file, so that a copy of another file is detected.
    digest = hashlib.sha256(os.fsencode(path.name) + b'\n')
    digest.update(content)
    return digest.digest()


def write_folder(data: HeteroData, folder: str | os.PathLike, name: str | None = None) -> None:
    r"""Writes data in the layout that :class:`InteractionFolder` reads, with timestamps if all
    edges have :obj:`time`.

    Args:
        data (HeteroData): The data of any dataset of this package.
        folder (str): The folder, created if missing. Files of the same names are replaced.
        name (str, optional): The name of the table, ``<name>.inter``. (default: ``data.name``)

    Raises:
        ValueError: If the folder holds another table, or features or a mask of other data, or if
            the last users (or items without features) have no edge, so that the table would lose
            them. Nothing is written in these cases.
    """
    folder = Path(folder).expanduser()
    table = folder / f'{data.name if name is None else name}.inter'
    others = [path.name for path in folder.glob('*.inter') if path.name != table.name]
    if others:
        raise ValueError(
            f'{shown(folder)} holds {others} and would hold two tables; name another folder'
        )
    arrays = {}
    for key, value in data['item'].items():
        prefix, _, modality = key.partition('_')
        if prefix in ('x', 'has') and modality:
            arrays[f'{modality}_{"feat" if prefix == "x" else "mask"}.npy'] = value
    foreign = [path.name for path in array_files(folder) if path.name not in arrays]
    if foreign:
        raise ValueError(
            f'{shown(folder)} holds {foreign}, which are of other data; remove them, or name '
            f'another folder'
        )
    rows, times = [], []
    for label, (relation, key) in enumerate(SPLITS.values()):
        edge = ('user', relation, 'item')
        if edge not in data.edge_types or key not in data[edge]:
            continue
        index = data[edge][key].cpu()
        rows.append(torch.cat([index, torch.full_like(index[:1], label)]))
        times += [data[edge].time.cpu()] if 'time' in data[edge] else []
    if len(rows) == 0:
        raise ValueError("'data' has no edges between users and items, so there is no table")
    user, item, split = torch.cat(rows, dim=1).numpy()
    has_features = any(file.endswith('_feat.npy') for file in arrays)
    for kind, ids in (('user', user), ('item', item)):
        known = int(ids.max(initial=-1)) + 1
        size = data[kind].num_nodes if kind in data.node_types else None
        if size is not None and known < size and not (kind == 'item' and has_features):
            raise ValueError(
                f"'data' has {size} {kind}s, but none from {known} on has an edge, so the table "
                f"would lose them; set data['{kind}'].num_nodes to {known}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    # The table comes last: a folder without one is not a data set.
    table.unlink(missing_ok=True)
    for file, value in arrays.items():
        write_array(folder / file, value.cpu().numpy())
    columns = {COLUMNS[0]: user, COLUMNS[1]: item}
    if len(times) == len(rows):
        columns[TIME] = torch.cat(times).numpy()
    write_table(table, {**columns, COLUMNS[2]: split})


def array_files(folder: Path) -> list[Path]:
    r"""The files of a folder with features or masks."""
    return sorted(path for kind in ('feat', 'mask') for path in folder.glob(f'*_{kind}.npy'))


def data_hash(data: HeteroData) -> str:
    r"""Computes the SHA-256 of what a model learns from: the numbers of users and items, the
    interactions of all splits, and the features and masks of all modalities.

    Equal in every process and on every device, and whatever the order of the interactions. Graphs
    that a transform added do not count.

    Args:
        data (HeteroData): The data of any dataset of this package.

    Returns:
        str: 64 hexadecimal digits.

    Example:
        >>> data_hash(TikTok('data/tiktok')[0])[:8]
        '36560467'
    """
    num_users, num_items = int(data['user'].num_nodes), int(data['item'].num_nodes)
    digest = hashlib.sha256(f'users {num_users} items {num_items}'.encode())
    for relation, key in SPLITS.values():
        if ('user', relation, 'item') in data.edge_types:
            index = data['user', relation, 'item'][key].to(torch.int64)
            code = index[0] * num_items + index[1]
            _update(digest, relation, code.sort().values)
    for key, value in sorted(data['item'].items()):
        if key.startswith('x_'):
            _update(digest, key, value.to(torch.float32))
        elif key.startswith('has_'):
            _update(digest, key, value.to(torch.bool))
    return digest.hexdigest()


def _update(digest: Any, name: str, value: Tensor) -> None:
    # The shape goes in as well: else two arrays could trade rows at their border.
    digest.update(f'\n{name} {list(value.shape)}\n'.encode())
    digest.update(value.detach().cpu().contiguous().numpy().data)
