from mrdib_pyg.nn.models.base import Recommender
from mrdib_pyg.nn.models.freedom import FREEDOM
from mrdib_pyg.nn.models.mgcn import MGCN
from mrdib_pyg.nn.models.multimodal_lightgcn import MultimodalLightGCN
from mrdib_pyg.nn.models.soil import SOIL
from mrdib_pyg.nn.models.types import Embeddings, Rows, Triplets
from mrdib_pyg.nn.models.vbpr import VBPR

#: The models by the names of the command line.
MODELS: dict[str, type[Recommender]] = {
    'freedom': FREEDOM,
    'mgcn': MGCN,
    'multimodal_lightgcn': MultimodalLightGCN,
    'soil': SOIL,
    'vbpr': VBPR,
}

__all__ = [
    'FREEDOM',
    'MGCN',
    'MODELS',
    'Embeddings',
    'MultimodalLightGCN',
    'Recommender',
    'Rows',
    'SOIL',
    'Triplets',
    'VBPR',
]
