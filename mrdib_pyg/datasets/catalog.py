import os
import os.path as osp
from typing import Any

import torch_geometric
from torch_geometric.data import HeteroData, InMemoryDataset

from mrdib_pyg.datasets._read import shown
from mrdib_pyg.datasets.folder import InteractionFolder
from mrdib_pyg.datasets.planted import Planted
from mrdib_pyg.datasets.tiktok import TikTok

#: The data sets that :func:`load_dataset` knows by name.
DATASETS: dict[str, type[InMemoryDataset]] = {'planted': Planted, 'tiktok': TikTok}


def load_dataset(name_or_folder: str | os.PathLike, **kwargs: Any) -> HeteroData:
    r"""Loads a data set by name, or from a folder in the layout of :class:`InteractionFolder`.

    A name wins over a folder of the same name, which is reached as :obj:`./name`.

    Args:
        name_or_folder (str): :obj:`'planted'`, :obj:`'tiktok'` (kept in :obj:`root`, by default in
            :meth:`torch_geometric.get_home_dir`), or a folder.
        **kwargs (optional): Arguments of the class of the data set.

    Raises:
        ValueError: If there is no such name and no such folder.

    Example:
        >>> data = load_dataset('planted', noise=1.0)
        >>> data = load_dataset('data/baby', modalities=['text'])
    """
    name = os.fspath(name_or_folder)
    if name == 'tiktok':
        kwargs.setdefault('root', osp.join(torch_geometric.get_home_dir(), name))
    if name in DATASETS:
        return DATASETS[name](**kwargs)[0]
    if osp.isdir(osp.expanduser(name)):
        return InteractionFolder(name, **kwargs)[0]
    raise ValueError(
        f'There is no data set named {name!r} and no folder {shown(osp.abspath(name))}. Known '
        f'names are {sorted(DATASETS)}; a folder needs one *.inter table, and <modality>_feat.npy '
        f'arrays'
    )
