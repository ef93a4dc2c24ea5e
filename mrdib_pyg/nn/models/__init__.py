from mrdib_pyg.nn.models.base import Recommender
from mrdib_pyg.nn.models.multimodal_lightgcn import MultimodalLightGCN
from mrdib_pyg.nn.models.types import Embeddings, Rows, Triplets
from mrdib_pyg.nn.models.vbpr import VBPR

#: The models by the names of the command line.
MODELS: dict[str, type[Recommender]] = {
    'multimodal_lightgcn': MultimodalLightGCN,
    'vbpr': VBPR,
}

__all__ = [
    'MODELS',
    'Embeddings',
    'MultimodalLightGCN',
    'Recommender',
    'Rows',
    'Triplets',
    'VBPR',
]
