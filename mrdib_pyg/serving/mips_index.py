from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.pool.knn import KNNIndex


class CellMIPSKNNIndex(KNNIndex):
    r"""The :class:`torch_geometric.nn.pool.ApproxMIPSKNNIndex` without its product quantization:
    items are put into cells around centroids, and a search visits the cells whose centroids have
    the largest inner products with the query. Scores of what it finds are exact.

    Args:
        num_cells (int): The number of cells.
        num_cells_to_visit (int): The number of cells that a search visits.
        emb (torch.Tensor, optional): The data points to add. (default: :obj:`None`)
    """

    def __init__(self, num_cells: int, num_cells_to_visit: int, emb: Tensor | None = None) -> None:
        self.num_cells = num_cells
        self.num_cells_to_visit = num_cells_to_visit
        super().__init__(index_factory=None, emb=emb)

    def _create_index(self, channels: int) -> Any:
        import faiss

        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(channels), channels, self.num_cells, faiss.METRIC_INNER_PRODUCT
        )
        index.nprobe = self.num_cells_to_visit
        index.cp.min_points_per_centroid = 1  # else it writes to stderr of few items
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
