from mrdib_pyg.datasets.amazon import AmazonReviews, prepare_amazon
from mrdib_pyg.datasets.data_hash import data_hash
from mrdib_pyg.datasets.folder import InteractionFolder
from mrdib_pyg.datasets.hashing_text_encoder import HashingTextEncoder
from mrdib_pyg.datasets.id_map import IdMap
from mrdib_pyg.datasets.load_dataset import DATASETS, load_dataset
from mrdib_pyg.datasets.planted import Planted
from mrdib_pyg.datasets.prepare_report import PrepareReport
from mrdib_pyg.datasets.sentence_text_encoder import SentenceTextEncoder
from mrdib_pyg.datasets.splits import (
    k_core,
    leave_one_out_split,
    random_split,
    split_interactions,
    temporal_split,
)
from mrdib_pyg.datasets.tables import InteractionTable, prepare_table
from mrdib_pyg.datasets.tiktok import TikTok
from mrdib_pyg.datasets.write_folder import write_folder

__all__ = [
    'DATASETS',
    'AmazonReviews',
    'HashingTextEncoder',
    'IdMap',
    'InteractionFolder',
    'InteractionTable',
    'Planted',
    'PrepareReport',
    'SentenceTextEncoder',
    'TikTok',
    'data_hash',
    'k_core',
    'leave_one_out_split',
    'load_dataset',
    'prepare_amazon',
    'prepare_table',
    'random_split',
    'split_interactions',
    'temporal_split',
    'write_folder',
]
