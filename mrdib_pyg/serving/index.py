import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn.pool.knn import KNNIndex

from mrdib_pyg.files import atomic_file
from mrdib_pyg.interactions import check_pairs
from mrdib_pyg.ops import masked_topk
from mrdib_pyg.ops._topk import pad_items, topk_of_padded
from mrdib_pyg.serving.export import require, save_tensors


class CellMIPSKNNIndex(KNNIndex):
    r""":class:`torch_geometric.nn.pool.ApproxMIPSKNNIndex` without product quantization: a search
    visits the cells whose centroids have the largest inner products with the query, and the scores
    are exact.
    """

    def __init__(self, num_cells: int, num_cells_to_visit: int) -> None:
        self.num_cells = num_cells
        self.num_cells_to_visit = num_cells_to_visit
        super().__init__(index_factory=None)

    def _create_index(self, channels: int) -> Any:
        import faiss
        import faiss.contrib.torch_utils  # lets its searches take tensors

        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(channels), channels, self.num_cells, faiss.METRIC_INNER_PRODUCT
        )
        index.nprobe = self.num_cells_to_visit
        index.cp.min_points_per_centroid = 1  # otherwise it warns about few items on stderr
        return index

    @property
    def centroids(self) -> Tensor:
        r"""The centroids of the cells, ``[num_cells, channels]``."""
        assert self.index is not None
        return torch.as_tensor(self.index.quantizer.reconstruct_n(0, self.num_cells))

    @property
    def cells(self) -> Tensor:
        r"""The cell of each data point, ``[numel]``."""
        import faiss

        assert self.index is not None
        out = torch.full((self.numel,), -1, dtype=torch.int64)
        for cell in range(self.num_cells):
            size = self.index.invlists.list_size(cell)
            if size > 0:
                ids = faiss.rev_swig_ptr(self.index.invlists.get_ids(cell), size)
                out[torch.from_numpy(ids.copy())] = cell
        return out

    def restore(self, emb: Tensor, centroids: Tensor, cells: Tensor) -> None:
        r"""Fills an empty index with data points whose cells are known."""
        import faiss

        self.index = self._create_index(emb.size(1))
        self.index.quantizer.add(centroids.numpy())
        self.index.is_trained = True
        x, cell = emb.numpy(), cells.numpy()
        self.index.add_core(len(x), faiss.swig_ptr(x), None, faiss.swig_ptr(cell))


VERSION = 'mrdib_pyg index 1'


