from mrdib_pyg.datasets.data_hash import data_hash
from mrdib_pyg.datasets.folder import InteractionFolder
from mrdib_pyg.datasets.id_map import IdMap
from mrdib_pyg.datasets.load_dataset import DATASETS, load_dataset
from mrdib_pyg.datasets.planted import Planted
from mrdib_pyg.datasets.tiktok import TikTok
from mrdib_pyg.datasets.write_folder import write_folder

__all__ = [
    'DATASETS',
    'IdMap',
    'InteractionFolder',
    'Planted',
    'TikTok',
    'data_hash',
    'load_dataset',
    'write_folder',
]
