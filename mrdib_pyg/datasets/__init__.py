from mrdib_pyg.datasets.amazon import AmazonReviews, prepare_amazon
from mrdib_pyg.datasets.catalog import DATASETS, load_dataset
from mrdib_pyg.datasets.folder import InteractionFolder, data_hash, write_folder
from mrdib_pyg.datasets.ids import IdMap
from mrdib_pyg.datasets.planted import Planted
from mrdib_pyg.datasets.splits import split_interactions
from mrdib_pyg.datasets.tables import InteractionTable, prepare_table
from mrdib_pyg.datasets.text import HashingTextEncoder, SentenceTextEncoder
from mrdib_pyg.datasets.tiktok import TikTok

__all__ = [
    'DATASETS',
    'AmazonReviews',
    'HashingTextEncoder',
    'IdMap',
    'InteractionFolder',
    'InteractionTable',
    'Planted',
    'SentenceTextEncoder',
    'TikTok',
    'data_hash',
    'load_dataset',
    'prepare_amazon',
    'prepare_table',
    'split_interactions',
    'write_folder',
]
