import os
from collections.abc import Sequence
from typing import Any

import numpy as np

#: The sentence encoder that multimodal recommenders are mostly compared with.
MINILM = 'sentence-transformers/all-MiniLM-L6-v2'


class SentenceTextEncoder:
    r"""Turns texts into vectors by a model of the `sentence-transformers
    <https://sbert.net>`_ library, which is the extra ``[text]``.

    Args:
        model (str, optional): The name of a model, which is downloaded once, or a folder that
            holds one. (default: :obj:`'sentence-transformers/all-MiniLM-L6-v2'`)
        batch_size (int, optional): The texts of one step. (default: :obj:`64`)
        device (str, optional): Where it runs. (default: :obj:`None`, CUDA where it is there)
        progress (bool, optional): Whether to show a progress bar. (default: :obj:`False`)

    Raises:
        ImportError: If sentence-transformers is not installed.
        FileNotFoundError: If there is no such model, or it cannot be downloaded.
    """

    def __init__(
        self,
        model: str | os.PathLike = MINILM,
        batch_size: int = 64,
        device: str | None = None,
        progress: bool = False,
    ) -> None:
        self.model = os.path.expanduser(os.fspath(model))
        self.batch_size, self.device, self.progress = batch_size, device, progress
        self._encoder: Any = None

    @property
    def name(self) -> str:
        r"""What identifies it, for a cache of its vectors."""
        return f'sentence-{self.model}'

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.load()
        return self._encoder.encode(
            list(texts),
            batch_size=self.batch_size,
            show_progress_bar=self.progress,
            convert_to_numpy=True,
        )

    def load(self) -> None:
        r"""Loads the model, which its first call does otherwise.

        Raises:
            ImportError: If sentence-transformers is not installed.
            FileNotFoundError: If there is no such model, or it cannot be downloaded.
        """
        if self._encoder is not None:
            return
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as e:
            raise ImportError(
                f"the text encoder '{self.model}' needs sentence-transformers: pip install "
                f"'mrdib_pyg[text]', or encode by hashing"
            ) from e
        try:
            self._encoder = SentenceTransformer(self.model, device=self.device)
        except (OSError, ValueError) as e:
            reason = (str(e).splitlines() or [''])[0]
            raise FileNotFoundError(
                f"the text encoder '{self.model}' is no folder with a model and cannot be "
                f'downloaded ({reason}). Please name the folder of a model, or encode by hashing'
            ) from e

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.model!r})'
