import hashlib
import json
import os
import os.path as osp
from collections.abc import Callable, Sequence
from pathlib import Path

from mrdib_pyg.datasets._prepare import Settings
from mrdib_pyg.datasets.folder import InteractionFolder
from mrdib_pyg.datasets.id_map import IdMap
from mrdib_pyg.datasets.tables import load_ids, without_counts
from mrdib_pyg.datasets.prepare_amazon import (
    MODALITIES,
    describe_settings,
    find_category,
    prepare_amazon,
    raw_files,
)
from mrdib_pyg.datasets.prepare_report import PrepareReport


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
