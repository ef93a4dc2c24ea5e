import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mrdib_pyg.datasets.folder import InteractionFolder
from mrdib_pyg.datasets.ids import IdMap
from mrdib_pyg.datasets.prepare_report import PrepareReport
from mrdib_pyg.datasets.prepare_table import prepare_table


class InteractionTable(InteractionFolder):
    r"""A table of interactions of your own, with features of the items, as one
    :class:`~torch_geometric.data.HeteroData`.

    At first use :func:`prepare_table` writes the folder :obj:`root`, in which ids are numbered and
    interactions split; it is read from then on, as :class:`InteractionFolder` does, and files may
    be gone then. Another content of a file, data frame or array is noticed and refused: reload.

    Args:
        root (str): The folder to write, or the one that was written before.
        table (str or pd.DataFrame): A CSV, TSV or Parquet file, or a data frame.
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
