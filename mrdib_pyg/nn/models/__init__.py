from mrdib_pyg.nn.models.batch import Embeddings, Triplets
from mrdib_pyg.nn.models.bm3 import BM3
from mrdib_pyg.nn.models.dualgnn import DualGNN
from mrdib_pyg.nn.models.freedom import FREEDOM
from mrdib_pyg.nn.models.lightgcn import LightGCN
from mrdib_pyg.nn.models.mgcn import MGCN
from mrdib_pyg.nn.models.mmgcn import MMGCN
from mrdib_pyg.nn.models.multimodal_lightgcn import MultimodalLightGCN
from mrdib_pyg.nn.models.recommender import Recommender
from mrdib_pyg.nn.models.registry import MODELS, find_model
from mrdib_pyg.nn.models.soil import SOIL
from mrdib_pyg.nn.models.vbpr import VBPR

__all__ = [
    'FREEDOM',
    'MGCN',
    'BM3',
    'DualGNN',
    'LightGCN',
    'MMGCN',
    'MODELS',
    'Embeddings',
    'MultimodalLightGCN',
    'Recommender',
    'SOIL',
    'Triplets',
    'VBPR',
    'find_model',
]
