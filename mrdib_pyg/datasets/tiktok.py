import os
import os.path as osp
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mrdib_pyg.datasets._download import download
from mrdib_pyg.datasets._read import file_hash, shown
from mrdib_pyg.datasets.folder import InteractionFolder
from mrdib_pyg.files import replacing

_DIFFMM = (
    'https://raw.githubusercontent.com/HKUDS/DiffMM/'
    '1337447834aee475c1b1a59d291087e9ded9771a/Datasets/tiktok'
)
_SEMHREC = (
    'https://raw.githubusercontent.com/SciFiReal/SEMHRec/'
    '6500d63fd9d8e65a541b862af706025afd7e4b7c/data/tiktok'
)


class TikTok(InteractionFolder):
    r"""Short videos of TikTok watched to the end, with image and audio features, in the split of
    the `"Multi-Modal Self-Supervised Learning for Recommendation"
    <https://arxiv.org/abs/2302.10632>`_ and `"DiffMM: Multi-Modal Diffusion Model for
    Recommendation" <https://arxiv.org/abs/2406.11781>`_ papers, without their text features.

    If :obj:`root` holds any of the three files, it is only read. Otherwise they are read from
    ``root/raw``, and missing ones are downloaded. Each file must have its pinned SHA-256. Downloads
    are kept only once all have passed.

    Args:
        root (str): The folder with the files, or the parent folder of ``raw``.
        transform (callable, optional): A transform of the :class:`HeteroData`, applied at every
            access. (default: :obj:`None`)
        pre_transform (callable, optional): A transform of the :class:`HeteroData`, applied once.
            (default: :obj:`None`)
        force_reload (bool, optional): If set to :obj:`True`, ignores the cache.
            (default: :obj:`False`)
        url (str, optional): The address of a mirror with the three files.
            (default: :obj:`None`, the addresses in :attr:`urls`)
        modalities (sequence of str, optional): The modalities to read. (default:
            :obj:`('image', 'audio')`)
        cache_dir (str, optional): As in :class:`InteractionFolder`. (default: :obj:`None`)

    Raises:
        FileNotFoundError: If a file is missing and cannot be downloaded. The message names the
            files to provide.
        ValueError: If a file does not have its pinned SHA-256.

    **STATS:**

    .. list-table::
        :widths: 10 10 12 12 12 20 20
        :header-rows: 1

        * - #users
          - #items
          - #train
          - #val
          - #test
          - Features
          - Users without a train edge
        * - 9,308
          - 6,710
          - 59,541
          - 3,051
          - 6,130
          - image 128, audio 128
          - 10
    """

    #: The address of each file, unless :obj:`url` is given.
    urls = {
        'tiktok.inter': f'{_SEMHREC}/tiktok.inter',
        'image_feat.npy': f'{_DIFFMM}/image_feat.npy',
        'audio_feat.npy': f'{_DIFFMM}/audio_feat.npy',
    }
    #: The accepted SHA-256 of each file. The table exists in two forms with the same interactions,
    #: with and without rating and timestamp columns (all zero).
    sha256 = {
        'tiktok.inter': (
            '00a70111460c6d2b290ff10abf929c0ac904bc72e4336c964e66d4b062f1e352',
            '25cc7d592a596f626c9d0f32486b3480e1cd6feba623995f8311962a017b035b',
        ),
        'image_feat.npy': ('f6c1ec1726ed2aa80315411199ab2143bee6333821bf58c5f00bd3f5b462efc2',),
        'audio_feat.npy': ('d45a44a9d462f578802de914c2feea5cfd45742b2922775a085b9bdc1beba26f',),
    }

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        force_reload: bool = False,
        *,
        url: str | None = None,
        modalities: Sequence[str] = ('image', 'audio'),
        cache_dir: str | os.PathLike | None = None,
    ) -> None:
        if url is not None:
            self.urls = {name: f'{url.rstrip("/")}/{name}' for name in self.sha256}
        super().__init__(
            root, transform, pre_transform, force_reload, modalities=modalities, cache_dir=cache_dir
        )

    @property
    def raw_dir(self) -> str:
        if any(osp.lexists(osp.join(self.root, name)) for name in self.sha256):
            return self.root
        return osp.join(self.root, 'raw')

    @property
    def raw_file_names(self) -> list[str]:
        return list(self.sha256)

    def _download(self) -> None:
        # The base class would create the folder too early, and trust any file of the right name.
        if masks := list(Path(self.raw_dir).glob('*_mask.npy')):
            raise ValueError(f'{shown(masks[0])} is not part of this data set; remove it')
        missing = []
        for name, path in zip(self.raw_file_names, self.raw_paths):
            if not osp.lexists(path):
                missing.append(name)
            else:
                self._check(name, file_hash(Path(path)), shown(path))
        if missing:
            self.download(missing)

    def download(self, names: Sequence[str] | None = None) -> None:
        r"""Downloads files (default: all) into ``raw_dir`` once all have passed the check."""
        names, raw_dir = self.raw_file_names if names is None else names, Path(self.raw_dir)
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                url, path = self.urls[name], Path(folder) / name
                try:
                    download(url, path)
                except ConnectionError as e:
                    raise FileNotFoundError(
                        f'{name!r} is not in {shown(raw_dir)}: {e}. {self._advice()}'
                    ) from e
                self._check(name, file_hash(path), shown(url))
            raw_dir.mkdir(parents=True, exist_ok=True)
            for name in names:
                with replacing(raw_dir / name) as f:
                    f.write((Path(folder) / name).read_bytes())

    def _check(self, name: str, found: str, where: str) -> None:
        if found not in self.sha256[name]:
            raise ValueError(
                f'{where} is not the pinned {name!r} (SHA-256 {found}). {self._advice()}. To read '
                f'other files, use `InteractionFolder`'
            )

    def _advice(self) -> str:
        files = ', '.join(f'{name} (SHA-256 {sha[0]})' for name, sha in self.sha256.items())
        return f'Please put these files into {shown(self.raw_dir)}: {files}'
