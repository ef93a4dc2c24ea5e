from importlib.util import find_spec
from typing import Any

import torch
from torch_geometric.data import HeteroData


class CornacVBPR:
    r"""The VBPR of cornac, where it is installed: one epoch of its training on the same edges, with
    the features of all modalities side by side.

    Its paper's model, with biases; batches of the same size.
    """

    name = 'cornac VBPR'

    @staticmethod
    def missing(device: str) -> str | None:
        r"""Returns why it cannot be timed here, if it cannot."""
        if torch.device(device).type != 'cpu':
            return 'timed on CPU only'
        return None if find_spec('cornac') is not None else 'not installed'

    def __init__(self, data: HeteroData) -> None:
        import cornac
        from cornac.data import Dataset, ImageModality

        edges = data['user', 'rates', 'item'].edge_index.t().tolist()
        names = [key for key in data['item'].keys() if key.startswith('x_')]
        features = torch.cat([data['item'][name] for name in names], dim=-1).numpy()
        ids = list(range(features.shape[0]))
        self.train_set = Dataset.from_uir([(u, i, 1.0) for u, i in edges], seed=0)
        modality = ImageModality(features=features, ids=ids, normalized=False)
        modality.build(id_map=self.train_set.iid_map)
        self.train_set.add_modalities(item_image=modality)
        self.make: Any = lambda: cornac.models.VBPR(
            k=64, k2=64, n_epochs=1, batch_size=2048, learning_rate=1e-3, verbose=False, seed=0
        )

    def epoch(self) -> None:
        self.make().fit(self.train_set)