class ItemIndex:
    r"""Finds the items of largest inner product with a query: the best items of a user or, with
    :obj:`cosine`, the items nearest to an item.

    The exact index is :func:`~mrdib_pyg.ops.masked_topk` over the stored embeddings. The
    approximate one searches only some of its cells, by :obj:`faiss` and
    :class:`torch_geometric.nn.pool.knn.KNNIndex` (extra ``[serve]``). It may miss items, but its
    scores are exact. Where the cells of a query hold fewer than :obj:`k` items, the exact search
    answers.

    Args:
        item (torch.Tensor): The item embeddings.
        cosine (bool, optional): If set to :obj:`True`, the score is the cosine of query and item.
            (default: :obj:`False`)
        approximate (bool, optional): If set to :obj:`True`, builds cells. (default: :obj:`False`)
        num_cells (int, optional): The number of cells.
            (default: :obj:`None`, the square root of the number of items)
        num_cells_to_visit (int, optional): The number of cells that a search visits. More cells
            find more items and take longer. (default: :obj:`None`, an eighth of the cells)

    Shapes:
        - **input:** items :math:`(I, d)`

    Raises:
        ValueError: If the embeddings are not a finite matrix, or a setting is out of range.
        ImportError: If :obj:`approximate` is set and faiss is missing.
    """

    def __init__(
        self,
        item: Tensor,
        *,
        cosine: bool = False,
        approximate: bool = False,
        num_cells: int | None = None,
        num_cells_to_visit: int | None = None,
    ) -> None:
        item = item.detach()
        if item.dim() != 2 or item.numel() == 0 or not item.is_floating_point():
            raise ValueError(
                f"'item' must be a matrix of embeddings (got {item.dtype} of the shape "
                f'{list(item.shape)})'
            )
        if not bool(item.isfinite().all()):
            raise ValueError("'item' must be finite (got NaN or infinity); check the embeddings")
        self.cosine = cosine
        self.approximate = approximate
        self.item = F.normalize(item, dim=1) if cosine else item
        self.num_cells = self._num_visits = 0
        self._cells: Any = None
        if not approximate:
            self._padded = pad_items(self.item)
            self.item = self._padded[: self.numel]  # one copy of them
            if num_cells is not None or num_cells_to_visit is not None:
                raise ValueError(
                    "'num_cells' and 'num_cells_to_visit' need approximate=True (got False)"
                )
            return
        self.item = self.item.float().cpu().contiguous()
        self.num_cells = max(math.isqrt(self.numel), 1) if num_cells is None else num_cells
        if not 1 <= self.num_cells <= self.numel:
            raise ValueError(
                f"'num_cells' must lie between 1 and the {self.numel} items (got {num_cells})"
            )
        visits = num_cells_to_visit
        self.num_cells_to_visit = -(-self.num_cells // 8) if visits is None else visits
        self._cells = self._empty_cells()
        self._cells.add(self.item)

    @property
    def numel(self) -> int:
        r"""The number of items."""
        return self.item.size(0)

    @property
    def num_cells_to_visit(self) -> int:
        r"""The number of cells that a search visits. It may be changed at any time."""
        return self._num_visits

    @num_cells_to_visit.setter
    def num_cells_to_visit(self, value: int) -> None:
        if not 1 <= value <= self.num_cells:
            raise ValueError(
                f"'num_cells_to_visit' must lie between 1 and the {self.num_cells} cells (got "
                f'{value})'
            )
        self._num_visits = value
        if self._cells is not None:
            self._cells.num_cells_to_visit = self._cells.index.nprobe = value

    def search(self, query: Tensor, k: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Returns the scores and ids of the :obj:`k` best items of each query.

        Args:
            query (torch.Tensor): The queries, e.g. user embeddings.
            k (int): The number of items. Rows with fewer items end in scores of :math:`-\infty`
                and ids of :obj:`-1`.
            mask (torch.Tensor, optional): Pairs of a row of :obj:`query` and an item to leave out.
                (default: :obj:`None`)

        Shapes:
            - **input:** queries :math:`(B, d)`, mask :math:`(2, n)`
            - **output:** scores :math:`(B, k)` and ids :math:`(B, k)`, by descending score

        Raises:
            ValueError: If :obj:`k` exceeds the number of items, or shapes do not fit.
        """
        if query.dim() != 2 or query.size(1) != self.item.size(1):
            raise ValueError(
                f"'query' must be of the shape [*, {self.item.size(1)}] (got {list(query.shape)})"
            )
        if not 1 <= k <= self.numel:
            raise ValueError(f"'k' must be between 1 and the {self.numel} items (got {k})")
        query = query.detach().to(self.item.device, self.item.dtype)
        if self.cosine:
            query = F.normalize(query, dim=1)
        if self._cells is None:
            return topk_of_padded(query, self._padded, self.numel, k, mask)
        if not bool(query.isfinite().all()):
            raise ValueError("'query' must be finite (got NaN or infinity); check the embeddings")
        if mask is not None:
            check_pairs("'mask'", mask, (query.size(0), self.numel), ('row', 'item'))
            mask = mask if mask.numel() > 0 else None
        out = self._cells.search(query.contiguous(), k, None if mask is None else mask.long())
        score, index = out.score, out.index
        if score.size(1) < k:  # there are no more than that
            score = F.pad(score, (0, k - score.size(1)), value=-torch.inf)
            index = F.pad(index, (0, k - index.size(1)), value=-1)
        # Where the cells held fewer, faiss ends in -1, and PyG in any id with a score of -inf.
        none = (index < 0) | (score == -torch.inf)
        score, index = score.masked_fill(none, -torch.inf), index.masked_fill(none, -1)
        short = none.any(dim=1).nonzero().view(-1)
        if short.numel() > 0:
            mask = None if mask is None else _of_rows(mask.long(), short, query.size(0))
            score[short], index[short] = masked_topk(query[short], self.item, k, mask)
        return score, index

    def save(self, path: str | Path) -> None:
        r"""Saves the index to one safetensors file (extra ``[serve]``), atomically.

        Args:
            path (str or Path): The file; its folder must exist.

        Raises:
            ImportError: If safetensors is missing.
            OSError: If the file cannot be written. An old file stays.
        """
        require('safetensors.torch', 'ItemIndex.save')
        tensors = {'item': self.item.cpu().contiguous()}
        if self._cells is not None:
            tensors.update(centroids=self._cells.centroids, cells=self._cells.cells)
        settings = {
            'version': VERSION,
            'cosine': self.cosine,
            'approximate': self.approximate,
            'num_cells_to_visit': self.num_cells_to_visit,
        }
        with atomic_file(path) as part:  # one key, as they are written in any order
            save_tensors(tensors, part, {'settings': json.dumps(settings)})

    @classmethod
    def load(cls, path: str | Path) -> 'ItemIndex':
        r"""Loads a saved index, which gives the same answers. No code from the file is run.

        Args:
            path (str or Path): The file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or not an index.
            ImportError: If safetensors, or faiss for an approximate index, is missing.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no index '{path}'; make one with ItemIndex.save")
        safetensors = require('safetensors', 'ItemIndex.load')
        try:
            with safetensors.safe_open(path, 'pt') as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            settings = json.loads(metadata['settings'])
            if not isinstance(settings, dict) or settings.get('version') != VERSION:
                raise ValueError(f'its version is not {VERSION!r}')
            return cls._restore(tensors, settings)
        except (PermissionError, MemoryError, ImportError):
            raise
        except Exception as e:  # damaged bytes raise nearly any error in a reader
            raise ValueError(
                f"'{path}' must be an index of this package ({e}); save it again"
            ) from e

    @classmethod
    def _restore(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> 'ItemIndex':
        out = cls(tensors['item'])  # scaled already, where it is the cosine
        out.cosine = bool(settings['cosine'])
        out.approximate = bool(settings['approximate'])
        if not out.approximate:
            return out
        centroids, cells = tensors['centroids'], tensors['cells']
        out.num_cells = centroids.size(0)
        out.num_cells_to_visit = int(settings['num_cells_to_visit'])
        if (
            {out.item.dtype, centroids.dtype} != {torch.float32}
            or centroids.size(1) != out.item.size(1)
            or cells.dtype != torch.int64
            or cells.shape != (out.numel,)
            or not 0 <= int(cells.min()) <= int(cells.max()) < out.num_cells
        ):
            raise ValueError('its cells do not fit its items')
        out._cells = out._empty_cells()
        out._cells.restore(out.item, centroids, cells)
        return out

    def _empty_cells(self) -> Any:
        require('faiss', 'an approximate index')
        return CellMIPSKNNIndex(self.num_cells, self.num_cells_to_visit)

    def __repr__(self) -> str:
        cells = ''
        if self.approximate:
            cells = f', num_cells={self.num_cells}, num_cells_to_visit={self.num_cells_to_visit}'
        return (
            f'{self.__class__.__name__}({self.numel}, {self.item.size(1)}, cosine={self.cosine}, '
            f'approximate={self.approximate}{cells})'
        )


def _of_rows(mask: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    r"""The pairs of some ascending rows, with the places of these rows."""
    place = mask.new_full((num_rows,), -1)
    place[rows] = torch.arange(rows.numel())
    row = place[mask[0]]
    return torch.stack([row, mask[1]])[:, row >= 0]
