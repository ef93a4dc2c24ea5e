from mrdib_pyg.interactions import known_pairs
from mrdib_pyg.serving.app import make_app
from mrdib_pyg.serving.export import export_model, export_ogb, load_export
from mrdib_pyg.serving.index import ItemIndex
from mrdib_pyg.serving.recommendations import recommend, save_recommendations
from mrdib_pyg.serving.service import Service

__all__ = [
    'ItemIndex',
    'Service',
    'export_model',
    'export_ogb',
    'known_pairs',
    'load_export',
    'make_app',
    'recommend',
    'save_recommendations',
]
