from mrdib_pyg.serving.app import make_app
from mrdib_pyg.serving.export import Export, export, load_export
from mrdib_pyg.serving.export_ogb import export_ogb
from mrdib_pyg.serving.index import Index
from mrdib_pyg.serving.known_pairs import known_pairs
from mrdib_pyg.serving.recommend import Recommendations, recommend
from mrdib_pyg.serving.save_recommendations import save_recommendations
from mrdib_pyg.serving.service import Service

__all__ = [
    'Export',
    'Index',
    'Recommendations',
    'Service',
    'export',
    'export_ogb',
    'known_pairs',
    'load_export',
    'make_app',
    'recommend',
    'save_recommendations',
]
