import hashlib
import os
import os.path as osp
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import HeteroData, InMemoryDataset

from mrdib_pyg.datasets._cache import VERSION, read_cache, write_cache
from mrdib_pyg.datasets._read import read_interactions, read_modality
from mrdib_pyg.interactions import SPLITS, TRAIN_EDGE

# Name of the split and relation of its edges, for each value of `x_label`.


class InteractionFolder(InMemoryDataset):
    r"""A folder with one table of interactions and one feature array per modality: the layout of
    the `MMRec <https://github.com/enoche/MMRec>`_ toolbox, as one
    :class:`~torch_geometric.data.HeteroData`.

    The folder holds

    * exactly one :obj:`*.inter`: tab separated, with a header that names the columns
      :obj:`userID`, :obj:`itemID` (integers from 0) and :obj:`x_label` (0 train, 1 validation,
      2 test) in any order; other columns, such as ratings, are not used, and :obj:`timestamp`
      only if asked for,
    * any number of :obj:`<modality>_feat.npy`: ``[num_items, F]``, row ``i`` belongs to item
      ``i``; cast to :obj:`float32`; rows of zeros are features like any others,
    * optionally :obj:`<modality>_mask.npy`: ``bool`` ``[num_items]``, :obj:`False` for items
      that lack the modality (their features are set to zero).

    Other files are ignored (:obj:`user_ids.csv` and :obj:`item_ids.csv` belong to
    :class:`IdMap`). There are as many users as the largest id asks for, and as many items as the
    features have rows (without features: as the largest id asks for).

    The folder is only read, never written. Repeated pairs within a split are coalesced; a pair
    in two splits is kept in both (held out, it cannot be hit where training items are masked).
    These, users without a training interaction (evaluation leaves
    them out) and items without a modality are counted in a warning.

    Args:
        root (str): The folder.
        transform (callable, optional): A transform of the :class:`HeteroData`, applied at every
            access. (default: :obj:`None`)
        pre_transform (callable, optional): A transform of the :class:`HeteroData`, applied once.
            (default: :obj:`None`)
        force_reload (bool, optional): Reads and transforms anew, whatever :obj:`cache_dir`
            holds. (default: :obj:`False`)
        modalities (sequence of str, optional): The modalities to read, in this order.
            :obj:`None` reads all, in alphabetical order. (default: :obj:`None`)
        cache_dir (str, optional): Where the data after :obj:`pre_transform` are kept, under a
            name made of the files (path, size, time) and of the printed form of
            :obj:`pre_transform` (one that prints as an address, such as a function, has none, and
            its data are not kept). Without it nothing is written. A file that is damaged, or holds
            more than tensors and plain values, is not used. (default: :obj:`None`)
        timestamps (bool, optional): Reads the column :obj:`timestamp`, numbers in any unit, which
            :class:`~mrdib_pyg.transforms.InteractionSplit` orders by. Of a repeated pair the
            earliest counts. (default: :obj:`False`)

    Shapes:
        - ``data['item'].x_<modality>``: ``float32`` ``[num_items, F]``, and where the folder has
          a mask ``data['item'].has_<modality>``: ``bool`` ``[num_items]``
        - ``data['user', 'rates', 'item'].edge_index``: ``[2, num_train]``, sorted by user, item
        - ``data['user', 'val', 'item'].edge_label_index`` and
          ``data['user', 'test', 'item'].edge_label_index``: ``[2, num_held_out]``, likewise
        - ``time`` of each of the three, if asked for: ``int64``, or ``float64`` where a time is no
          whole number

    Raises:
        FileNotFoundError: If the folder, its table or a modality asked for does not exist.
        ValueError: If a file is not as described above. The message names it.

    Example:
        >>> dataset = InteractionFolder('data/baby')
        >>> data = dataset[0]
        >>> data['item'].x_image.size()
        torch.Size([7050, 4096])

    **STATS** (of the two sets most used with this layout):

    .. list-table::
        :widths: 20 10 10 14 12 12 24
        :header-rows: 1

        * - Name
          - #users
          - #items
          - #train
          - #val
          - #test
          - Features
        * - TikTok
          - 9,308
          - 6,710
          - 59,541
          - 3,051
          - 6,130
          - image 128, audio 128
        * - Amazon Baby (5-core)
          - 19,445
          - 7,050
          - 118,551
          - 21,682
          - 20,559
          - image 4,096, text 384
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
        r"""The folder that is read."""
        return self.raw_dir

    def _cache_path(self, files: list[Path]) -> Path | None:
        printed = repr(self.pre_transform)
        if self.cache_dir is None or ' at 0x' in printed:
            return None
        key = hashlib.sha256(f'{VERSION} {self.timestamps} {printed}'.encode())
        for file in files:
            stat = file.stat()
            key.update(f'\n{file.resolve()} {stat.st_size} {stat.st_mtime_ns}'.encode())
        return Path(self.cache_dir) / f'{self.name}-{key.hexdigest()[:16]}.pt'

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.name})'


def _find_files(
    folder: Path, modalities: Sequence[str] | None
) -> tuple[Path, dict[str, Path], dict[str, Path]]:
    if not folder.is_dir():
        raise FileNotFoundError(f"'{folder}' is not a folder")
    tables = sorted(path for path in folder.glob('*.inter') if path.is_file())
    if len(tables) == 0:
        raise FileNotFoundError(
            f"'{folder}' holds no '*.inter' file. Expected one tab separated table with the "
            f'columns userID, itemID and x_label'
        )
    if len(tables) > 1:
        raise ValueError(
            f"'{folder}' holds {len(tables)} tables of interactions "
            f'({", ".join(path.name for path in tables)}), expected exactly one'
        )
    features = {p.name.removesuffix('_feat.npy'): p for p in sorted(folder.glob('*_feat.npy'))}
    masks = {p.name.removesuffix('_mask.npy'): p for p in sorted(folder.glob('*_mask.npy'))}
    for name, path in features.items():
        if re.fullmatch(r'[A-Za-z0-9_]+', name) is None:
            raise ValueError(
                f"'{path}' names the modality {name!r}. Please rename the file: letters, digits "
                f'and underscores only'
            )
    for name, path in masks.items():
        if name not in features:
            raise ValueError(f"'{path}' has no '{name}_feat.npy' beside it")
    if modalities is not None:
        for name in modalities:
            if name not in features:
                raise FileNotFoundError(
                    f"'{folder}' holds no '{name}_feat.npy'. Its modalities are {list(features)}"
                )
        features = {name: features[name] for name in modalities}
        masks = {name: masks[name] for name in modalities if name in masks}
    return tables[0], features, masks


def _read_folder(
    table: Path, features: dict[str, Path], masks: dict[str, Path], timestamps: bool
) -> HeteroData:
    user, item, label, time = read_interactions(table, timestamps)
    if not (label == 0).any():
        raise ValueError(f"'{table}' holds no training interaction (x_label 0)")
    data = HeteroData()
    data.name = table.stem

    num_users, num_items = int(user.max()) + 1, int(item.max()) + 1
    data['user'].num_nodes = num_users
    first: Path | None = None
    for name, path in features.items():
        x, mask = read_modality(path, masks.get(name))
        if x.size(0) < num_items and first is None:
            raise ValueError(
                f"'{path}' has {x.size(0)} rows, but '{table}' names item {num_items - 1}: "
                f'expected one row per item, at least {num_items}'
            )
        if first is not None and x.size(0) != num_items:
            raise ValueError(
                f"'{path}' has {x.size(0)} rows, but '{first}' has {num_items}: expected one "
                f'row per item in each'
            )
        first, num_items = path, x.size(0)
        data['item'][f'x_{name}'] = x
        if mask is not None:
            data['item'][f'has_{name}'] = mask
    data['item'].num_nodes = num_items

    notes = []
    seen: dict[str, np.ndarray] = {}
    for value, (split, (relation, key)) in enumerate(SPLITS.items()):
        rows = label == value
        code = user[rows] * num_items + item[rows]
        if time is None:
            code = np.unique(code)
        else:
            order = np.lexsort((time[rows], code))
            code, places = np.unique(code[order], return_index=True)  # the first, by time
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
    for name in masks:
        without = int((~data['item'][f'has_{name}']).sum())
        if without > 0:
            notes.append(f'{without} of {num_items} items lack the modality {name!r}')
    if notes:
        warnings.warn(f"'{table}': {'; '.join(notes)}", stacklevel=3)
    return data
